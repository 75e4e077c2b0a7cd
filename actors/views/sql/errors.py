"""What is wrong where a view in SQL is looked at; what goes wrong while it is written is in `errors`."""

from typing import ClassVar

from ....storage.errors import StoreError


class ViewReadFailed(StoreError):
    """The database of a view refused a query. Nothing was changed by it, and nobody tries it again but who asked."""

    code: ClassVar[str] = "view_read_failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"The database of a view, {path}, could not answer a query: {reason}. The view is as it was: see to the "
            "database, and ask again.",
        )
