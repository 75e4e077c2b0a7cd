"""A check for code that must run on trio's thread, for example in a program on asyncio that forgot its portal."""

import trio

from .errors import WrongThread


def check_on_trio(method: str, instead: str | None = None) -> None:
    """Raise `WrongThread` where trio does not run, before anything is done. `instead` is the code to write there."""
    if not trio.lowlevel.in_trio_run():
        raise WrongThread(method, instead=instead or f"portal.call({method}, ...)")
