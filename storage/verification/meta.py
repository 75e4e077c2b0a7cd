"""Verifies the table `meta`: the format, the reach of the indexes, the segment numbers."""

import msgspec

from ..archive.segment_numbers import SEGMENTS_KEY, SegmentNumbers, segment_numbers
from ..environment.environment import Environment, Transaction
from ..environment.store_format import FORMAT_NAME, FORMAT_VERSION
from ..group import KEY
from ..indexes.flush import INDEXED_THROUGH_KEY, TREE_KEY, indexed_through, indexed_tree
from .finding import Finding
from .log import LogWalk

FIXED: dict[bytes, bytes] = {b"format": FORMAT_NAME, b"version": str(FORMAT_VERSION).encode()}
"""The rows that have a fixed value."""


def begin(environment: Environment, transaction: Transaction, walk: LogWalk) -> list[Finding]:
    """Set the ends of the log and of its indexes for the walk, as of now; return findings about them."""
    with transaction.cursor(environment.table("log")) as cursor:
        if cursor.last() and len(cursor.key()) == KEY.size:
            walk.last_key = cursor.key()
    last_position = walk.position_of_last(transaction)
    try:
        through, commit_id = indexed_through(transaction, environment.table("meta"))
    except (msgspec.MsgspecError, ValueError):
        through = commit_id = 0
    walk.indexed_through, walk.indexed_commit_id = through, commit_id
    at_last_key = int(KEY.unpack(walk.last_key)[0]) if walk.last_key else 0
    walk.last_position = max(through, at_last_key) if last_position is None else last_position
    if through <= walk.last_position:
        return []
    walk.indexed_through = walk.last_position
    problem = f"the indexes reach to position {through}, but the log ends at position {walk.last_position}"
    return [Finding("meta", problem, position=walk.last_position)]


class MetaCheck:
    """Checks that each row can be read and is consistent with the others."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def __call__(self, transaction: Transaction, key: bytes, value: bytes) -> list[Finding]:
        meta = self._environment.table("meta")
        try:
            if key in FIXED:
                problem = "" if value == FIXED[key] else f"it should be {FIXED[key]!r}"
            elif key == INDEXED_THROUGH_KEY:
                problem = self._problem_of_reach(transaction)
            elif key == TREE_KEY:
                problem = ""  # `TreeWalk`, which rebuilds the tree, checks this row
            elif key == SEGMENTS_KEY:
                problem = _problem_of_numbers(segment_numbers(transaction, meta))
            else:
                problem = "no such row is known"
        except (msgspec.MsgspecError, ValueError) as error:
            problem = f"it cannot be read: {error}"
        return [Finding("meta", f"the row {key.decode(errors='replace')!r}: {problem}")] if problem else []

    def _problem_of_reach(self, transaction: Transaction) -> str:
        meta = self._environment.table("meta")
        position, _ = indexed_through(transaction, meta)
        try:
            size = indexed_tree(transaction, meta).size
        except msgspec.MsgspecError:
            return ""
        return "" if size == position else f"it says position {position}, and the Merkle tree beside it {size}"


def missing(environment: Environment) -> list[Finding]:
    """Findings for missing rows that every store has."""
    with environment.read() as transaction:
        rows = [key for key in FIXED if transaction.get(key, db=environment.table("meta")) is None]
        # These two rows are always written together.
        meta = environment.table("meta")
        reach, tree = (transaction.get(key, db=meta) is not None for key in (INDEXED_THROUGH_KEY, TREE_KEY))
        if reach != tree:
            rows.append(TREE_KEY if reach else INDEXED_THROUGH_KEY)
    return [Finding("meta", f"the row {key.decode()!r} is missing") for key in rows]


def _problem_of_numbers(numbers: SegmentNumbers) -> str:
    unused = numbers.unused
    if len(set(unused)) < len(unused):
        return "a number is listed twice"
    if not all(0 < number <= numbers.last for number in unused):
        return f"the numbers {unused} are to be dropped, but {numbers.last} is the highest that was given out"
    return ""
