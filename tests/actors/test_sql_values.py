"""Values in SQL: what a column cannot hold, and what somebody else has put there."""

import pytest
from view_cases import FIRST, Everything, ask, everything, put

from eventsrc import DecodingError
from eventsrc.actors.criteria import RowQuery
from eventsrc.actors.sql_view import SqlViews


@pytest.mark.parametrize("damage", ['{"$bytes":"no base64"}', '{"$bytes":7}'])
def test_a_damaged_value_is_said_to_be(sql: SqlViews, damage: str) -> None:
    table = everything()
    view = sql.open("all", FIRST, [table])
    put(view, table, Everything("a"), Everything("b"))
    with sql.engine.begin() as connection:
        connection.exec_driver_sql(f"UPDATE all_things_g1 SET free = '{damage}' WHERE key = 'b'")
    with view.reading() as reading:
        with pytest.raises(DecodingError, match="A stored row of things does not fit Everything"):
            reading.get(table, ("b",))
        with pytest.raises(DecodingError):
            reading.find(table, RowQuery())
    assert ask(view, table, key="a") == "a"
