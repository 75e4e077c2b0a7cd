"""Errors of reading an environment that is not damaged."""

from ..errors import StoreError


class StoreUnreadable(StoreError):
    """The system or LMDB refuses to begin a read: the store has too many readers, or no locks are left."""

    code = "store_unreadable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"{path} cannot be read now: {reason}. LMDB has room for 126 reads at a time in all processes: end some of "
            "the programs that do, look at the limits of this one, and read it again.",
        )
        self.reason = reason
