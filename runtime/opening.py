"""Opens the parts of a runtime: the store, as writer or reader, and the place for views and followers' progress."""

import fcntl
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias, TypeVar

import attrs
import trio

from ..actors.background import in_thread
from ..actors.feed import Feed
from ..actors.projections.projection import Projection
from ..actors.views.lmdb_view import LmdbViews
from ..actors.views.view_store import ViewStore
from ..storage.control.board import ControlBoard
from ..storage.environment.folder import (
    CONTROL_FOLDER,
    READERS_FOLDER,
    VIEWS_FOLDER,
    make_folder,
    path_problem,
    sync_folder,
)
from ..storage.environment.temporary_folder import TemporaryFolder
from ..storage.errors import FileWriteFailed, StorePathInvalid
from ..storage.keys.key_file import KeyFile
from ..storage.keys.subject_keys import SubjectKeys
from ..storage.limits import Limits
from ..storage.log import EventLog
from ..storage.memory import MemoryLog
from ..storage.past import PastLog
from ..storage.reader import LogReader
from ..storage.store import EventReader, EventStore
from .errors import ArgumentInvalid, NotInTrio, PastReadOnly, ReadersFull, RuntimeReadOnly

READERS_MAX: Final = 64
"""The most reader processes that may keep views beside one store."""
KEYS_SUFFIX: Final = ".keys"
"""The suffix of the file of subjects' keys, which lies beside the store and is named after it."""
READER_POLL_SECONDS: Final = 0.01
"""How often a reader looks whether the writer has written."""

StoreGiven: TypeAlias = str | os.PathLike[str] | EventStore
Opened: TypeAlias = EventStore | LogReader | PastLog
P = TypeVar("P", bound=Projection)
# A mapping is invariant in its keys: `{Balances: views}` is not assignable to a mapping keyed by `type[Projection]`.
ViewsGiven: TypeAlias = str | os.PathLike[str] | Mapping[type[P], ViewStore] | None


async def open_store(store: StoreGiven | PastLog, role: Literal["writer", "reader"], limits: Limits) -> Opened:
    """Open the store at a path, or return a given store. Raises `StoreError`, `NotInTrio`, `ArgumentInvalid`."""
    if not trio.lowlevel.in_trio_task():
        raise NotInTrio
    if role not in ("writer", "reader"):
        raise ArgumentInvalid("role", role, 'it is "writer" or "reader"')
    if not isinstance(store, str | os.PathLike):
        if isinstance(store, type) or not hasattr(store, "head"):
            raise ArgumentInvalid("store", store, "give the path of a folder as a text, or a store such as MemoryLog()")
        if role == "reader" and (isinstance(store, EventLog) or not isinstance(store, LogReader | PastLog)):
            advice = "the given store is open for writing; a reader opens the path of one"
            raise ArgumentInvalid("role", role, advice)
        store.streams(limit=1)  # a closed store raises here
        if isinstance(store, EventLog | MemoryLog):
            store.take()
        return store
    _check_path("store", store)
    if role == "reader":
        return await in_thread(LogReader.open, store)
    return await in_thread(partial(EventLog, store, limits=limits))


def keys_of(
    store: StoreGiven | PastLog, keys: str | os.PathLike[str] | SubjectKeys | None, role: Literal["writer", "reader"]
) -> SubjectKeys | None:
    """The keys that seal personal data, not opened yet; None for a store that has no place for keys."""
    if isinstance(keys, SubjectKeys):
        return keys
    if keys is not None and not isinstance(keys, str | os.PathLike):
        raise ArgumentInvalid("keys", keys, "give the path of the file of keys, or a SubjectKeys")
    if keys is None and isinstance(store, MemoryLog):
        return SubjectKeys(store.keys)
    path = _keys_beside(store) if keys is None else keys
    if path is None:
        return None
    _check_path("keys", path)
    return SubjectKeys(KeyFile(path, "read" if role == "reader" else "write"))


def _keys_beside(store: StoreGiven | PastLog) -> str | None:
    """The path of the file of keys beside a store; None for a store that is in no folder."""
    if not isinstance(store, str | os.PathLike | LogReader):
        return None
    path = store.path if isinstance(store, LogReader) else store
    _check_path("store", path)
    # Beside the real folder, whichever path it was opened by.
    return f"{os.path.realpath(path)}{KEYS_SUFFIX}"


def close_store(store: Opened, keys: SubjectKeys | None) -> None:
    """Close a store, and the keys that were opened for it."""
    try:
        store.close()
    finally:
        if keys is not None:
            keys.close()


def refusal(store: EventReader) -> RuntimeReadOnly:
    """The error for a change that a read-only runtime is asked to make."""
    return PastReadOnly(store.path) if isinstance(store, PastLog) else RuntimeReadOnly(store.path)


async def follow(store: LogReader, feed: Feed) -> None:
    """Take in what the writer's process writes, for as long as the runtime is open."""
    while True:
        if store.refresh():
            feed.notify()
        await trio.sleep(READER_POLL_SECONDS)


@attrs.frozen
class Home:
    """Where followers of the log keep their data: views by projection, and the control board if there is a folder."""

    views_of: Callable[[type[Projection]], ViewStore]
    board: ControlBoard | None
    is_numbered: bool
    """Whether the folder is a numbered one, which passes to whichever reader comes next."""


@asynccontextmanager
async def home_of(
    store: EventReader, projections: Sequence[type[Projection]], views: ViewsGiven[Any]
) -> AsyncIterator[Home]:
    """Find or make the home of views and progress, for as long as the block lasts.

    Raises `StorePathInvalid`, `ArgumentInvalid`, `FileWriteFailed`, `ReadersFull`.
    """
    _check_views(views)
    special: Mapping[Any, ViewStore] = views if isinstance(views, Mapping) else {}
    async with AsyncExitStack() as stack:
        folder = await _folder_of(store, bool(projections), views, stack)
        if folder is None:
            yield Home(special.__getitem__, None, is_numbered=False)
            return
        is_durable = not isinstance(store, MemoryLog | PastLog)
        board = await in_thread(partial(ControlBoard, folder / CONTROL_FOLDER, durable=is_durable))
        stack.callback(board.close)
        await in_thread(board.take)
        beside = LmdbViews(folder / VIEWS_FOLDER)
        is_numbered = folder.parent == Path(store.path) / READERS_FOLDER
        yield Home(lambda projection: special.get(projection, beside), board, is_numbered)


async def _folder_of(
    store: EventReader, has_projections: bool, views: ViewsGiven[Any], stack: AsyncExitStack
) -> Path | None:
    if isinstance(views, str | os.PathLike):
        return await in_thread(_made, Path(views))
    if isinstance(store, MemoryLog | PastLog):
        try:
            folder = await in_thread(TemporaryFolder, "eventsrc-views-")
        except OSError as error:
            raise FileWriteFailed(tempfile.gettempdir(), str(error)) from error
        stack.callback(folder.remove)
        return folder.path
    if not isinstance(store, LogReader) or isinstance(store, EventLog):
        return Path(store.path)
    if has_projections:
        return await in_thread(_claim_reader, Path(store.path), stack)
    return None


def _check_path(argument: str, given: str | os.PathLike[Any]) -> None:
    path = os.fspath(given)
    if not isinstance(path, str) or not path or path_problem(path):
        advice = "a path is a text that is not empty, has no NUL in it, and only what the name of a file can have"
        raise ArgumentInvalid(argument, given, advice)
    if path == ":memory:":
        advice = "it would be a folder of that name; a store in memory is MemoryLog()"
    elif path == "~" or path.startswith("~/"):
        advice = 'only a shell knows "~": write Path("~/...").expanduser(), or ./~ for a folder of that name'
    elif "://" in path:
        advice = "it is no path; a database for views is given by projection: views={Balances: SqlViews(url)}"
    else:
        return
    raise ArgumentInvalid(argument, given, advice)


def _check_views(views: object) -> None:
    if isinstance(views, str | os.PathLike):
        _check_path("views", views)
    elif isinstance(views, Mapping):
        for projection, place in views.items():
            is_place = hasattr(place, "activate") and not isinstance(place, type)
            if not (is_place and isinstance(projection, type) and issubclass(projection, Projection)):
                advice = "by class of projection it says where its views live: views={Balances: SqlViews(url)}"
                raise ArgumentInvalid("views", views, advice)
    elif views is not None:
        raise ArgumentInvalid("views", views, "give a folder, or a dict with a place for the views of some projections")


def _made(folder: Path) -> Path:
    try:
        make_folder(folder)
    except OSError as error:
        advice = "Name a folder, or a path that is free: views=..."
        raise StorePathInvalid(str(folder), f"Views cannot live in {folder}: {error.strerror}. {advice}") from error
    return folder.absolute()


def drop_unclaimed_views(path: Path) -> None:
    """Remove the views of readers that do not run: they may show a forgotten subject, and no process updates them.

    The reader that takes such a folder over rebuilds them. Raises `FileWriteFailed`.
    """
    for folder in sorted((path / READERS_FOLDER).glob("*")):
        try:
            with (folder / "lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if (folder / VIEWS_FOLDER).exists():
                    shutil.rmtree(folder / VIEWS_FOLDER)
                    sync_folder(folder)
        except BlockingIOError:
            continue
        except OSError as error:
            raise FileWriteFailed(str(folder), str(error), "Remove it, and forget the subject again") from error


def _claim_reader(path: Path, stack: AsyncExitStack) -> Path:
    """Claim the first reader's folder that no other process holds, with the views in it as they are."""
    for number in range(1, READERS_MAX + 1):
        folder = path / READERS_FOLDER / str(number)
        try:
            make_folder(folder)
            with ExitStack() as opened:
                lock = opened.enter_context((folder / "lock").open("w"))
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                stack.push(opened.pop_all())
        except BlockingIOError:
            continue
        except OSError as error:
            raise FileWriteFailed(str(folder), str(error), "Give the reader a folder of its own: views=...") from error
        return folder
    raise ReadersFull(str(path), READERS_MAX)
