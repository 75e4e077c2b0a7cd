"""What a view is built by: the version of its class, the shape of its rows, and the last subject that was forgotten."""

from collections.abc import Iterable
from typing import Any, Final

import attrs

from ...actors.projections.projection import Projection
from ...actors.serialization.personal import has_personal_data
from ...actors.subjects import SubjectForgotten
from ...actors.views.row_type import RowType
from ...actors.views.view_store import Generation

_FORGOTTEN: Final = ";forgotten@"
"""In the stored schema of a generation, before `forgotten_position`."""


@attrs.frozen
class ViewSchema:
    """Tells which stored generations of a view may answer.

    One that was begun before a subject was forgotten may show what is to be forgotten: `forgotten_position` is where
    the log says so for the last time, and 0 for a view that never has personal data or removes them itself.
    """

    version: int
    rows: str
    forgotten_position: int = 0

    @classmethod
    def of(
        cls, projection_class: type[Projection], tables: Iterable[RowType[Any]], forgotten_position: int
    ) -> "ViewSchema":
        """That of a projection class, where the log says at this position that a subject was forgotten."""
        rows = ";".join(table.schema for table in tables)
        return cls(projection_class.version, rows, forgotten_position if must_forget(projection_class) else 0)

    def generation(self, number: int) -> Generation:
        """One of this schema, with this number."""
        suffix = f"{_FORGOTTEN}{self.forgotten_position}" if self.forgotten_position else ""
        return Generation(number, self.version, self.rows + suffix)

    def has_rows_of(self, generation: Generation) -> bool:
        """Whether its rows and indexes are those of a generation."""
        return self.rows == _parts(generation)[0]

    def is_of_class(self, generation: Generation) -> bool:
        """Whether a generation was built by this version of the class."""
        return self.version == generation.version and self.has_rows_of(generation)

    def fits(self, generation: Generation) -> bool:
        """Whether it was, and knows nothing of those who were forgotten since."""
        return self.is_of_class(generation) and _parts(generation)[1] >= self.forgotten_position


def must_forget(projection_class: type[Projection], *, is_past: bool = False) -> bool:
    """Whether its view is built anew when a subject is forgotten: it may show what is personal, and removes none.

    That of a past in which nobody was forgotten yet cannot, whatever its projection does about it.
    """
    handlers = projection_class.__eventsrc_projection__.handlers
    return (is_past or SubjectForgotten not in handlers) and any(map(has_personal_data, handlers))


def _parts(generation: Generation) -> tuple[str, int]:
    rows, _, position = generation.schema.partition(_FORGOTTEN)
    return rows, int(position or 0)
