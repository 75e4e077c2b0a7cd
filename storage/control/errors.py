"""Errors of the control board."""

from ..errors import StoreError


class ControlBoardFull(StoreError):
    """Too many requests wait for a runtime that does not run."""

    code = "control_board_full"

    def __init__(self, path: str, limit: int) -> None:
        super().__init__(
            path,
            f"{limit} requests wait at {path} already, and no runtime does them. Open the store with a runtime first.",
        )
        self.limit = limit


class ControlBoardUnreadable(StoreError):
    """The control board cannot be read: it is damaged, has too many readers, or the system refuses."""

    code = "control_board_unreadable"

    def __init__(self, path: str, reason: str, advice: str) -> None:
        super().__init__(path, f"The control board {path} cannot be read: {reason}. {advice}")
        self.reason = reason
