"""Calls of the control board from the trio thread."""

from collections.abc import Callable
from typing import TypeVar

from ..actors.background import in_thread_or_here
from ..storage.control.board import ControlBoard

T = TypeVar("T")


async def on_board(board: ControlBoard, call: Callable[[], T]) -> T:
    """Call a function of the control board, in a worker thread if the board waits for the disk."""
    return await in_thread_or_here(call) if board.waits else call()
