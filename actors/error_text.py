"""The texts of errors that are kept, for an operator to read: on the control board, or in the state of a projection."""

from typing import Final

ERROR_CHARACTERS_MAX: Final = 2_000
"""How much of a text is kept."""


def kept_text(text: str) -> str:
    """As much of a text as is kept, with what no encoding has written out: foreign code may raise anything."""
    return text[:ERROR_CHARACTERS_MAX].encode(errors="backslashreplace").decode()[:ERROR_CHARACTERS_MAX]
