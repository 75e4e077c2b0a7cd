"""The commands for projections and subscriptions, whether or not a runtime has the store open."""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, TypeAlias

import attrs

from ...actors.views.lmdb_view import LmdbViews
from ...storage.control.board import PROJECTION_PREFIX, Action, ControlBoard, ProjectionAction, SubscriptionAction
from ...storage.environment.folder import CONTROL_FOLDER, READERS_FOLDER, VIEWS_FOLDER
from ...storage.errors import EventSourcingError, StorePathInvalid
from ...storage.reader import LogReader
from ...storage.record import NS_PER_SECOND
from ..errors import UnknownSubscription
from .exit_codes import EXIT_REFUSED
from .output import format_time, print_json, print_rows

ANSWER_SECONDS_MAX: Final = 10.0
"""How long a command waits for the runtime's answer before it ends without one."""
ANSWER_POLL_SECONDS: Final = 0.05
AskedOfProjection: TypeAlias = ProjectionAction | Literal["retry", "delete"]
"""`retry` is sent to a runtime as `resume`; `delete` is done without one."""
WRITER: Final = "writer"
"""The name of the place beside the log."""


class NoSuchProjection(EventSourcingError):
    """No runtime has ever kept a projection of this name at this store."""

    code: ClassVar[str] = "no_such_projection"

    def __init__(self, path: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"{path} has no projection {name!r}. Those that it has: {', '.join(known) or 'none'}.")


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


# --- projections ---


def steer_projections(options: argparse.Namespace) -> int:
    """`eventsrc projections PATH [ACTION] [NAME]`."""
    with places(options.path) as found:
        if options.action in (None, "parked"):
            rows = _all_projection_rows(found, options.path)
            print_rows(rows if options.action is None else [row for row in rows if row["error"]], as_json=options.json)
            return 0
        concerned = [place for place in found if options.name in place.projections]
        if not concerned:
            known = sorted({name for place in found for name in place.projections})
            raise NoSuchProjection(options.path, options.name or "", known)
        answers = [_steer_projection(place, options.action, options.name) for place in concerned]
    return print_answers(concerned, answers, options)


def _all_projection_rows(found: Sequence[Place], path: str) -> list[dict[str, Any]]:
    try:
        log = LogReader.open(path)
    except EventSourcingError:
        # Without a readable log, an operator sees at least the published status.
        return [row for place in found for row in projection_rows(place, None)]
    with closing(log):
        return [row for place in found for row in projection_rows(place, log)]


def projection_rows(place: Place, log: LogReader | None) -> Iterator[dict[str, Any]]:
    """A row for each projection of one place; without a running runtime, from the status published last.

    Then the log tells how far the projection is behind, and without a log that is None.
    """
    paused = place.board.paused()
    running = place.running_projections
    for name, lag in sorted(place.projections.items()):
        is_running = name in running
        behind, seconds = (lag["events"], lag["seconds"]) if is_running else _lag_now(log, lag["position"])
        stopped = "paused" if name in paused else "not running"
        yield {
            "projection": name,
            "at": place.name,
            "position": lag["position"],
            "behind": behind,
            "seconds": None if seconds is None else round(seconds, 3),
            "state": lag["state"] if is_running else stopped,
            "rebuilding": lag["rebuilding"],
            "error": lag["error"],
        }


def _lag_now(log: LogReader | None, position: int) -> tuple[int | None, float | None]:
    """How far a view that no runtime works on is behind the log: events and seconds."""
    if log is None:
        return None, None
    behind = max(log.last_position - position, 0)
    # Only the event's time is read: the event itself may be in an archive that is out of reach.
    return behind, time.time() - log.time_at(position + 1) / NS_PER_SECOND if behind else 0.0


def _steer_projection(place: Place, asked: AskedOfProjection, name: str) -> tuple[str, bool]:
    if asked == "delete":
        return _delete_projection(place, name)
    action: ProjectionAction = "resume" if asked == "retry" else asked
    if place.board.has_runtime:
        return ask_runtime(place.board, action, name)
    if action == "rebuild":
        place.board.request(action, name)
        return f"no runtime has the store open; {name} will be rebuilt when one does", True
    place.board.set_paused(name, paused=action == "pause")
    what = "stay where it is" if action == "pause" else "go on"
    return f"no runtime has the store open; {name} will {what} when one does", True


def _delete_projection(place: Place, name: str) -> tuple[str, bool]:
    """Delete the view of a projection that no program has any more; a running runtime keeps its projections."""
    if name in place.running_projections:
        return f"the runtime has {name}; open it without, then delete", False
    was_here = LmdbViews(place.folder / VIEWS_FOLDER).remove(name)
    place.board.forget_projection(name)
    return f"{name} is deleted" if was_here else f"{name} had no view here; one in SQL is yours to drop there", True


# --- subscriptions ---


def steer_subscriptions(options: argparse.Namespace) -> int:
    """`eventsrc subscriptions PATH [ACTION] [NAME]`."""
    with places(options.path) as found:
        if options.action is None:
            print_rows([row for place in found for row in _subscription_rows(place)], as_json=options.json)
            return 0
        concerned = [place for place in found if options.name in (None, *place.board.subscriptions())]
        if options.action == "parked" and concerned:
            print_rows([row for place in concerned for row in _parked_rows(place, options.name)], as_json=options.json)
            return 0
        if not concerned:
            known = sorted({name for place in found for name in place.board.subscriptions()})
            raise UnknownSubscription(options.name or "", known)
        answers = [
            _steer_subscription(place.board, options.action, options.name, options.stream or "") for place in concerned
        ]
    return print_answers(concerned, answers, options)


def _subscription_rows(place: Place) -> Iterator[dict[str, Any]]:
    for name, progress in sorted(place.board.subscriptions().items()):
        yield {
            "subscription": name,
            "at": place.name,
            "position": progress.done_through,
            "read_through": progress.position,
            "streams_behind": len(progress.pending),
            "parked": len(place.board.parked(name)),
        }


def _parked_rows(place: Place, name: str | None) -> Iterator[dict[str, Any]]:
    for event in place.board.parked(name):
        yield {
            "subscription": event.subscription,
            "at": place.name,
            "position": event.position,
            "stream": event.stream,
            "attempts": event.attempts,
            "time": format_time(event.time_ns),
            "error": event.error or "comes after a parked event of its stream",
        }


def _steer_subscription(board: ControlBoard, action: SubscriptionAction, name: str, stream: str) -> tuple[str, bool]:
    if stream and all(event.stream != stream for event in board.parked(name)):
        return f"no event of the stream {stream!r} is parked in {name}", False
    if board.has_runtime:
        return ask_runtime(board, action, name, stream)
    if action == "delete":
        board.delete(name)
        return f"{name} is deleted", True
    board.request("retry", name, stream)
    return f"{name} will be handed its parked events when it is consumed next", True


# --- asking a runtime ---


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


def add_commands(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add these commands to the command line."""
    projections = add("projections", "list the views with position, lag, state and error, or steer one")
    _add_actions(
        projections,
        {
            "pause": "have it stay where it is, also after a restart",
            "resume": "have it go on",
            "retry": "have it try again after it failed",
            "rebuild": "build it anew beside the view that answers",
            "delete": "remove the view of one that no program has any more",
            "parked": "list those that stand still on an event, with the error",
        },
        unnamed=("parked",),
    )
    projections.set_defaults(run=steer_projections)

    subscriptions = add("subscriptions", "list the durable subscriptions, or steer one")
    _add_actions(
        subscriptions,
        {
            "parked": "list the events that were parked, with the error",
            "retry": "hand out again what is parked",
            "delete": "forget it, its progress and what is parked",
        },
        unnamed=("parked",),
    )
    subscriptions.add_argument("--stream", help="retry: only what is parked of this stream")
    subscriptions.set_defaults(run=steer_subscriptions)


def _add_actions(parser: argparse.ArgumentParser, actions: dict[str, str], *, unnamed: Sequence[str]) -> None:
    """Add `PATH [ACTION] [NAME]`; every action but those in `unnamed` needs a name."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "actions:\n" + "\n".join(f"  {action:10}{text}" for action, text in actions.items())
    parser.add_argument("action", nargs="?", choices=[*actions], metavar="ACTION", help=", ".join(actions))
    parser.add_argument("name", nargs="?", metavar="NAME", help="of which")

    def check(options: argparse.Namespace) -> None:
        if options.action not in (None, *unnamed) and options.name is None:
            parser.error(f"name it: {options.action} NAME")

    parser.set_defaults(check=check)
