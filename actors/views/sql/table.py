"""One table of a view in SQL: its columns and statements, the conversion of rows, and queries as SQL."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, Final

import attrs
import sqlalchemy
from sqlalchemy.dialects import postgresql, sqlite

from ....storage.ordered_key import decode_value
from ...errors import DecodingError, DefinitionError
from ..criteria import Between, Criterion, Equal, OneOf, RowQuery, StartingWith
from ..row_order import RowOrder
from ..row_type import RowType
from .columns import Column, column_of
from .comparison import NoSuchValue, NotInSql, parameter_of
from .json_text import to_json
from .order import Condition, SortedBy, after, by_all_digits, nearest_double, parts_of, zone_first
from .values import Dialect, Translation, decimal_of

ROWS_FETCHED: Final = 1_000
"""How many rows are fetched at a time when Python checks each of them."""
VALUES_MAX: Final = 1_000
"""How many values of a `one_of` are passed to the database; with more, Python checks each row."""
RANGES_MAX: Final = 500
"""The same bound if each value is a range: SQLite takes conditions up to 1,000 deep, and each range adds one level."""

_CODE_POINT_MAX: Final = 0x10FFFF


def columns_of(table: RowType[Any], dialect: Dialect) -> dict[str, Column]:
    """The columns of a table, by field. Raises `DefinitionError` for a key that cannot be one in SQL."""
    fields = attrs.fields(table.row_class)
    columns = {field.name: column_of(table.row_class, field, dialect) for field in fields if field.init}
    for field in table.key_fields:
        column = columns.get(field)
        if column is None or column.is_nullable or not column.is_compared_by_sql:
            raise DefinitionError(
                f"{table.row_class.__name__}.{field} is a key and cannot be one in SQL: annotate it with one of int, "
                "float, str, bool, bytes, date, datetime, timedelta, Decimal, UUID or an enum of them, without None."
            )
    return columns


class SqlTable:
    """A table stored under `name` with columns of these kinds, for rows of a class that may be newer."""

    def __init__(self, table: RowType[Any], name: str, kinds: Mapping[str, str], engine: sqlalchemy.Engine) -> None:
        self.table = table
        self._is_postgresql = engine.dialect.name == "postgresql"
        dialect: Dialect = "postgresql" if self._is_postgresql else "sqlite"
        current = columns_of(table, dialect)
        self.columns = [
            current[field]
            if field in current and current[field].kind == kind
            else Column(field, kind, True, None, dialect)
            for field, kind in kinds.items()
        ]
        self._usable = {column.field: column for column in self.columns if current.get(column.field) is column}
        self._keys = [current[field] for field in table.key_fields]
        self.sql = self._sql_table(name)
        self.is_current = self._usable.keys() == current.keys() == kinds.keys()
        """Whether the columns are those of the row class, so that rows can be written."""
        is_direct = self.is_current and all(column.is_compared_by_sql for column in self.columns)
        self._make = self._maker(is_direct=is_direct)
        self._select = sqlalchemy.select(*self.sql.c)
        if self.is_current:
            self.parameters = self._encoder()
            self.upsert = self._compiled(self._upsert_statement(), engine)
            by_key = [self.sql.c[key.field] == sqlalchemy.bindparam(f"key_{key.field}") for key in self._keys]
            self.delete = self._compiled(sqlalchemy.delete(self.sql).where(*by_key), engine)
            self._get = self._compiled(self._select.where(*by_key), engine)

    # --- rows ---

    def rows(self, fetched: Iterable[Sequence[Any]]) -> list[Any]:
        """Make rows from the driver's values. Raises `DecodingError`."""
        return [self._make(values) for values in fetched]

    def get(self, connection: sqlalchemy.Connection, key: tuple[Any, ...]) -> Any | None:
        """The row with this key. Raises `RowInvalid` for an invalid key, `DecodingError`."""
        self.table.key(key)
        if not all(column.field in self._usable for column in self._keys):
            equal = {field: Equal(value) for field, value in zip(self.table.key_fields, key, strict=True)}
            return next(iter(self.find(connection, RowQuery(equal, limit=1))), None)
        parameters = self._key_parameters(key)
        if parameters is None:
            return None
        if self.is_current:
            found = connection.exec_driver_sql(self._get, parameters).first()
        else:
            by_key = [self.sql.c[key.field] == given for key, given in zip(self._keys, parameters, strict=True)]
            found = connection.execute(self._select.where(*by_key)).first()
        return None if found is None else self._make(found)

    def key_from(self, encoded: bytes) -> tuple[Any, ...] | None:
        """The parameters for a key in its sortable form; None if no row can have the key."""
        values = []
        offset = 0
        try:
            for _ in self._keys:
                value, offset = decode_value(encoded, offset)
                values.append(value)
        except OverflowError:
            # The time is beyond the calendar in UTC.
            return None
        return self._key_parameters(values)

    def _key_parameters(self, key: Sequence[Any]) -> tuple[Any, ...] | None:
        try:
            return tuple(column.key_parameter(value) for column, value in zip(self._keys, key, strict=True))
        except NoSuchValue:
            return None

    def _encoder(self) -> Callable[[Any], tuple[Any, ...]]:
        keys = self.table.key_fields
        parts: list[tuple[str, Translation | None, bool]] = [
            (column.field, column.encoder(is_key=column.field in keys), column.kind == "json")
            for column in self.columns
        ]
        fields = [field for field, _, _ in parts]
        if len(fields) > 1 and not any(encode for _, encode, _ in parts):
            return attrgetter(*fields)
        data_of = self.table.data
        has_json = any(is_json for _, _, is_json in parts)

        def encode_row(row: Any) -> tuple[Any, ...]:
            data = data_of(row) if has_json else {}
            values = []
            for field, encode, is_json in parts:
                if is_json:
                    value = data[field]
                    values.append(None if value is None else to_json(value))
                else:
                    value = getattr(row, field)
                    values.append(value if encode is None else encode(value))
            return tuple(values)

        return encode_row

    def _maker(self, *, is_direct: bool) -> Callable[[Sequence[Any]], Any]:
        row_class, name = self.table.row_class, self.table.name

        def misfit(error: Exception) -> DecodingError:
            return DecodingError(f"A stored row of {name} does not fit {row_class.__name__}: {error}")

        if not is_direct:
            plain = [(column.field, column.plain()) for column in self.columns]

            def structured(values: Sequence[Any]) -> Any:
                pairs = zip(plain, values, strict=True)
                try:
                    data = {field: value if to_plain is None else to_plain(value) for (field, to_plain), value in pairs}
                except Exception as error:
                    raise misfit(error) from error
                return self.table.structure(data)

            return structured
        aliases = {field.name: field.alias for field in attrs.fields(row_class)}
        names = [aliases[column.field] for column in self.columns]
        decoders = [column.decoder() for column in self.columns]
        decodes = any(decoders)

        def made(values: Sequence[Any]) -> Any:
            try:
                if decodes:
                    pairs = zip(decoders, values, strict=True)
                    values = [value if decode is None else decode(value) for decode, value in pairs]
                return row_class(**dict(zip(names, values, strict=True)))
            except Exception as error:
                raise misfit(error) from error

        return made

    # --- queries ---

    def find(self, connection: sqlalchemy.Connection, query: RowQuery) -> list[Any]:
        """The rows that a query selects. Raises `QueryTooLarge`, `QueryInvalid`, `DecodingError`."""
        self._tell_of_scan(query)
        conditions, left = self._conditions(query.criteria)
        statement = self._select.where(*conditions)
        keys = [key.field for key in self._keys]
        if not all(self._sorts(field) for field in (*(order.field for order in query.order), *keys)):
            found = (row for row in self._looked_at(connection, statement) if RowQuery(left).matches(row))
            return RowOrder(self.table, query.order).take(found, query)
        order = self._order(query)
        statement = statement.order_by(*(by.ordered for by in order))
        skipped = query.offset
        if query.last is not None:
            skipped, statement = 0, statement.where(after(order, query.last))
        if not left:
            return self.rows(connection.execute(statement.limit(query.limit).offset(skipped or None)))
        found = (row for row in self._looked_at(connection, statement) if RowQuery(left).matches(row))
        return list(islice(found, skipped, None if query.limit is None else skipped + query.limit))

    def count(self, connection: sqlalchemy.Connection, criteria: Mapping[str, Criterion]) -> int:
        """How many rows meet the criteria."""
        self._tell_of_scan(RowQuery(criteria))
        conditions, left = self._conditions(criteria)
        if left:
            rows = self._looked_at(connection, self._select.where(*conditions))
            return sum(RowQuery(left).matches(row) for row in rows)
        counted = sqlalchemy.select(sqlalchemy.func.count()).select_from(self.sql).where(*conditions)
        return int(connection.execute(counted).scalar_one())

    def _sorts(self, field: str) -> bool:
        return field in self._usable and self._usable[field].is_compared_by_sql

    def _looked_at(self, connection: sqlalchemy.Connection, statement: sqlalchemy.Select[Any]) -> Iterator[Any]:
        with connection.execute(statement, execution_options={"yield_per": ROWS_FETCHED}) as result:
            for values in result:
                yield self._make(values)

    def _conditions(self, criteria: Mapping[str, Criterion]) -> tuple[list[Condition], dict[str, Criterion]]:
        """Returns (conditions for the database, criteria that Python must check afterwards)."""
        conditions: list[Condition] = []
        left: dict[str, Criterion] = {}
        for field, criterion in criteria.items():
            column = self._usable.get(field)
            if column is None or not column.is_compared_by_sql:
                left[field] = criterion
                continue
            if column.is_compared_roughly:
                left[field] = criterion
            try:
                conditions.append(self._condition(column, criterion))
            except NoSuchValue:
                conditions.append(sqlalchemy.false())
            except NotInSql:
                left[field] = criterion
        return conditions, left

    def _condition(self, column: Column, criterion: Criterion) -> Condition:
        match criterion:
            case Equal(value):
                return self._is_one_of(column, (value,))
            case OneOf(values):
                return self._is_one_of(column, values)
            case Between(low, high):
                if column.kind == "boolean":
                    return self._is_one_of(column, [flag for flag in (False, True) if criterion.matches(flag)])
                return self._is_between(column, low, high)
            case StartingWith(prefix):
                return self._starts_with(column, prefix)
        raise NotInSql

    def _is_between(self, column: Column, low: Any, high: Any) -> Condition:
        stored, compared = self.sql.c[column.field], self._compared(column)
        parts: list[Condition] = [stored.is_not(None)]
        if low is not None and self._is_postgresql and column.kind in ("float", "decimal"):
            # To PostgreSQL, NaN is above all numbers.
            parts.append(compared < sqlalchemy.literal_column("'NaN'"))
        for value, is_low in ((low, True), (high, False)):
            bound = None if value is None else column.bound(value, is_low=is_low)
            if bound is None:
                continue
            if column.kind == "datetime":
                # Times with a zone and times without one are not compared.
                parts.append(_is_as_long(stored, bound.parameter))
            end = _roughly(column, bound.parameter, -math.inf if is_low else math.inf)
            if is_low:
                parts.append(compared >= end)
            else:
                parts.append(compared <= end if bound.is_included else compared < end)
        return sqlalchemy.and_(*parts)

    def _is_one_of(self, column: Column, values: Sequence[Any]) -> Condition:
        if len(values) > (RANGES_MAX if column.is_compared_roughly else VALUES_MAX):
            raise NotInSql
        given = [parameter for value in values if value is not None for parameter in column.equals(value)]
        stored, compared = self.sql.c[column.field], self._compared(column)
        parts: list[Condition] = [compared.is_(None)] if any(value is None for value in values) else []
        if column.is_compared_roughly:
            parts += [
                compared.between(_roughly(column, each, -math.inf), _roughly(column, each, math.inf)) for each in given
            ]
        elif given:
            parts.append(stored == given[0] if len(given) == 1 else stored.in_(given))
        return sqlalchemy.or_(*parts) if parts else sqlalchemy.false()

    def _starts_with(self, column: Column, prefix: str) -> Condition:
        if column.kind != "text" or (column.members is not None and not issubclass(column.members, str)):
            return sqlalchemy.false()
        stored = self.sql.c[column.field]
        if not prefix:
            return stored.is_not(None)
        first, beyond = parameter_of("text", prefix, column.dialect), _after_all_with(prefix)
        return stored >= first if beyond is None else sqlalchemy.and_(stored >= first, stored < beyond)

    def _compared(self, column: Column) -> Any:
        stored = self.sql.c[column.field]
        return nearest_double(stored) if column.is_compared_roughly else stored

    def _order(self, query: RowQuery) -> list[SortedBy]:
        """The query's order, or else that of LMDB views; then the key, so that the pages of a query fit together."""
        wanted = [(order.field, order.descending) for order in query.order]
        if not wanted:
            indexed = [field for field in query.criteria if field in self.table.indexes and self._sorts(field)]
            indexed.sort(key=lambda field: _narrowness(query.criteria[field]))
            wanted = [(field, False) for field in indexed[:1]]
        is_descending = bool(wanted) and wanted[-1][1]
        wanted += [(key.field, is_descending) for key in self._keys if key.field not in {field for field, _ in wanted}]
        return [by for field, descending in wanted for by in self._sorted_by(self._usable[field], descending)]

    def _sorted_by(self, column: Column, descending: bool) -> list[SortedBy]:
        nulls_move = self._is_postgresql and column.is_nullable
        is_key = column.field in self.table.key_fields
        stored = self.sql.c[column.field]
        return [SortedBy(column, stored, part, descending, nulls_move, is_key) for part in parts_of(column)]

    def _tell_of_scan(self, query: RowQuery) -> None:
        served, order = {*self.table.indexes, self.table.key_fields[0]}, [by.field for by in query.order]
        if not served.isdisjoint(query.criteria):
            return
        # An index on the first field is enough: few rows are equal in it and have to be sorted.
        scanned = [*query.criteria, *(order if served.isdisjoint(order[:1]) else ())]
        if scanned:
            self.table.tell_of_scan(scanned)

    # --- statements ---

    def _sql_table(self, name: str) -> sqlalchemy.Table:
        keys = self.table.key_fields
        columns: list[sqlalchemy.Column[Any]] = [
            sqlalchemy.Column(
                column.field,
                column.sql_type,
                nullable=column.is_nullable,
                autoincrement=False,
            )
            for column in self.columns
        ]
        primary = [sqlalchemy.PrimaryKeyConstraint(*keys)] if all(key in self._usable for key in keys) else []
        metadata = sqlalchemy.MetaData()
        return sqlalchemy.Table(name, metadata, *columns, *primary, sqlite_with_rowid=False, sqlite_strict=True)

    def create(self, connection: sqlalchemy.Connection, name_of_index: Callable[[str], str]) -> None:
        """Create the table with its indexes."""
        for field in dict.fromkeys([*self.table.indexes, self.table.key_fields[0]]):
            column = self._usable[field]
            if not column.is_compared_by_sql:
                continue
            parts = [by for by in self._sorted_by(column, False) if by.part is not by_all_digits]
            ordered = [by.ordered if column.is_nullable else by.compared for by in parts]
            if field in self.table.indexes:
                sqlalchemy.Index(name_of_index(field), ordered[-1])
            if len(ordered) > 1:
                # The index above, or the primary key, finds times, for outside queries as well; this index sorts them.
                sqlalchemy.Index(name_of_index(f"{field}-order"), *ordered)
        self.sql.create(connection)

    def _upsert_statement(self) -> Any:
        insert = (postgresql.insert if self._is_postgresql else sqlite.insert)(self.sql)
        keys = self.table.key_fields
        changed = {column.field: insert.excluded[column.field] for column in self.columns if column.field not in keys}
        if not changed:
            return insert.on_conflict_do_nothing(index_elements=list(keys))
        return insert.on_conflict_do_update(index_elements=list(keys), set_=changed)

    def _compiled(self, statement: Any, engine: sqlalchemy.Engine) -> str:
        compiled = statement.compile(engine)
        given = [name.removeprefix("key_") for name in compiled.positiontup]
        assert given in ([column.field for column in self.columns], list(self.table.key_fields)), given
        return str(compiled)


def _is_as_long(stored: Any, time: str) -> Condition:
    """The condition that a stored time has a zone if this one has, and none if this one has none."""
    condition: Condition = zone_first(stored) == -len(time)
    return condition


def _roughly(column: Column, bound: Any, towards: float) -> Any:
    """A bound, widened if it is compared as a double: databases differ in a double's last digit."""
    if bound is None or not column.is_compared_roughly:
        return bound
    number = float(decimal_of(bound))
    for _ in range(4):
        number = math.nextafter(number, towards)
    return number


def _after_all_with(prefix: str) -> str | None:
    """The first text after all texts that begin with `prefix`; None if there is none."""
    while prefix:
        last = ord(prefix[-1])
        if last < _CODE_POINT_MAX:
            # Surrogates are not characters.
            return prefix[:-1] + chr(0xE000 if last == 0xD7FF else last + 1)
        prefix = prefix[:-1]
    return None


def _narrowness(criterion: Criterion) -> int:
    """The rank of a criterion for choosing the index; an LMDB view tries lower ranks first."""
    return 0 if isinstance(criterion, Equal) else 1 if isinstance(criterion, OneOf) else 2
