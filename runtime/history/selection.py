"""Selects the events of a replay: the mode, the filters, and the end."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias, TypedDict

import attrs

from ...storage.record import StoredEvent
from ...storage.store import EventReader
from ..errors import ArgumentInvalid
from ..events import EventFilter
from .history import position_of, position_of_version

ReplayMode: TypeAlias = Literal["full", "from_snapshot", "selective", "time_travel"]
MODES: Final = ("full", "from_snapshot", "selective", "time_travel")


class ReplayOptions(TypedDict, total=False):
    """Further arguments of `Runtime.replay`: a stream, the filters of a selective replay, the end of a time travel."""

    stream: str | None
    types: Sequence[type | str] | type | str | None
    category: str | None
    tag: str | Sequence[str] | None
    metadata: Mapping[str, Any] | None
    to_version: int | None
    to_position: int | None
    to_time: datetime | None


@attrs.frozen
class Extent:
    """The range of a replay: its positions, and the measure of its progress.

    Progress is measured in versions where one stream is replayed, in positions otherwise.
    """

    begin_position: int
    """The replay begins after this position."""
    end_position: int
    last_position: int
    """The position of the last event, as far as it is known: where one stream is replayed, of its last event."""
    begin: int
    end: int
    by_version: bool
    is_filtered: bool

    @property
    def events_total(self) -> int | None:
        """How many events there are; None where filters apply, since counting would need a look at each event."""
        return None if self.is_filtered else self.end - self.begin

    def share(self, event: StoredEvent) -> float:
        """The share of the replay that is done after this event, 0 to 1."""
        return ((event.version if self.by_version else event.position) - self.begin) / max(self.end - self.begin, 1)


@attrs.frozen(kw_only=True)
class Selection:
    """The events to replay."""

    mode: ReplayMode
    stream: str | None = None
    types: Sequence[type | str] | type | str | None = None
    category: str | None = None
    tag: str | Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    to_version: int | None = None
    to_position: int | None = None
    to_time: datetime | None = None

    def check(self) -> None:
        """Raise `ArgumentInvalid` for an invalid combination, `DefinitionError` for a class that is no event."""
        if self.mode not in MODES:
            raise ArgumentInvalid("mode", self.mode, f"the mode of a replay is one of {', '.join(MODES)}")
        ends = [end for end in (self.to_version, self.to_position, self.to_time) if end is not None]
        if self.mode == "selective" and not self._is_filtered:
            raise ArgumentInvalid("mode", self.mode, "it needs types, a category, a tag or metadata to select by")
        if self.mode != "selective" and self._is_filtered:
            raise ArgumentInvalid("mode", self.mode, "it takes no filter: use the mode 'selective'")
        if (self.mode == "time_travel") != (len(ends) == 1) or len(ends) > 1:
            advice = "a time_travel needs one of to_version, to_position and to_time; other modes take none"
            raise ArgumentInvalid("mode", self.mode, advice)
        if self.mode == "from_snapshot" and self.stream is None:
            raise ArgumentInvalid("mode", self.mode, "it is one of an aggregate: say which, by its stream or itself")
        if self.to_version is not None and self.stream is None:
            advice = "a version is one of an aggregate: say which, by its stream or itself"
            raise ArgumentInvalid("to_version", self.to_version, advice)
        self._wanted()

    def extent(self, store: EventReader, begin_version: int = 0) -> Extent:
        """The range of the replay as of now, for a stream from after `begin_version` on. Raises `NotInHistory`."""
        end = self._end(store)
        if self.stream is None:
            return Extent(0, end, end, 0, end, by_version=False, is_filtered=self._is_filtered)
        begin = position_of_version(store, self.stream, begin_version)
        head = store.head_at(self.stream, end)
        last, last_position = (0, 0) if head is None else (head.version, head.position)
        last = max(last, begin_version)
        return Extent(begin, end, last_position, begin_version, last, by_version=True, is_filtered=self._is_filtered)

    def batches(self, store: EventReader, extent: Extent) -> Iterator[list[StoredEvent]]:
        """The events in bounded batches, some of which may be empty; no transaction is held between batches."""
        return self._wanted().batches(store, extent.begin_position, extent.end_position + 1)

    @property
    def type_names(self) -> Sequence[str]:
        """The stored types that were given by name; given classes are left out, since a class may have no event yet."""
        given = (self.types,) if isinstance(self.types, str | type) else self.types or ()
        return [each for each in given if isinstance(each, str)]

    @property
    def _is_filtered(self) -> bool:
        return any(given is not None for given in (self.types, self.category, self.tag)) or bool(self.metadata)

    def _wanted(self) -> EventFilter:
        return EventFilter.of(
            stream=self.stream, types=self.types, category=self.category, tag=self.tag, metadata=self.metadata
        )

    def _end(self, store: EventReader) -> int:
        """The last position that may be replayed."""
        if self.to_version is not None and self.stream is not None:
            return position_of_version(store, self.stream, self.to_version)
        if self.to_position is not None or self.to_time is not None:
            return position_of(store, position=self.to_position, time=self.to_time)
        return store.last_position
