"""Views in SQL, with SQLAlchemy: pass `SqlViews` to `Runtime.open`. The extra `sql` installs the dependencies."""

try:
    from .sql_view import SqlViews
except ModuleNotFoundError as missing:
    if missing.name != "sqlalchemy":
        raise
    raise ImportError(
        "SQL views need SQLAlchemy: pip install 'eventsrc[sql]' (PostgreSQL: 'eventsrc[postgresql]')"
    ) from missing

__all__ = ["SqlViews"]
