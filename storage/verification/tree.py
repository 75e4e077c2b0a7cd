"""Verifies the Merkle tree, its stored nodes, and old checkpoints against the log."""

from collections.abc import Iterator, Sequence
from typing import Final, Protocol

import msgspec

from ..environment.environment import Environment, Transaction
from ..evidence.merkle import NODE_LEAVES, Tree
from ..indexes.flush import NODE_KEY, indexed_tree
from .finding import Finding

NODE_SIZE_BYTES: Final = 32


class Statement(Protocol):
    """A statement, kept outside of the store, that the first `size` events of a log have the Merkle root `root`.

    `first` is the hash of the first event, which identifies the log; empty if the log had no event.
    """

    @property
    def size(self) -> int:
        """The number of events."""

    @property
    def root(self) -> bytes:
        """The root of the Merkle tree over these events."""

    @property
    def first(self) -> bytes:
        """The hash of the event at position 1."""


class TreeWalk:
    """Rebuilds the tree group by group, and compares it with every root in the store and in the statements."""

    def __init__(self, environment: Environment, statements: Sequence[Statement] = ()) -> None:
        self._environment = environment
        self._statements = sorted(statements, key=lambda each: each.size)
        self._tree: Tree | None = Tree()
        self._nodes: dict[int, bytes] = {}
        self._differs = False
        self._indexed: Tree | None = None
        self._stored: set[int] = set()
        self._first = b""

    def begin(self, transaction: Transaction) -> list[Finding]:
        """Read the stored tree, to be compared when the walk reaches its size."""
        try:
            self._indexed = indexed_tree(transaction, self._environment.table("meta"))
        except msgspec.MsgspecError as error:
            return [Finding("meta", f"the Merkle tree cannot be read: {error}")]
        return self._check_indexed(Tree())

    def lose(self) -> None:
        """Stop rebuilding the tree: records, and with them leaves, are missing from here on."""
        self._tree = None

    def add(self, position: int, leaves: list[bytes], root: bytes) -> Iterator[Finding]:
        """Add the event hashes of one group, the first of them at `position`; `root` is the root in the group."""
        tree = self._tree
        if tree is None or tree.size != position - 1:
            self._tree = None
            return
        if position == 1 and leaves:
            self._first = leaves[0]
        while self._statements and self._statements[0].size <= tree.size + len(leaves):
            statement = self._statements.pop(0)
            until = statement.size - tree.size
            tree = self._extended(tree, leaves[:until])
            leaves = leaves[until:]
            if tree.root != statement.root:
                yield self._not_the_same(statement)
        self._tree = tree = self._extended(tree, leaves)
        if tree.root != root and not self._differs:
            self._differs = True
            problem = "the events up to the end of this group do not give the Merkle root that it holds"
            yield Finding("tree", problem, position=position)
        yield from self._check_indexed(tree)

    def _extended(self, tree: Tree, leaves: list[bytes]) -> Tree:
        extended, nodes = tree.extended(leaves)
        self._nodes.update(nodes)
        return extended

    def _check_indexed(self, tree: Tree) -> list[Finding]:
        if self._indexed is None or self._indexed.size != tree.size:
            return []
        indexed, self._indexed = self._indexed, None
        if indexed == tree:
            return []
        return [Finding("meta", "the Merkle tree is not that of the events", position=tree.size)]

    def finish(self, events: int) -> Iterator[Finding]:
        """Yield the findings about statements, and a stored tree, that the walk did not reach."""
        for statement in self._statements:
            if self._tree is None:
                problem = f"the checkpoint of {statement.size} events cannot be compared: events before it are missing"
                yield Finding("checkpoint", problem, position=statement.size)
            elif statement.size == 0:
                if statement.root != Tree().root:
                    yield self._not_the_same(statement)
            elif self._is_of_another(statement):
                yield self._not_the_same(statement)
            else:
                problem = (
                    f"the checkpoint is of {statement.size} events, and the log ends at position {events}: its end was "
                    "removed, or an older copy is in its place"
                )
                yield Finding("checkpoint", problem, position=statement.size)
        if self._tree is not None and self._indexed is not None:
            problem = f"the Merkle tree reaches to position {self._indexed.size}, where no group ends"
            yield Finding("meta", problem, position=self._indexed.size)

    def _is_of_another(self, statement: Statement) -> bool:
        return bool(statement.first and self._first and statement.first != self._first)

    def _not_the_same(self, statement: Statement) -> Finding:
        size = statement.size
        if self._is_of_another(statement):
            problem = "the checkpoint is of another store, or the first event was changed: it names another one"
        else:
            problem = f"the first {size} events are not those that the checkpoint was made of: history was changed"
        return Finding("checkpoint", problem, position=size or None)

    def missing(self, indexed_through: int) -> Iterator[Finding]:
        """Yield findings for missing nodes. To be called once the table was walked."""
        if self._tree is not None:
            for index in range(indexed_through // NODE_LEAVES):
                if index not in self._stored:
                    yield Finding("tree", f"node {index} is missing", position=index * NODE_LEAVES + 1)

    def check_node(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        """Compare one stored node."""
        if len(key) != NODE_KEY.size or len(value) != NODE_SIZE_BYTES:
            return [Finding("tree", f"the entry {key!r} is no node")]
        if self._tree is None:
            return []
        (index,) = NODE_KEY.unpack(key)
        self._stored.add(index)
        node = self._nodes.get(index)
        if node == value:
            return []
        position = index * NODE_LEAVES + 1
        if node is not None:
            return [Finding("tree", f"node {index} is not that of its events", position=position)]
        # The node is over events that were appended during the walk, or over none.
        with transaction.cursor(self._environment.table("log")) as cursor:
            end = NODE_KEY.unpack_from(cursor.key())[0] if cursor.last() else 0
        if position + NODE_LEAVES <= end:
            return []
        return [Finding("tree", f"node {index} is of no events", position=position)]
