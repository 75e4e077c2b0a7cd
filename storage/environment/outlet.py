"""A descriptor of a file, for a library that writes much to it, which any thread may cut off."""

import os
import threading


class Outlet:
    """A descriptor of its own beside the one that is given; `close` is owed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = os.dup(descriptor)
        self.is_cut = False
        self._nowhere = os.open(os.devnull, os.O_RDONLY)
        self._cutting: threading.Thread | None = None

    def cut(self) -> None:
        """Let every write fail that comes after the one that is under way. Never waits; not after `close`."""
        if self.is_cut:
            return
        self.is_cut = True
        # Not a close, since the number could be another file's then. On a thread, since the file that was in this place
        # may be stored first, as one on a network is; writes fail before that.
        self._cutting = threading.Thread(target=os.dup2, args=(self._nowhere, self.descriptor, False), daemon=True)
        self._cutting.start()

    def close(self) -> None:
        """Close it, once nobody writes to it or cuts it any more."""
        if self._cutting is not None:
            self._cutting.join()
        os.close(self.descriptor)
        os.close(self._nowhere)
