"""Proofs that the log holds an event, which can be checked with nothing but the root of its Merkle tree."""

import msgspec

from ..indexes.flush import NODE_KEY
from ..reader import LogReader
from ..record import GENESIS_HASH
from .errors import ProofImpossible
from .merkle import NODE_LEAVES, Tree, climb, leaf_hash, root_of


class Proof(msgspec.Struct, frozen=True):
    """Proves that a log of `size` events with the Merkle root `root` has the event at `position`.

    `record` is the stored event. Its last 32 bytes are its hash: SHA-256 over `previous_hash` and the bytes of the
    record before the hash. `path` has the sibling hashes on the path from the leaf to the root, the lowest first (RFC
    9162, section 2.1.3).
    """

    position: int
    size: int
    root: bytes
    previous_hash: bytes
    record: bytes
    path: tuple[bytes, ...]

    @property
    def data(self) -> dict[str, object]:
        """The proof as data for JSON, with bytes in hexadecimal."""
        return {
            "position": self.position,
            "size": self.size,
            "root": self.root.hex(),
            "previous_hash": self.previous_hash.hex(),
            "record": self.record.hex(),
            "path": [each.hex() for each in self.path],
        }


def prove(store: LogReader, position: int, *, size: int | None = None) -> Proof:
    """Prove that the log has the event at `position`, as of `size` events, or as of now.

    Raises `ProofImpossible` if the log has fewer than `size` events or `position` is not among them, `CorruptRecord` if
    the log is damaged, `ArchiveUnreachable` if the event was compacted and cannot be read.
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
    """The root of the Merkle tree over the first `size` events. The log must have at least `size` events."""
    return climb(_nodes(store, size), 0)[1] if size else Tree().root


def _leaves(store: LogReader, chunk: int, size: int) -> list[bytes]:
    first = chunk * NODE_LEAVES
    end = min(first + NODE_LEAVES, size)
    return store.hashes(first + 1, end)


def _nodes(store: LogReader, size: int) -> list[bytes]:
    """The roots of the subtrees of `NODE_LEAVES` leaves over the first `size` events; the last may be smaller."""
    full, rest = divmod(size, NODE_LEAVES)
    with store.environment.read() as transaction:
        table = store.environment.table("tree")
        stored = [transaction.get(NODE_KEY.pack(index), db=table) for index in range(full)]
    nodes = [root_of(_leaves(store, index, size)) if node is None else node for index, node in enumerate(stored)]
    return [*nodes, root_of(_leaves(store, full, size))] if rest else nodes
