"""The control boards of a store: the published status of its runtimes, and the requests of commands to them."""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import attrs

from ...storage.control.board import PROJECTION_PREFIX, Action, ControlBoard
from ...storage.environment.folder import CONTROL_FOLDER, READERS_FOLDER
from ...storage.errors import StorePathInvalid
from ...storage.reader import LogReader
from .exit_codes import EXIT_REFUSED
from .output import print_json

ANSWER_SECONDS_MAX: Final = 10.0
"""How long a command waits for the runtime's answer before it ends without one."""
ANSWER_POLL_SECONDS: Final = 0.05
WRITER: Final = "writer"
"""The name of the place beside the log."""


@attrs.frozen
class Place:
    """A runtime's control board: the writer's, beside the log, or a reader's."""

    name: str
    folder: Path
    """The folder of the board and the views."""
    board: ControlBoard

    @property
    def projections(self) -> dict[str, dict[str, Any]]:
        """The last published status of each of the runtime's projections, by name."""
        return {
            subject.removeprefix(PROJECTION_PREFIX): value
            for subject, value in self.board.status().items()
            if subject.startswith(PROJECTION_PREFIX)
        }

    @property
    def running_projections(self) -> list[str]:
        """The names of the projections that a running runtime works on."""
        if not self.board.has_runtime:
            return []
        names: list[str] = self.board.status().get("runtime", {}).get("projections", [])
        return names


@contextmanager
def places(path: str) -> Iterator[list[Place]]:
    """Open the control boards of a store. Raises `StorePathInvalid` where there are none."""
    folders = {WRITER: Path(path)}
    readers = Path(path) / READERS_FOLDER
    if readers.is_dir():
        folders |= {f"reader {folder.name}": folder for folder in sorted(readers.iterdir())}
    with ExitStack() as stack:
        found = []
        for name, folder in folders.items():
            if (folder / CONTROL_FOLDER).is_dir():
                board = ControlBoard(folder / CONTROL_FOLDER)
                stack.callback(board.close)
                found.append(Place(name, folder, board))
        if not found:
            raise StorePathInvalid(path, f"No runtime has ever run on a store at {path}.")
        yield found


def ask_or_leave(board: ControlBoard, action: Action, subject: str, argument: str, left: str) -> tuple[str, bool]:
    """Ask the running runtime; without one, leave the request for the next runtime and answer with `left`."""
    if board.has_runtime:
        return ask_runtime(board, action, subject, argument)
    board.request(action, subject, argument)
    return f"no runtime has the store open; {left}", True


def ask_runtime(board: ControlBoard, action: Action, subject: str, argument: str = "") -> tuple[str, bool]:
    """Ask, and wait for the answer; returns the text to print, and whether all is well."""
    request_id = board.request(action, subject, argument)
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    while time.monotonic() < deadline:
        answer = board.answer(request_id)
        if answer is not None:
            return answer or f"{action} {subject or 'all'}: done", not answer
        time.sleep(ANSWER_POLL_SECONDS)
    return f"{action} {subject}: asked, and not done yet; it stays asked", True


def ask_writer(options: argparse.Namespace, action: Action, subject: str | None, argument: str = "") -> int | None:
    """Ask the runtime that has the store open for writing; return the exit code, or None without such a runtime."""
    try:
        with places(options.path) as found:
            running = [place for place in found if place.name == WRITER and place.board.has_runtime]
            if not running:
                return None
            return print_answers(running, [ask_runtime(running[0].board, action, subject or "", argument)], options)
    except StorePathInvalid:
        return None


def check_store(path: str) -> None:
    """Raise `StoreError` where there is no store, since opening a store for writing would make one."""
    LogReader.open(path).close()


def print_answers(asked: Sequence[Place], answers: Sequence[tuple[str, bool]], options: argparse.Namespace) -> int:
    """Print the answers to requests; returns the exit code."""
    for place, (text, is_well) in zip(asked, answers, strict=True):
        if options.json:
            print_json({"at": place.name, "answer": text, "ok": is_well})
        else:
            print(f"{place.name}: {text}")
    return 0 if all(is_well for _, is_well in answers) else EXIT_REFUSED


def add_actions(parser: argparse.ArgumentParser, actions: dict[str, str], *, unnamed: Sequence[str]) -> None:
    """Add `PATH [ACTION] [NAME]`; every action but those in `unnamed` needs a name."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "actions:\n" + "\n".join(f"  {action:10}{text}" for action, text in actions.items())
    parser.add_argument("action", nargs="?", choices=[*actions], metavar="ACTION", help=", ".join(actions))
    parser.add_argument("name", nargs="?", metavar="NAME", help="of which")

    def check(options: argparse.Namespace) -> None:
        if options.action not in (None, *unnamed) and options.name is None:
            parser.error(f"name it: {options.action} NAME")

    parser.set_defaults(check=check)
