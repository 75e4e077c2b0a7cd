"""What keeps a sound environment from being read."""

from ..errors import StoreError


class StoreUnreadable(StoreError):
    """The system, or LMDB, refuses to begin a read: too many look at the store already, or there are no locks left."""

    code = "store_unreadable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"{path} cannot be read now: {reason}. LMDB has room for 126 reads at a time in all processes: end some of "
            "the programs that do, look at the limits of this one, and read it again.",
        )
        self.reason = reason
