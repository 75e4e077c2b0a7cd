"""A file descriptor for a library's long writes, which any thread can cut off."""

import os
import threading


class Outlet:
    """Duplicates a descriptor; writes to the duplicate fail after `cut`. The caller must call `close`."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = os.dup(descriptor)
        self.is_cut = False
        self._nowhere = os.open(os.devnull, os.O_RDONLY)
        self._cutting: threading.Thread | None = None

    def cut(self) -> None:
        """Make every write after the current one fail. Must not be called after `close`.

        Never blocks, unless the system starts no further thread.
        """
        if self.is_cut:
            return
        self.is_cut = True
        # The descriptor is not closed, since its number could be reused for another file. `dup2` runs on a thread: it
        # may wait until the file is stored, as on a network file system; writes fail before that.
        cutting = threading.Thread(target=os.dup2, args=(self._nowhere, self.descriptor, False), daemon=True)
        try:
            cutting.start()
        except RuntimeError:
            os.dup2(self._nowhere, self.descriptor, inheritable=False)
        else:
            self._cutting = cutting

    def close(self) -> None:
        """Close the duplicate. No thread may write to it or call `cut` any more."""
        if self._cutting is not None:
            self._cutting.join()
        os.close(self.descriptor)
        os.close(self._nowhere)
