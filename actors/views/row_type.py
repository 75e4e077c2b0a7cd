"""A table made ready to run: the encoding of its rows, and their keys and indexed values."""

import copy
import enum
import hashlib
import logging
import reprlib
import typing
from collections.abc import Collection, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar
from uuid import UUID

import attrs
import msgspec

from ...storage.ordered_key import NotOrdered, encode_indexed, encode_key
from ..errors import DecodingError, DefinitionError
from ..projections.projection import Table
from ..serialization.annotations import alternatives, field_types, has_fields
from ..serialization.came_back import is_changed
from ..serialization.exact_fields import ExactFields, values_getter
from ..serialization.immutable import is_immutable
from ..serialization.schema import schema_of
from ..serialization.serializer import Serializer
from .criteria import Criterion, OneOf, criteria_of
from .errors import QueryInvalid, RowInvalid

R = TypeVar("R")
logger = logging.getLogger("eventsrc.views")
_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder().decode


class RowType(Generic[R]):
    """What a view knows of one table.

    Raises `SchemaError` if a field of its rows cannot be turned into data, `DefinitionError` for a key or an index over
    values without an order.
    """

    def __init__(self, table: Table[R], serializer: Serializer) -> None:
        self.table = table
        self.row_class = table.row_class
        self.name = table.name
        self.key_fields = table.key
        self.indexes: tuple[str, ...] = table.indexes
        self.fields = frozenset(field.name for field in attrs.fields(table.row_class))  # type: ignore[arg-type]
        types = field_types(table.row_class)
        self._single = {name for name, hint in types.items() if all(map(_is_single, alternatives(hint)))}
        for name in (*table.key, *table.indexes):
            self._check_order(name, types[name])
        # Deeply immutable rows may be kept from one batch to the next, and handed out.
        self.is_immutable = is_immutable(table.row_class)
        serializer.prepare(table.row_class)
        # Nothing is sealed in a view: it is rebuilt when a subject is forgotten.
        self._unstructure, self._structure = serializer.plain_functions(table.row_class)
        self._serializer = serializer
        self._key_of = values_getter(table.key)
        self._exact_fields = ExactFields(table.row_class, serializer)
        self._advice = ""

    def _check_order(self, field: str, hint: Any) -> None:
        kinds = [each for each in alternatives(hint) if each is not type(None)]
        if kinds and all(map(_holds_others, kinds)):
            raise DefinitionError(
                f"{field} of {self.name} can be neither a key nor an index: {hint} has no order that can be stored. "
                "Take a field of its own for what is looked for, or a table with a row for each item."
            )

    @property
    def schema(self) -> str:
        """Identifies the shape of the rows and of the classes in them, so that a view of another shape is noticed."""
        shape = schema_of(self.row_class)
        declared = f"{self.name}|{','.join(self.key_fields)}|{','.join(self.indexes)}|{shape}"
        return hashlib.sha256(declared.encode()).hexdigest()[:16]

    def for_older_rows(self) -> "RowType[R]":
        """This table for a view of an older class: the view may lack the indexes, so queries look at every row."""
        other = copy.copy(self)
        other.indexes = ()
        other._advice = " It is of an older class, and its view is being built anew: ask again when that is done."
        return other

    def criteria(self, given: Mapping[str, Any]) -> dict[str, Criterion]:
        """Turn the keyword arguments of `where` into criteria.

        Raises `QueryInvalid` for a field that the rows do not have, a signalling NaN, or a list for a field that never
        holds one.
        """
        criteria = criteria_of(self.fields, self.name, given)
        for field in criteria.keys() & self._single:
            criterion = criteria[field]
            values = criterion.values if isinstance(criterion, OneOf) else (getattr(criterion, "value", None),)
            for value in values:
                if isinstance(value, list | tuple | set | frozenset):
                    raise QueryInvalid(
                        f"{field} of {self.name} is never a {type(value).__name__}, such as {value!r:.100}. For rows "
                        f"with one of its items write {field}=one_of(*items)."
                    )
        return criteria

    def tell_of_scan(self, fields: Iterable[str]) -> None:
        """Log, at the debug level, that a query by these fields looks at every row."""
        asked, indexes = sorted(set(fields)), list(self.indexes)
        logger.debug(
            "a query looks at every row: %s by %s, and the indexes are on %s",
            *(self.name, ", ".join(asked), ", ".join(indexes) or "nothing"),
            extra={"table": self.name, "fields": asked, "indexes": indexes},
        )

    def checked(self, row: R) -> R:
        """The row as it will be read again: itself, or a copy if it is mutable or not exactly as declared.

        Raises `RowInvalid` for an object that is no row of this table, or would come back as another row.
        """
        if type(row) is not self.row_class:
            raise RowInvalid(f"{self.name} holds rows of {self.row_class.__name__}, not {type(row).__name__}: {row!r}")
        return row if self._exact_fields.hold(row) else self._copy(row)

    def key(self, values: tuple[Any, ...]) -> bytes:
        """The key for these values. Raises `RowInvalid`."""
        if len(values) != len(self.key_fields):
            raise RowInvalid(
                f"The key of {self.name} is {', '.join(self.key_fields)}: {len(self.key_fields)} values, not {values!r}"
            )
        try:
            return encode_key(values)
        except NotOrdered as error:
            raise RowInvalid(f"{reprlib.repr(values)} cannot be a key of {self.name}: {error}") from error

    def key_values(self, row: R) -> tuple[Any, ...]:
        """The values of a row's key fields."""
        values: tuple[Any, ...] = self._key_of(row)
        return values

    def indexed(self, row: R) -> tuple[bytes, ...]:
        """The row's indexed values, in the order of `indexes`. Raises `RowInvalid`."""
        field = ""
        try:
            entries = []
            for field in self.indexes:
                entries.append(encode_indexed(getattr(row, field)))
            return tuple(entries)
        except NotOrdered as error:
            raise RowInvalid(
                f"{field}={getattr(row, field)!r} of {self.name} cannot be indexed: {error}", row
            ) from error

    def own(self, row: R) -> R:
        """A row that was checked; if it is mutable, a copy that nobody else has. Raises `RowInvalid`."""
        return row if self.is_immutable else self._copy(row)

    def _copy(self, row: R) -> R:
        value = self.encode(row)
        try:
            data = _decode(value)
        except Exception as error:
            raise RowInvalid(f"A row of {self.name} cannot be read again: {error}: {row!r}", row) from error
        try:
            again: R = self._structure(data, self.row_class)
        except Exception as error:
            reason = self._serializer.explain(data, self.row_class, error)
            raise RowInvalid(
                f"A row of {self.name} does not fit {self.row_class.__name__}: {reason}: {row!r}", row
            ) from error
        try:
            is_same = again == row
        except ArithmeticError as error:
            what = "has a signalling NaN, which cannot be compared with anything"
            raise RowInvalid(f"A row of {self.name} {what}: {row!r}", row) from error
        # A row without equality or with NaN is compared as bytes; a row with a list for a tuple, or 1 for 1.0, as data.
        is_same = is_same or (
            ((other := self.encode(again)) == value or _decode(other) == data) and not is_changed(row, again)
        )
        if not is_same:
            raise RowInvalid(f"A row of {self.name} would come back as another: {again!r} instead of {row!r}", row)
        return again

    def data(self, row: R) -> dict[str, Any]:
        """Turn a row into plain data. Raises `RowInvalid`."""
        try:
            data: dict[str, Any] = self._unstructure(row)
            return data
        except Exception as error:
            raise RowInvalid(f"A row of {self.name} cannot be turned into data: {error}: {row!r}", row) from error

    def encode(self, row: R) -> bytes:
        """Turn a row into bytes. Raises `RowInvalid`."""
        try:
            return _encode(self._unstructure(row))
        except Exception as error:
            raise RowInvalid(f"A row of {self.name} cannot be stored: {error}: {row!r}", row) from error

    def decode(self, value: bytes) -> R:
        """Make a row from its bytes. Raises `DecodingError`."""
        return self.structure(_decode(value))

    def structure(self, data: Any) -> R:
        """Make a row from plain data. Raises `DecodingError`."""
        try:
            row: R = self._structure(data, self.row_class)
            return row
        except Exception as error:
            reason = self._serializer.explain(data, self.row_class, error)
            raise DecodingError(
                f"A stored row of {self.name} does not fit {self.row_class.__name__}: {reason}.{self._advice}"
            ) from error


def _is_single(hint: Any) -> bool:
    """Whether values of this type hold no other values."""
    kinds = (str, bytes, int, float, Decimal, date, time, timedelta, UUID, enum.Enum, type(None))
    return isinstance(hint, type) and issubclass(hint, kinds)


def _holds_others(hint: Any) -> bool:
    """Whether it is a type whose values are made of others."""
    kind = typing.get_origin(hint) or hint
    return isinstance(kind, type) and (
        has_fields(kind) or (issubclass(kind, Collection) and not issubclass(kind, str | bytes | enum.Enum))
    )
