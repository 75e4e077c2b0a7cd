"""A file descriptor for a library that writes much to it, whose writes any thread can make fail."""

import os
import threading


class Outlet:
    """A duplicate of the given descriptor. It must be closed."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = os.dup(descriptor)
        self.is_cut = False
        self._nowhere = os.open(os.devnull, os.O_RDONLY)
        self._cutting: threading.Thread | None = None

    def cut(self) -> None:
        """Make every write after the one that is under way fail. Never waits, but for want of a thread.

        Not to be called after `close`.
        """
        if self.is_cut:
            return
        self.is_cut = True
        # Not closed, since the number could become another file's. On a thread, since `dup2` may first wait for the
        # file to be stored, as one on a network is; writes fail before that.
        cutting = threading.Thread(target=os.dup2, args=(self._nowhere, self.descriptor, False), daemon=True)
        try:
            cutting.start()
        except RuntimeError:
            # The system starts no further thread; the one that cuts it off may have to wait then.
            os.dup2(self._nowhere, self.descriptor, inheritable=False)
        else:
            self._cutting = cutting

    def close(self) -> None:
        """Close it, once nobody writes to it or cuts it off any more."""
        if self._cutting is not None:
            self._cutting.join()
        os.close(self.descriptor)
        os.close(self._nowhere)
