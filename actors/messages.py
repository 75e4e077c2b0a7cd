"""The vocabulary of a domain: commands, which ask for something, and events, which say that something happened."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeAlias, TypeVar, dataclass_transform, overload

import attrs

from ..storage.limits import IDEMPOTENCY_WINDOW_SECONDS_MAX
from ..storage.record import Kind
from .callables import takes_one
from .errors import DefinitionError
from .message_class import frozen_class

C = TypeVar("C")
Upcaster: TypeAlias = Callable[[dict[str, Any]], Mapping[str, Any]] | Callable[[Any], Mapping[str, Any]]
"""Turns the payload of one version, a dict, into the payload of the next. It may change the dict that it is given.

The second form lets the parameter be a `TypedDict`, which is no `dict[str, Any]` to type checkers.
"""

EVENT_NAME: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}")
_COMMAND: Final = "__eventsrc_command__"
_EVENT: Final = "__eventsrc_event__"
DECLARED_KINDS: Final = ("created", "updated", "deleted")
SAGA_STEP: Final = "saga_step"
"""The kind of the records that a saga stores in its own stream."""
RESERVED_NAMES: Final = ("saga.", "eventsrc.")
"""The prefixes of the stored names of the runtime's own events."""


@attrs.frozen
class CommandDefinition:
    """What `@command` declares for a class. An `idempotency_window_seconds` of None means the runtime's default."""

    name: str
    idempotency_window_seconds: float | None


@attrs.frozen
class EventDefinition:
    """What `@event` declares for a class: stored name, schema version, kind, tags and upcasters."""

    name: str
    version: int
    kind: Kind | None
    tags: Callable[[Any], Iterable[str]] | None
    upcasters: Mapping[int, Upcaster]
    """By the version that each upcaster starts from; one for every version before `version`."""


@overload
def command(cls: type[C], /) -> type[C]: ...
@overload
def command(*, idempotency_window_seconds: float | None = None) -> Callable[[type[C]], type[C]]: ...
@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def command(
    cls: type[C] | None = None, /, *, idempotency_window_seconds: float | None = None
) -> type[C] | Callable[[type[C]], type[C]]:
    """Make a class a command: a frozen attrs class of its annotated fields.

    Args:
        cls: the class, when used as `@command`.
        idempotency_window_seconds: how long the command's idempotency keys are remembered, instead of the runtime's
            default.

    Raises:
        DefinitionError: if the window is not positive or is longer than a hundred years, or if no attrs class can be
            made of the class: of one that has a decorator or a metaclass for its fields already, or its own `__init__`.

    """
    window = idempotency_window_seconds
    is_number = isinstance(window, int | float) and not isinstance(window, bool)
    if window is not None and not (is_number and 0 < window <= IDEMPOTENCY_WINDOW_SECONDS_MAX):
        raise DefinitionError(
            f"idempotency_window_seconds must be positive, and at most a hundred years, not {window!r}"
        )

    def decorate(decorated: type[C]) -> type[C]:
        frozen = frozen_class(decorated, "@command")
        setattr(frozen, _COMMAND, CommandDefinition(frozen.__name__, idempotency_window_seconds))
        return frozen

    return decorate if cls is None else decorate(cls)


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def event(
    name: str,
    *,
    version: int = 1,
    kind: Kind | None = None,
    tags: Callable[[Any], Iterable[str]] | None = None,
    upcasters: Mapping[int, Upcaster] | None = None,
) -> Callable[[type[C]], type[C]]:
    """Make a class an event: a frozen attrs class of its annotated fields, stored under its own name.

    Args:
        name: the stored name. It stays when the class is renamed or moved.
        version: the schema version, which is stored with every event. Raise it when a field is renamed, removed, or
            changes its meaning. A new field with a default needs no new version: older events get the default.
        kind: "created", "updated" or "deleted"; by default the first event of a stream is "created", others "updated".
        tags: gives the tags of an event, by which it is found across streams: `lambda event: [f"user:{event.user}"]`.
        upcasters: for each earlier version, the function that turns a payload of that version into one of the next:
            `{1: lambda old: {"amount": old["cents"] / 100}}`. Stored events are not rewritten, so the upcaster is
            called on every read: its result must depend on the payload alone.

    Raises:
        DefinitionError: for a name, version or kind that cannot be stored, tags that cannot be called, an earlier
            version without an upcaster, an upcaster that does not take a payload alone, use without a name, or a class
            of which no attrs class can be made (see `command`).

    """
    if not isinstance(name, str):
        raise DefinitionError(
            f"@event needs the name that {getattr(name, '__name__', name)} is stored with: "
            '@event("account.deposited"). Stored names outlive the names of classes.'
        )
    if not EVENT_NAME.fullmatch(name):
        raise DefinitionError(
            f"{name!r} cannot be the stored name of an event: use 1 to 200 lower-case letters, digits, dots, dashes "
            "and underscores, beginning with a letter or digit."
        )
    if name.startswith(RESERVED_NAMES):
        raise DefinitionError(
            f"{name!r} cannot be the stored name of an event: those that begin with {' or '.join(RESERVED_NAMES)} are "
            "the runtime's own. Give it another."
        )
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise DefinitionError(f"the version of event {name!r} must be a whole number from 1 on, not {version!r}")
    if kind is not None and kind not in DECLARED_KINDS:
        raise DefinitionError(f"the kind of event {name!r} must be one of {', '.join(DECLARED_KINDS)}, not {kind!r}")
    if tags is not None and not takes_one(tags, may_yield=True):
        raise DefinitionError(
            f"the tags of event {name!r} are had from each event by a function of it that is not async, not "
            f'{tags!r:.100}: tags=lambda event: [f"user:{{event.user}}"]'
        )
    _check_upcasters(name, version, {} if upcasters is None else upcasters)
    return _declare(EventDefinition(name, version, kind, tags, dict(upcasters or {})))


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def own_event(name: str, *, kind: Kind) -> Callable[[type[C]], type[C]]:
    """Make a class an event of the runtime itself: like `event`, but the name may begin with a reserved prefix."""
    return _declare(EventDefinition(name, 1, kind, None, {}))


@dataclass_transform(frozen_default=True, field_specifiers=(attrs.field,))
def saga_record(name: str) -> Callable[[type[C]], type[C]]:
    """Make a class a record that a saga stores in its own stream."""
    return own_event(name, kind=SAGA_STEP)


def _check_upcasters(name: str, version: int, upcasters: Mapping[int, Upcaster]) -> None:
    if not isinstance(upcasters, Mapping):
        raise DefinitionError(
            f"the upcasters of event {name!r} are given by the version that each leads from, not {upcasters!r:.100}: "
            "upcasters={1: function}"
        )
    for earlier, upcaster in upcasters.items():
        if type(earlier) is not int:
            raise DefinitionError(
                f"the upcasters of event {name!r} are given by whole numbers, the version that each leads from, not by "
                f"{earlier!r}: upcasters={{1: function}}"
            )
        if not 0 < earlier < version:
            raise DefinitionError(
                f"event {name!r} has version {version}, so none of its upcasters can lead from version {earlier} to "
                "the next. Raise the version, or leave that upcaster out."
            )
        if not takes_one(upcaster):
            raise DefinitionError(
                f"the upcaster of event {name!r} from version {earlier} is a function, neither async nor a generator, "
                f"that takes a payload alone and returns that of version {earlier + 1}, not {upcaster!r:.100}"
            )
    missing = next((earlier for earlier in range(1, version) if earlier not in upcasters), None)
    if missing is not None:
        raise DefinitionError(
            f"event {name!r} has version {version} and no upcaster from version {missing}, so events that were "
            f"stored with that could not be read. Write upcasters={{{missing}: function}}; the function is given "
            f"their payload as a dict, and returns that of version {missing + 1}."
        )


def _declare(definition: EventDefinition) -> Callable[[type[C]], type[C]]:
    def decorate(decorated: type[C]) -> type[C]:
        frozen = frozen_class(decorated, "@event")
        setattr(frozen, _EVENT, definition)
        return frozen

    return decorate


def command_definition(cls: type) -> CommandDefinition | None:
    """The `@command` declaration of exactly this class; None for a class without one, even if its parent has one."""
    declared: CommandDefinition | None = cls.__dict__.get(_COMMAND)
    return declared


def event_definition(cls: type) -> EventDefinition | None:
    """The `@event` declaration of exactly this class; None for a class without one, even if its parent has one."""
    declared: EventDefinition | None = cls.__dict__.get(_EVENT)
    return declared


def check_names(event_classes: Iterable[type]) -> None:
    """Raise `DefinitionError` if two of the classes have the same stored name: one would be read as the other."""
    by_name: dict[str, type] = {}
    for event_class in event_classes:
        name = stored_name(event_class)
        other = by_name.setdefault(name, event_class)
        if other is not event_class:
            raise DefinitionError(
                f"{other.__name__} and {event_class.__name__} are both stored as {name!r}, so one would be read as the "
                "other. Give one of them another name."
            )


def stored_name(event: type | str) -> str:
    """The stored name of an event class; a name is returned unchanged. Raises `DefinitionError` for any other class."""
    return event if isinstance(event, str) else _declared(event).name


def stored_version(event: type) -> int:
    """The schema version that events of this class are stored with. Raises `DefinitionError` for any other class."""
    return _declared(event).version


def _declared(event: type) -> EventDefinition:
    stored = event_definition(event)
    if stored is None:
        raise DefinitionError(f"{event.__name__} is not an @event class, so it has no stored name.")
    return stored
