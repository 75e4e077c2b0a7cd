"""A question about events across streams, which an append can be made conditional on."""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from .names import category_of
from .record import StoredEvent


def _to_tuple(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True)
class EventQuery:
    """Events after the position `after` that meet every criterion given.

    `types` are stored names (the runtime also takes event classes), of which one must fit; `tags` must all be there;
    `metadata` must hold these values. As the condition of an append it says: only if no event matches. See
    https://dcb.events for what can be kept consistent that way.
    """

    types: tuple[Any, ...] = attrs.field(default=(), converter=_to_tuple)
    tags: tuple[str, ...] = attrs.field(default=(), converter=_to_tuple)
    category: str | None = None
    metadata: Mapping[str, Any] = attrs.field(factory=dict[str, Any])
    after: int = 0

    def matches(self, event: StoredEvent) -> bool:
        """Whether an event meets it."""
        return event.position > self.after and self.fits(
            event.stream, event.type, event.tags, event.metadata if self.metadata else {}
        )

    def fits(self, stream: str, event_type: str, tags: Iterable[str], metadata: Mapping[str, Any]) -> bool:
        """The same for what is known of an event before it has a position."""
        if self.types and event_type not in self.types:
            return False
        if self.category is not None and category_of(stream) != self.category:
            return False
        if self.tags and not set(self.tags) <= set(tags):
            return False
        return all(key in metadata and metadata[key] == value for key, value in self.metadata.items())

    def __str__(self) -> str:
        parts = (
            ("types", ", ".join(map(str, self.types))),
            ("tags", ", ".join(self.tags)),
            ("category", self.category),
            ("metadata", ", ".join(f"{key}={value!r}" for key, value in self.metadata.items())),
        )
        criteria = "; ".join(f"{name} {value}" for name, value in parts if value) or "any event"
        return f"{criteria}, after position {self.after}"
