"""Lookup of records for verification: a record that is missing or damaged is None, not an error."""

from ..environment.environment import Environment, Transaction
from ..group import KEY, Group, GroupDamaged, Record
from ..record import HASH_SIZE_BYTES
from ..records import seek_group


class RecordLookup:
    """Looks up records by position within one transaction; caches the last group."""

    def __init__(self, environment: Environment, transaction: Transaction) -> None:
        self._environment = environment
        self._transaction = transaction
        self._group: Group | None = None

    def at(self, position: int) -> Record | None:
        """The record at a position, or the content of its stub; None if it is missing or damaged."""
        try:
            group = self._group_of(position)
            return None if group is None else group.record(position)
        except GroupDamaged:
            return None

    def hash(self, position: int) -> bytes | None:
        """The hash of the event at a position; None if its group is missing or damaged."""
        try:
            group = self._group_of(position)
        except GroupDamaged:
            return None
        return None if group is None else group.encoded(position)[-HASH_SIZE_BYTES:]

    def _group_of(self, position: int) -> Group | None:
        group = self._group
        if group is not None and group.first_position <= position <= group.last_position:
            return group
        with self._transaction.cursor(self._environment.table("log")) as cursor:
            if not seek_group(cursor, position) or len(cursor.key()) != KEY.size:
                return None
            group = self._group = Group(KEY.unpack(cursor.key())[0], cursor.value())
        return group if group.first_position <= position <= group.last_position else None
