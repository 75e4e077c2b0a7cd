"""`eventsrc projections PATH`: lists and steers projections, whether or not a runtime has the store open."""

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, ClassVar, Literal, TypeAlias

from ...actors.views.lmdb_view import LmdbViews
from ...storage.control.board import ProjectionAction
from ...storage.environment.folder import VIEWS_FOLDER
from ...storage.errors import EventSourcingError
from ...storage.reader import LogReader
from ...storage.record import NS_PER_SECOND
from .argument_types import AddCommand
from .control_boards import Place, add_actions, ask_or_leave, ask_runtime, places, print_answers
from .output import print_rows

AskedOfProjection: TypeAlias = ProjectionAction | Literal["retry", "delete"]
"""`retry` is sent to a runtime as `resume`; `delete` is done without one."""


class NoSuchProjection(EventSourcingError):
    """No runtime has ever kept a projection of this name at this store."""

    code: ClassVar[str] = "no_such_projection"

    def __init__(self, path: str, name: str, known: Sequence[str]) -> None:
        super().__init__(f"{path} has no projection {name!r}. Those that it has: {', '.join(known) or 'none'}.")
        self.path = path
        self.name = name
        self.known = known


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
    if action == "rebuild":
        return ask_or_leave(place.board, action, name, "", f"{name} will be rebuilt when one does")
    if place.board.has_runtime:
        return ask_runtime(place.board, action, name)
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


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    projections = add("projections", "list the views with position, lag, state and error, or steer one")
    add_actions(
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
