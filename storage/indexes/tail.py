"""The tail: the newest part of the indexes, in memory until it is flushed to LMDB in bulk and in order.

All index entries follow from the log, so after a crash the tail is rebuilt from the log.
"""

from array import array
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Final

import msgspec

from ..commit import IdempotencyEntry
from ..evidence.merkle import Nodes, Tree
from ..names import category_of
from ..record import StoredEvent, StreamHead

POSITION: Final = "Q"
"""The type code of an array of positions: eight bytes each, and no objects for the garbage collector to traverse."""


class Placement(msgspec.Struct, frozen=True, gc=False):
    """The place of consecutive events of one stream; versions and positions both count up from the first."""

    stream: str
    first_version: int
    first_position: int
    types: list[str]
    tags: dict[int, tuple[str, ...]]
    """The tags of the events that have any, by the index of the event in the placement."""


class StreamTail(msgspec.Struct, frozen=True, gc=False):
    """The positions of a stream's versions from `first_version` on."""

    first_version: int
    positions: "array[int]"


class Tail:
    """The index entries of the commits after `after` through `through`; both are (position, commit id).

    `tree` is the Merkle tree at `through`; `nodes` are the nodes that became full with these commits.
    """

    def __init__(self, after: tuple[int, int], tree: Tree) -> None:
        self.after = after
        self.through = after
        self.tree = tree
        self.nodes: Nodes = []
        self.heads: dict[str, StreamHead] = {}
        self.streams: dict[str, StreamTail] = {}
        self.types: dict[str, list[int]] = {}
        self.categories: dict[str, list[int]] = {}
        self.tags: dict[str, list[int]] = {}
        self.idempotency: dict[tuple[str, str], IdempotencyEntry] = {}

    @property
    def weight(self) -> int:
        """The number of events and idempotency keys in the tail; a flush begins when it reaches a bound."""
        return self.through[0] - self.after[0] + len(self.idempotency)

    def add(
        self,
        placements: Iterable[Placement],
        heads: Mapping[str, StreamHead],
        idempotency: Iterable[IdempotencyEntry],
        through: tuple[int, int],
        tree: Tree,
        nodes: Nodes,
    ) -> None:
        """Add the index entries of one group commit. Group commits must be added in the order of positions."""
        streams, types, categories = self.streams, self.types, self.categories
        for placement in placements:
            stream, position = placement.stream, placement.first_position
            tail = streams.get(stream)
            if tail is None:
                tail = streams[stream] = StreamTail(placement.first_version, array(POSITION))
            name = category_of(stream)
            category = categories.get(name)
            if category is None:
                category = categories[name] = []
            for event_type in placement.types:
                tail.positions.append(position)
                category.append(position)
                of_type = types.get(event_type)
                if of_type is None:
                    types[event_type] = [position]
                else:
                    of_type.append(position)
                position += 1
            for index, tags in placement.tags.items():
                for tag in tags:
                    self.tags.setdefault(tag, []).append(placement.first_position + index)
        self.heads.update(heads)
        for entry in idempotency:
            self.idempotency[entry.stream, entry.key] = entry
        self.through = through
        self.tree = tree
        self.nodes += nodes


def placements_of(records: Iterable[StoredEvent]) -> tuple[list[Placement], dict[str, StreamHead]]:
    """(placements, heads) of records read from the log, for `Tail.add`."""
    placements = []
    heads = {}
    for stream, run in groupby(records, key=lambda record: record.stream):
        events = list(run)
        tags = {index: event.tags for index, event in enumerate(events) if event.tags}
        types = [event.type for event in events]
        placements.append(Placement(stream, events[0].version, events[0].position, types, tags))
        heads[stream] = StreamHead(stream, events[-1].version, events[-1].position, events[-1].hash)
    return placements, heads
