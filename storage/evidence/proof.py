"""A proof that the log holds one event, for whoever has nothing but the root of its Merkle tree."""

import msgspec

from ..indexes.flush import NODE_KEY
from ..reader import LogReader
from ..record import GENESIS_HASH
from .errors import ProofImpossible
from .merkle import NODE_LEAVES, Tree, climb, leaf_hash, root_of


class Proof(msgspec.Struct, frozen=True):
    """That one event is in a log of `size` events with the Merkle root `root`.

    `record` is the event as it is stored, which ends with its hash: SHA-256 over `previous_hash` and all before it.
    `path` are the hashes beside its way from the leaf to the root, the nearest first (RFC 9162, section 2.1.3).
    """

    position: int
    size: int
    root: bytes
    previous_hash: bytes
    record: bytes
    path: tuple[bytes, ...]

    @property
    def data(self) -> dict[str, object]:
        """The same for JSON: bytes as hexadecimal digits."""
        return {
            "position": self.position,
            "size": self.size,
            "root": self.root.hex(),
            "previous_hash": self.previous_hash.hex(),
            "record": self.record.hex(),
            "path": [each.hex() for each in self.path],
        }


def prove(store: LogReader, position: int, *, size: int | None = None) -> Proof:
    """Prove that the event at `position` is in the log, as it is now or as it was with `size` events.

    Raises `ProofImpossible` where there is no such event among so many, `CorruptRecord` where the log is damaged.
    """
    size = store.last_position if size is None else size
    if size > store.last_position or not 0 < position <= size:
        raise ProofImpossible(
            f"{store.path} has {store.last_position:,} events; no event {position:,} can be proved among {size:,}."
        )
    chunk, index = divmod(position - 1, NODE_LEAVES)
    within, _ = climb([leaf_hash(leaf) for leaf in _leaves(store, chunk, size)], index)
    above, root = climb(_nodes(store, size), chunk)
    (event,) = store.read(after=position - 1, limit=1)
    previous_hash = store.event_hash(event.stream, event.version - 1) or GENESIS_HASH
    return Proof(position, size, root, previous_hash, store.encoded(position), (*within, *above))


def root_at(store: LogReader, size: int) -> bytes:
    """The root of the Merkle tree as it was when the log had `size` events, which it has by now."""
    return climb(_nodes(store, size), 0)[1] if size else Tree().root


def _leaves(store: LogReader, chunk: int, size: int) -> list[bytes]:
    first = chunk * NODE_LEAVES
    end = min(first + NODE_LEAVES, size)
    return store.hashes(first + 1, end)


def _nodes(store: LogReader, size: int) -> list[bytes]:
    """The roots of the subtrees of `NODE_LEAVES` leaves; the last may have less."""
    full, rest = divmod(size, NODE_LEAVES)
    with store.environment.read() as transaction:
        table = store.environment.table("tree")
        stored = [transaction.get(NODE_KEY.pack(index), db=table) for index in range(full)]
    nodes = [root_of(_leaves(store, index, size)) if node is None else node for index, node in enumerate(stored)]
    return [*nodes, root_of(_leaves(store, full, size))] if rest else nodes
