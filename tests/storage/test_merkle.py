"""The Merkle tree: as RFC 9162 defines it, whatever the steps in which it grew."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventsrc.storage.evidence.merkle import NODE_LEAVES, Tree, climb, leaf_hash, root_of


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def leaves_of(count: int) -> list[bytes]:
    return [sha256(b"%d" % number) for number in range(count)]


def split(leaves: list[bytes]) -> int:
    """The largest power of two smaller than their number."""
    return 1 << (len(leaves) - 1).bit_length() - 1


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 9162, section 2.1.1, word for word."""
    if not leaves:
        return sha256(b"")
    if len(leaves) == 1:
        return sha256(b"\0" + leaves[0])
    k = split(leaves)
    return sha256(b"\1" + tree_hash(leaves[:k]) + tree_hash(leaves[k:]))


def inclusion_path(index: int, leaves: list[bytes]) -> list[bytes]:
    """RFC 9162, section 2.1.3.1, word for word."""
    if len(leaves) == 1:
        return []
    k = split(leaves)
    if index < k:
        return [*inclusion_path(index, leaves[:k]), tree_hash(leaves[k:])]
    return [*inclusion_path(index - k, leaves[k:]), tree_hash(leaves[:k])]


@pytest.mark.parametrize("size", [*range(35), 63, 64, 65, 1023, 1024, 1025, 2049])
def test_the_root(size: int) -> None:
    assert root_of(leaves_of(size)) == tree_hash(leaves_of(size))


@given(st.lists(st.integers(0, 1500), max_size=6))
def test_it_grows_in_any_steps(steps: list[int]) -> None:
    leaves = leaves_of(sum(steps))
    tree, nodes, at = Tree(), [], 0
    for step in steps:
        tree, more = tree.extended(leaves[at : at + step])
        nodes += more
        at += step
    assert (tree.size, tree.root) == (len(leaves), tree_hash(leaves))
    full = range(len(leaves) // NODE_LEAVES)
    assert nodes == [(each, tree_hash(leaves[each * NODE_LEAVES :][:NODE_LEAVES])) for each in full]


@given(st.integers(1, 300).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1))))
def test_the_path_of_a_leaf(case: tuple[int, int]) -> None:
    size, index = case
    leaves = leaves_of(size)
    assert climb([leaf_hash(leaf) for leaf in leaves], index) == (inclusion_path(index, leaves), tree_hash(leaves))
