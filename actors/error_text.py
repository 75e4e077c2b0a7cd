"""Texts of errors that are stored for an operator to read: on the control board, or in the state of a projection."""

from collections.abc import Iterator
from typing import Final

from ..storage.errors import described

ERROR_CHARACTERS_MAX: Final = 2_000
"""The length that a stored error text is cut to, in characters."""


def described_with_advice(error: BaseException) -> str:
    """Describe an error raised by a program's own code; advise where the code awaited asyncio on trio."""
    is_of_asyncio = isinstance(error, RuntimeError) and error.args == ("no running event loop",)
    return described(error) + (" (it runs on trio: await on_asyncio(function)(...) there)" if is_of_asyncio else "")


def kept_text(text: str) -> str:
    """Cut a text to `ERROR_CHARACTERS_MAX` and escape what UTF-8 cannot encode: foreign code may raise anything."""
    return text[:ERROR_CHARACTERS_MAX].encode(errors="backslashreplace").decode()[:ERROR_CHARACTERS_MAX]


def errors_in(group: BaseExceptionGroup[BaseException]) -> Iterator[BaseException]:
    """The errors in a group, also those in the groups within it."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from errors_in(error)
        else:
            yield error
