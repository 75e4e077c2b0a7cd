"""Errors of the control board."""

from ..errors import StoreError


class ControlBoardFull(StoreError):
    """Too much is asked of a runtime that is not there to do it."""

    code = "control_board_full"

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(
            path,
            f"{limit} requests wait at {path} already, and no runtime does them. Open the store with a runtime first.",
        )
        self.limit = limit


class ControlBoardUnreadable(StoreError):
    """What followers of the log remember cannot be read, or too many look at it."""

    code = "control_board_unreadable"

    def __init__(self, path: str, reason: str, advice: str) -> None:
        super().__init__(path, f"The control board {path} cannot be read: {reason}. {advice}")
        self.reason = reason
