"""What belongs on the thread of trio, and says so elsewhere: in a program on asyncio that forgot its portal, say."""

import trio

from .errors import WrongThread


def check_on_trio(method: str, instead: str | None = None) -> None:
    """Raise `WrongThread` where trio does not run, before anything was done. `instead` is what to write there."""
    if not trio.lowlevel.in_trio_run():
        raise WrongThread(method, instead=instead or f"portal.call({method}, ...)")
