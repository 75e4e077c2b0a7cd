"""The Merkle tree over the log, hashed as RFC 9162 (section 2.1) says: its leaves are the hashes of the events.

`Tree` is all that it takes to go on: the roots of the full subtrees that the leaves so far make up. The roots of full
subtrees of `NODE_LEAVES` leaves are also stored, so that a proof need not go through the whole log.
"""

import hashlib
from collections.abc import Sequence
from typing import Final

import msgspec

NODE_LEVEL: Final = 10
NODE_LEAVES: Final = 1 << NODE_LEVEL
"""Leaves under one stored node."""
ROWS_LEAVES_MIN: Final = 128
"""From so many new leaves on it is cheaper to hash level by level than leaf by leaf."""
_LEAF: Final = b"\x00"
_INNER: Final = b"\x01"
_sha256 = hashlib.sha256

Nodes = list[tuple[int, bytes]]
"""Full subtrees of `NODE_LEAVES` leaves: which, counted from 0, and its root."""


class Tree(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A Merkle tree of `size` leaves, as the roots of its full subtrees, the largest (and oldest) first."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def extended(self, leaves: Sequence[bytes]) -> "tuple[Tree, Nodes]":
        """The tree with these leaves added, and the stored nodes that are full by them."""
        if len(leaves) >= ROWS_LEAVES_MIN:
            return self._extended_by_rows(leaves)
        nodes: Nodes = []
        size, peaks = self.size, list(self.peaks)
        sha256, leaf_prefix, inner_prefix, pop, push = _sha256, _LEAF, _INNER, peaks.pop, peaks.append
        for leaf in leaves:
            node = sha256(leaf_prefix + leaf).digest()
            size += 1
            # For each level at which the leaf completes a pair, the subtree to the left is the newest peak.
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
        # What is new on one level, to the right of the peak that may be there; then on the level above.
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
        """The hash that stands for all leaves."""
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
    """The root over these leaves."""
    return Tree().extended(leaves)[0].root


def climb(row: Sequence[bytes], index: int) -> tuple[list[bytes], bytes]:
    """From subtree `index` of a row up to the root: (the hashes beside the way, the nearest first; the root).

    A row is all leaf hashes, or the roots of all subtrees of one size; only the last subtree may be smaller.
    """
    path: list[bytes] = []
    while len(row) > 1:
        if index ^ 1 < len(row):
            path.append(row[index ^ 1])
        pairs = [_sha256(_INNER + row[at] + row[at + 1]).digest() for at in range(0, len(row) - 1, 2)]
        row = [*pairs, *row[len(row) & ~1 :]]
        index >>= 1
    return path, row[0]
