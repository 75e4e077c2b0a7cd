"""Views on LMDB: a folder for each generation of each projection, next to the log."""

import logging
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import msgspec

from ...storage.environment.durable_file import write_durably
from ...storage.environment.folder import DATA_FILE, GENERATION_FILE, ROWS_FOLDER, sync_folder
from ...storage.environment.view_environment import ViewBusy, ViewEnvironment, ViewFull
from ...storage.errors import FileWriteFailed
from .lmdb_reading import LmdbReading, LmdbWriting
from .row_type import RowType
from .view_store import Checkpoint, Generation, ViewReading, ViewRetry, ViewWriting

CURRENT_FILE: Final = "current"
DROPPED: Final = "dropped-"
FREED_BYTES: Final = 64 << 20
"""How many bytes of a replaced view's file are freed at a time."""
FREED_PAUSE_SECONDS: Final = 0.005
_START: Final = Checkpoint(0, b"")

logger = logging.getLogger("eventsrc.views")


class LmdbViews:
    """Keeps views in `path`: `path/<projection>/<generation>/`. Its methods wait for the disk.

    They raise `FileWriteFailed` if the system refuses an operation.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def generations(self, projection: str) -> list[Generation]:
        folder = self.path / projection
        current = folder / CURRENT_FILE
        with self._translated():
            content = current.read_bytes() if current.exists() else b""
            # Not with `glob`, which may skip what the system refuses: the view would then be rebuilt from the start.
            numbered = [each for each in folder.iterdir() if each.name.isdigit()] if folder.exists() else []
            known = [_stored(each) for each in numbered]
        number = int(content) if content.isdigit() else 0
        found = [generation for generation in known if generation is not None]
        return sorted(found, key=lambda generation: (generation.number != number, -generation.number))

    def open(self, projection: str, generation: Generation, tables: Iterable[RowType[Any]]) -> "LmdbView":
        folder = self._folder(projection, generation)
        with self._translated():
            stored = _stored(folder)
            if stored is None and folder.exists():
                # The process stopped while it made the folder; its content may be of any version.
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        with ExitStack() as undoing:
            if stored is None:
                # The number may never be used again, and nobody would remove the folder then.
                undoing.callback(shutil.rmtree, folder, ignore_errors=True)
            environment = ViewEnvironment(folder / ROWS_FOLDER, {table.name: table.indexes for table in tables})
            undoing.callback(environment.close)
            if stored != generation:
                with self._translated():
                    write_durably(folder / GENERATION_FILE, msgspec.json.encode(generation))
            undoing.pop_all()
        return LmdbView(environment)

    def activate(self, projection: str, generation: Generation) -> None:
        with self._translated():
            write_durably(self.path / projection / CURRENT_FILE, str(generation.number).encode())

    def drop(self, projection: str, generation: Generation) -> None:
        folder = self._folder(projection, generation)
        with self._translated():
            # Under this name the folder is no generation any more, whatever happens next.
            folder.rename(folder.with_name(f"{DROPPED}{folder.name}-{time.time_ns()}"))
            sync_folder(folder.parent)
        self.tidy(projection)

    def remove(self, projection: str) -> bool:
        """Remove every view of a projection that is not open. Returns whether there was one. May take long."""
        folder = self.path / projection
        with self._translated():
            if not folder.exists():
                return False
        for generation in self.generations(projection):
            self.drop(projection, generation)
        with self._translated():
            shutil.rmtree(folder)
            sync_folder(self.path)
        return True

    def tidy(self, projection: str) -> None:
        with self._translated():
            for dropped in (self.path / projection).glob(f"{DROPPED}*"):
                # Another process may remove it as well, or an earlier removal has removed the file already.
                with suppress(FileNotFoundError):
                    _shrink(dropped / ROWS_FOLDER / DATA_FILE)
                with suppress(FileNotFoundError):
                    shutil.rmtree(dropped)
                    sync_folder(dropped.parent)

    def _folder(self, projection: str, generation: Generation) -> Path:
        return self.path / projection / str(generation.number)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Wrap file operations, including reads: with too many open files, reading fails with the same error."""
        try:
            yield
        except OSError as error:
            raise FileWriteFailed(str(self.path), str(error)) from error


def _stored(folder: Path) -> Generation | None:
    """The generation that a folder records; None if the folder was not made completely."""
    file = folder / GENERATION_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=Generation)
    except FileNotFoundError:
        return None
    except msgspec.MsgspecError:
        logger.warning("a generation of a view was not made completely", extra={"path": str(file)})
        return None


def _shrink(file: Path) -> None:
    """Free a file's space in steps: removing a large file at once would delay the log's next sync."""
    size_bytes = file.stat().st_size
    while size_bytes > FREED_BYTES:
        size_bytes -= FREED_BYTES
        os.truncate(file, size_bytes)
        time.sleep(FREED_PAUSE_SECONDS)


class LmdbView:
    """One generation on LMDB. Its calls read and write memory without a sync, so they belong on the trio thread."""

    waits = False

    def __init__(self, environment: ViewEnvironment) -> None:
        self._environment = environment

    @property
    def checkpoint(self) -> Checkpoint:
        with self._environment.read() as transaction:
            stored = self._environment.meta(transaction, b"checkpoint")
        return _START if stored is None else msgspec.msgpack.decode(stored, type=Checkpoint)

    @contextmanager
    def reading(self, *, rows_max: int | None = None) -> Iterator[ViewReading]:
        try:
            with self._environment.read() as transaction:
                yield LmdbReading(self._environment, transaction, rows_max)
        except ViewBusy as error:
            raise ViewRetry from error

    @contextmanager
    def writing(self) -> Iterator[ViewWriting]:
        try:
            with self._environment.write() as transaction:
                yield LmdbWriting(self._environment, transaction)
        except ViewFull as error:
            raise ViewRetry from error

    def close(self) -> None:
        self._environment.close()
