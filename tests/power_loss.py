"""What a power loss may leave of a folder: the states that POSIX allows after the calls that a program has made.

A program runs under `strace`. Its calls are made again here, one after the other, on a model of a disk that knows what
is synced. Of what is not synced, a state has any pages of the files, and the changes of names up to any of them. Files
that are mapped into memory are not followed: of those of LMDB and SQLite nothing is used after a start of the machine.
"""

import os
import re
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Literal, TypeAlias

import attrs

from eventsrc.storage.environment.locks import boot_id

PAGE_BYTES = 4096
CALLS = (
    "openat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,fallocate,fsync,fdatasync,lseek,dup,fcntl,"
    "rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,sendfile,copy_file_range"
)
LINE = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(?:\(| resumed>)(.*)$")
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
DESCRIPTOR = re.compile(r"(\d+)<((?:\\x[0-9a-f]{2})*)>")
FOLDER_OF_PATH = re.compile(r'(?:AT_FDCWD|\d+)<((?:\\x[0-9a-f]{2})*)>, (?=")')
NUMBER = re.compile(r"(?<=, )-?\d+(?=,|$)")
UNFINISHED = " <unfinished ...>"

Kept: TypeAlias = Literal["none", "some", "all"]
"""How much is left of what is not synced."""


@attrs.frozen
class Call:
    """A call that succeeded; `begun` and `ended` are lines of the trace."""

    name: str
    arguments: str
    result: str
    begun: int
    ended: int

    @property
    def texts(self) -> list[bytes]:
        return [as_bytes(each) for each in TEXT.findall(self.arguments)]

    @property
    def numbers(self) -> list[int]:
        return [int(each) for each in NUMBER.findall(self.arguments)]

    @property
    def descriptor(self) -> tuple[int, str]:
        """The first descriptor among the arguments, and the path of its file."""
        found = DESCRIPTOR.search(self.arguments)
        assert found is not None, self
        return int(found[1]), os.fsdecode(as_bytes(found[2]))

    @property
    def paths(self) -> list[str]:
        """The absolute paths among the arguments."""
        folders = FOLDER_OF_PATH.findall(self.arguments) or [""] * len(self.texts)
        pairs = zip(folders, self.texts, strict=True)
        return [os.path.normpath(Path(os.fsdecode(as_bytes(folder)), os.fsdecode(text))) for folder, text in pairs]


def as_bytes(hexadecimal: str) -> bytes:
    return bytes.fromhex(hexadecimal.replace("\\x", ""))


def trace(command: Sequence[str], log: Path) -> list[Call]:
    """Run a program to its end; return its calls in the order in which they ended."""
    strace = ["strace", "-f", "-y", "-xx", "-s", "100000000", "-o", str(log), "-e", f"trace={CALLS}", "--seccomp-bpf"]
    subprocess.run([*strace, *command], check=True, stdout=subprocess.DEVNULL)
    calls, unfinished = list[Call](), dict[str, tuple[int, str]]()
    with log.open(encoding="ascii") as lines:
        for number, line in enumerate(lines):
            found = LINE.match(line.rstrip("\n"))
            if found is None:
                continue
            thread, name, rest = found.groups()
            if rest.endswith(UNFINISHED):
                unfinished[thread] = number, rest.removesuffix(UNFINISHED)
                continue
            begun, before = unfinished.pop(thread) if " resumed>" in line[:60] else (number, "")
            arguments, _, result = (before + rest).rpartition(" = ")
            if result and not result.startswith(("-1", "?")):
                calls.append(Call(name, arguments.rstrip().removesuffix(")"), result, begun, number))
    return calls


# --- files and folders ---


@attrs.define(eq=False)
class File:
    now: bytearray = attrs.field(factory=bytearray)
    synced: bytearray = attrs.field(factory=bytearray)
    unsynced: list[tuple[int, int, bytes | None]] = attrs.field(factory=list)
    """(line of the trace, offset, piece of one page), or (line, new size, None)"""

    def write(self, line: int, offset: int, content: bytes) -> None:
        put(self.now, offset, content)
        while content:
            count = min(len(content), PAGE_BYTES - offset % PAGE_BYTES)
            self.unsynced.append((line, offset, content[:count]))
            offset, content = offset + count, content[count:]

    def resize(self, line: int, size: int) -> None:
        put(self.now, size, None)
        self.unsynced.append((line, size, None))

    def sync(self, before: int, pages: range | None = None) -> None:
        """Sync what was written before a line; of `pages` alone, if they are given."""
        left = []
        for line, offset, piece in self.unsynced:
            if line < before and (pages is None or offset // PAGE_BYTES in pages):
                put(self.synced, offset, piece)
            else:
                left.append((line, offset, piece))
        self.unsynced = left

    def left(self, chance: Random, kept: Kept) -> bytes:
        """What may be left: of each page, the pieces up to any of them."""
        content = bytearray(self.synced)
        if kept == "some":
            kept = chance.choice(("none", "some", "all"))
        if kept == "none":
            return bytes(content)
        count_of = Counter(page_of(offset, piece) for _, offset, piece in self.unsynced)
        until = {page: chance.randint(0, count) if kept == "some" else count for page, count in count_of.items()}
        for _, offset, piece in self.unsynced:
            page = page_of(offset, piece)
            if until[page]:
                until[page] -= 1
                put(content, offset, piece)
        return bytes(content)


def page_of(offset: int, piece: bytes | None) -> int | None:
    """The page of a piece; None for a change of the size."""
    return None if piece is None else offset // PAGE_BYTES


def put(content: bytearray, offset: int, piece: bytes | None) -> None:
    """Write a piece at an offset or, without a piece, make this the size."""
    content.extend(bytes(max(0, offset - len(content))))
    if piece is None:
        del content[offset:]
    else:
        content[offset : offset + len(piece)] = piece


@attrs.define(eq=False)
class Folder:
    now: "dict[str, File | Folder]" = attrs.field(factory=dict)
    synced: "dict[str, File | Folder]" = attrs.field(factory=dict)
    unsynced: "list[tuple[int, dict[str, File | Folder | None]]]" = attrs.field(factory=list)
    """(line of the trace, names that changed)"""

    def change(self, line: int, names: "dict[str, File | Folder | None]") -> None:
        rename(self.now, names)
        self.unsynced.append((line, names))

    def sync(self, before: int) -> None:
        while self.unsynced and self.unsynced[0][0] < before:
            rename(self.synced, self.unsynced.pop(0)[1])

    def left(self, count: int) -> "dict[str, File | Folder]":
        """The names, if so many of the unsynced changes are left."""
        names = dict(self.synced)
        for _, changed in self.unsynced[:count]:
            rename(names, changed)
        return names

    def all_folders(self) -> "Iterator[Folder]":
        """This one and those in it, also those whose removal is not synced."""
        yield self
        for node in {*self.synced.values(), *self.now.values()}:
            if isinstance(node, Folder):
                yield from node.all_folders()


def rename(names: "dict[str, File | Folder]", changed: "Mapping[str, File | Folder | None]") -> None:
    for name, node in changed.items():
        if node is None:
            names.pop(name, None)
        else:
            names[name] = node


@attrs.define
class Opened:
    """An open file; `is_synced` if each write waits for the disk."""

    node: File
    offset: int
    appends: bool
    is_synced: bool


# --- the disk ---


class Disk:
    """A folder, empty at first, in which the calls of a trace are made.

    With `journals`, syncing any file or folder syncs all earlier changes of names, as on ext4. Otherwise the names in a
    folder are synced when it is synced itself; with `names_itself`, the name of a file also when the file is.
    """

    def __init__(self, root: Path, told: Path, *, journals: bool, names_itself: bool) -> None:
        self.told: list[str] = []
        """The lines that the program has written to the file `told`, outside of the folder."""
        self._root, self._told_path = str(root), str(told)
        self._journals, self._names_itself = journals, names_itself
        self._top = Folder()
        self._opened: dict[tuple[int, str], Opened] = {}

    def made(self, calls: Sequence[Call]) -> Iterator[Call]:
        """Make the calls, and yield each that changed something once it is made."""
        for call in calls:
            if self._make(call):
                yield call

    def _make(self, call: Call) -> bool:
        match call.name:
            case "openat":
                return self._open(call)
            case "write" | "writev" | "pwrite64" | "pwritev" | "pwritev2":
                return self._write(call)
            case "ftruncate" | "fallocate" | "truncate":
                return self._resize(call)
            case "fsync" | "fdatasync":
                return self._sync(call)
            case "lseek" | "dup" | "fcntl":
                return self._move(call)
            case "sendfile" | "copy_file_range":
                assert self._find(call.descriptor[1]) is None, f"not followed: {call}"
                return False
            case _:
                return self._change_names(call)

    # --- names ---

    def _find(self, path: str) -> "File | Folder | None":
        if path == self._root:
            return self._top
        node: File | Folder | None = self._top if path.startswith(f"{self._root}/") else None
        for name in path.removeprefix(f"{self._root}/").split("/"):
            node = node.now.get(name) if isinstance(node, Folder) else None
        return node

    def _place(self, path: str) -> tuple[Folder, str]:
        folder = self._find(str(Path(path).parent))
        assert isinstance(folder, Folder), path
        return folder, Path(path).name

    def _open(self, call: Call) -> bool:
        (path,), flags = call.paths, call.arguments
        if not path.startswith(f"{self._root}/") or not ("O_WRONLY" in flags or "O_RDWR" in flags):
            return False
        node = self._find(path)
        is_new = node is None
        if is_new:
            folder, name = self._place(path)
            node = File()
            folder.change(call.ended, {name: node})
        assert isinstance(node, File), call
        if "O_TRUNC" in flags and node.now:
            node.resize(call.ended, 0)
        number = int(call.result.split("<")[0])
        self._opened[number, path] = Opened(node, 0, appends="O_APPEND" in flags, is_synced="SYNC" in flags)
        return is_new

    def _change_names(self, call: Call) -> bool:
        path, *others = call.paths
        if not path.startswith(f"{self._root}/"):
            return False
        folder, name = self._place(path)
        if call.name.startswith("mkdir"):
            folder.change(call.ended, {name: Folder()})
        elif not others:
            folder.change(call.ended, {name: None})
        else:
            other, new = self._place(others[0])
            assert other is folder, f"not followed: {call}"
            changed: dict[str, File | Folder | None] = {new: folder.now[name]}
            folder.change(call.ended, changed if call.name.startswith("link") else {name: None, **changed})
        return True

    # --- content ---

    def _write(self, call: Call) -> bool:
        number, path = call.descriptor
        content = b"".join(call.texts)[: int(call.result)]
        if path == self._told_path:
            self.told += content.decode().splitlines()
            return True
        opened, node = self._opened.get((number, path)), self._find(path)
        # A file that was removed, or another one that has its name now, is none of those that may be left.
        if opened is None or opened.node is not node:
            return False
        if call.name in ("write", "writev"):
            offset = len(opened.node.now) if opened.appends else opened.offset
            opened.offset = offset + len(content)
        else:
            offset = call.numbers[-1]
        opened.node.write(call.ended, offset, content)
        if opened.is_synced:
            pages = range(offset // PAGE_BYTES, (offset + len(content) - 1) // PAGE_BYTES + 1)
            opened.node.sync(call.ended + 1, pages)
        return True

    def _resize(self, call: Call) -> bool:
        node = self._find(call.paths[0] if call.name == "truncate" else call.descriptor[1])
        if not isinstance(node, File):
            return False
        size = max(len(node.now), sum(call.numbers[-2:])) if call.name == "fallocate" else call.numbers[-1]
        node.resize(call.ended, size)
        return True

    def _move(self, call: Call) -> bool:
        number, path = call.descriptor
        opened = self._opened.get((number, path))
        if opened is not None and call.name == "lseek":
            opened.offset = int(call.result)
        elif opened is not None and (call.name == "dup" or "F_DUPFD" in call.arguments):
            self._opened[int(call.result.split("<")[0]), path] = opened
        return False

    def _sync(self, call: Call) -> bool:
        node = self._find(call.descriptor[1])
        if node is None:
            return False
        node.sync(call.begun)
        for folder in self._top.all_folders() if self._journals or self._names_itself else ():
            made = [line for line, names in folder.unsynced if self._journals or node in names.values()]
            folder.sync(min(call.begun, max(made, default=-1) + 1))
        return True

    # --- the power loss ---

    def write_left(self, target: Path, chance: Random, kept: Kept) -> None:
        """Write into a new folder what may be left now, as another start of the machine finds it."""
        lines = sorted({line for folder in self._top.all_folders() for line, _ in folder.unsynced})
        last = chance.choice([-1, *lines]) if self._journals else None
        self._write_folder(self._top, target, chance, kept, last)

    def _write_folder(self, folder: Folder, target: Path, chance: Random, kept: Kept, last: int | None) -> None:
        changes = len(folder.unsynced)
        some = chance.randint(0, changes) if last is None else sum(line <= last for line, _ in folder.unsynced)
        target.mkdir()
        for name, node in folder.left({"none": 0, "some": some, "all": changes}[kept]).items():
            if isinstance(node, Folder):
                self._write_folder(node, target / name, chance, kept, last)
            else:
                here = boot_id().encode()
                (target / name).write_bytes(node.left(chance, kept).replace(here, b"0" * len(here)))
