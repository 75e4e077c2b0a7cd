"""Views in SQL, with SQLAlchemy: `SqlViews` is given to `Runtime.open`. The extra `sql` installs what it needs."""

from .sql_view import SqlViews

__all__ = ["SqlViews"]
