"""The format that is recorded in a store: this version writes it, and refuses to read any other."""

from typing import Final

import lmdb

from ..errors import StoreFormatUnknown, StorePathInvalid

FORMAT_VERSION: Final = 3
FORMAT_NAME: Final = b"eventsrc"


def check_format(path: str, environment: lmdb.Environment, *, create: bool) -> None:
    """Record the format in a new store (`create`), or check the format of an existing one.

    Raises `StoreFormatUnknown` for a format that this version cannot read, `StorePathInvalid` for an empty environment.
    """
    if create:
        with environment.begin(write=True) as transaction:
            meta = environment.open_db(b"meta", txn=transaction)
            transaction.put(b"format", FORMAT_NAME, db=meta)
            transaction.put(b"version", str(FORMAT_VERSION).encode(), db=meta)
        return
    try:
        meta = environment.open_db(b"meta", create=False)
    except (lmdb.NotFoundError, lmdb.ReadonlyError) as error:
        if not environment.stat()["entries"]:
            raise StorePathInvalid(
                path, f"There is no store at {path} yet: whoever made it was interrupted. Open it for writing first."
            ) from error
        raise _foreign(path) from error
    with environment.begin() as transaction:
        name = transaction.get(b"format", db=meta)
        version = transaction.get(b"version", b"0", db=meta)
    if name != FORMAT_NAME or not version.isdigit():
        raise _foreign(path)
    if int(version) != FORMAT_VERSION:
        raise StoreFormatUnknown(
            path,
            f"The store {path} has format {int(version)} and this version of eventsrc knows format {FORMAT_VERSION}: "
            "install the version of eventsrc that wrote it, or a newer one.",
        )


def _foreign(path: str) -> StoreFormatUnknown:
    return StoreFormatUnknown(path, f"{path} is an LMDB environment, but not a store of eventsrc. Name another folder.")
