"""The schema of a view: the version of its class, the shape of its rows, and the position of the last forgetting."""

from collections.abc import Iterable
from typing import Any, Final

import attrs

from ...actors.projections.projection import Projection
from ...actors.serialization.personal import has_personal_data
from ...actors.subjects import SubjectForgotten
from ...actors.views.row_type import RowType
from ...actors.views.view_store import Generation

_FORGOTTEN: Final = ";forgotten@"
"""Precedes `forgotten_position` in the stored schema of a generation."""


@attrs.frozen
class ViewSchema:
    """Tells which stored generations of a view may answer.

    A generation that was begun before a subject was forgotten may show the subject. `forgotten_position` is the
    position of the last `SubjectForgotten`, or 0 for a view that never has personal data or removes them itself.
    """

    version: int
    rows: str
    forgotten_position: int = 0

    @classmethod
    def of(
        cls, projection_class: type[Projection], tables: Iterable[RowType[Any]], forgotten_position: int
    ) -> "ViewSchema":
        """The schema of a projection class, where the last `SubjectForgotten` is at this position."""
        rows = ";".join(table.schema for table in tables)
        return cls(projection_class.version, rows, forgotten_position if must_forget(projection_class) else 0)

    def generation(self, number: int) -> Generation:
        """A generation of this schema with this number."""
        suffix = f"{_FORGOTTEN}{self.forgotten_position}" if self.forgotten_position else ""
        return Generation(number, self.version, self.rows + suffix)

    def has_rows_of(self, generation: Generation) -> bool:
        """Whether the rows and indexes are those of a generation."""
        return self.rows == _parts(generation)[0]

    def is_of_class(self, generation: Generation) -> bool:
        """Whether a generation was built by this version of the class."""
        return self.version == generation.version and self.has_rows_of(generation)

    def fits(self, generation: Generation) -> bool:
        """Whether a generation was built by this version of the class, and shows no forgotten subject."""
        return self.is_of_class(generation) and _parts(generation)[1] >= self.forgotten_position


def must_forget(projection_class: type[Projection], *, is_past: bool = False) -> bool:
    """Whether its view is rebuilt when a subject is forgotten: it may show personal data and does not remove them.

    With `is_past` handlers of `SubjectForgotten` do not count: the past may end before that event.
    """
    handlers = projection_class.__eventsrc_projection__.handlers
    return (is_past or SubjectForgotten not in handlers) and any(map(has_personal_data, handlers))


def _parts(generation: Generation) -> tuple[str, int]:
    rows, _, position = generation.schema.partition(_FORGOTTEN)
    return rows, int(position or 0)
