"""The texts of errors that are kept, for an operator to read: on the control board, or in the state of a projection."""

from typing import Final

from ..storage.errors import described

ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of a text is kept."""


def told(error: BaseException) -> str:
    """What is told of an error that a program's own code raised, with advice where it awaited asyncio on trio."""
    is_of_asyncio = isinstance(error, RuntimeError) and error.args == ("no running event loop",)
    return described(error) + (" (it runs on trio: await on_asyncio(function)(...) there)" if is_of_asyncio else "")


def kept_text(text: str) -> str:
    """As much of a text as is kept, with what no encoding has written out: foreign code may raise anything."""
    return text[:ERROR_CHARACTERS_MAX].encode(errors="backslashreplace").decode()[:ERROR_CHARACTERS_MAX]
