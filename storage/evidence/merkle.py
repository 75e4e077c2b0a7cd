"""The Merkle tree over the log, hashed as in RFC 9162, section 2.1. Its leaves are the hashes of the events.

`Tree` has only the roots of the full subtrees over the leaves so far, which suffices to add leaves. The roots of the
full subtrees of `NODE_LEAVES` leaves are stored as well, so that a proof does not have to read the whole log.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

NODE_LEVEL: Final = 10
NODE_LEAVES: Final = 1 << NODE_LEVEL
"""The number of leaves under one stored node."""
ROWS_LEAVES_MIN: Final = 128
"""From this number of new leaves on, hashing level by level is faster than leaf by leaf."""
_LEAF: Final = b"\x00"
_INNER: Final = b"\x01"
_sha256 = hashlib.sha256

Nodes = list[tuple[int, bytes]]
"""Full subtrees of `NODE_LEAVES` leaves: (index of the subtree, from 0; its root)."""


class Tree(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A Merkle tree of `size` leaves; `peaks` are the roots of its full subtrees, the largest (and oldest) first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, leaves: Sequence[bytes]) -> "tuple[Tree, Nodes]":
        """(the tree with these leaves added, the nodes that became full and are to be stored)."""
        if len(leaves) >= ROWS_LEAVES_MIN:
            return self._extended_by_rows(leaves)
        nodes: Nodes = []
        size, peaks = self.size, list(self.peaks)
        sha256, leaf_prefix, inner_prefix, pop, push = _sha256, _LEAF, _INNER, peaks.pop, peaks.append
        for leaf in leaves:
            node = sha256(leaf_prefix + leaf).digest()
            size += 1
            # At each level at which the leaf completes a pair, the left subtree of the pair is the newest peak.
            pairs = size
            while not pairs & 1:
                node = sha256(inner_prefix + pop() + node).digest()
                pairs >>= 1
                if pairs << NODE_LEVEL == size:
                    nodes.append((pairs - 1, node))
            push(node)
        return Tree(size, tuple(peaks)), nodes

    def _extended_by_rows(self, leaves: Sequence[bytes]) -> "tuple[Tree, Nodes]":
        sha256, leaf_prefix, inner_prefix = _sha256, _LEAF, _INNER
        nodes: Nodes = []
        left, new = list(self.peaks), []
        # The new nodes of one level, to the right of the peak on that level, if any; then those of the level above.
        row = [sha256(leaf_prefix + leaf).digest() for leaf in leaves]
        size, level = self.size, 0
        while row:
            if level == NODE_LEVEL:
                nodes += enumerate(row, size)
            if size & 1:
                row.insert(0, left.pop())
            if len(row) & 1:
                new.append(row.pop())
            row = [
                sha256(inner_prefix + first + second).digest()
                for first, second in zip(row[::2], row[1::2], strict=True)
            ]
            size >>= 1
            level += 1
        return Tree(self.size + len(leaves), (*left, *reversed(new))), nodes

    @property
    def root(self) -> bytes:
        """The root hash, over all leaves."""
        if not self.peaks:
            return _sha256().digest()
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = _sha256(_INNER + peak + root).digest()
        return root


def leaf_hash(leaf: bytes) -> bytes:
    """The hash of a leaf."""
    return _sha256(_LEAF + leaf).digest()


def root_of(leaves: Sequence[bytes]) -> bytes:
    """The root of the tree over these leaves."""
    return Tree().extended(leaves)[0].root


def climb(row: Sequence[bytes], index: int) -> tuple[list[bytes], bytes]:
    """Climb from subtree `index` of a row to the root: (the sibling hashes on the path, the lowest first; the root).

    `row` has all leaf hashes, or the roots of all subtrees of one size; only the last subtree may be smaller.
    """
    path: list[bytes] = []
    while len(row) > 1:
        if index ^ 1 < len(row):
            path.append(row[index ^ 1])
        pairs = [_sha256(_INNER + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        row = [*pairs, *row[len(row) & ~1 :]]
        index >>= 1
    return path, row[0]
