"""The command for sagas: a list, the timeline of one saga, and an operator's decisions."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final, get_args

import msgspec

from ...actors.sagas.errors import UnknownSaga
from ...actors.sagas.events import (
    SAGA_EVENTS,
    CompensationBegun,
    EffectBegun,
    SagaStarted,
    StepBegun,
    WaitBegun,
)
from ...actors.sagas.history import SAGA_STATES
from ...actors.sagas.instance import SagaInstance, begun
from ...actors.sagas.saga import CATEGORY_PREFIX
from ...actors.serialization.event_codecs import EventCodecs
from ...actors.serialization.serializer import Serializer
from ...storage.control.board import SAGA_PREFIX, SagaAction
from ...storage.event_query import EventQuery
from ...storage.query import find_events, find_streams
from ...storage.reader import LogReader
from ...storage.record import NS_PER_SECOND, StoredEvent
from ..arguments import check_text
from .argument_types import AddCommand
from .control_boards import Place, ask_or_leave, places, print_answers
from .exit_codes import EXIT_USAGE
from .output import compact_json, format_time, make_console, make_table, print_json, print_table, print_tables

ACTIONS: Final[dict[str, SagaAction]] = {action.removeprefix(SAGA_PREFIX): action for action in get_args(SagaAction)}
"""The control board's actions by their names on the command line."""

_codecs: Final = EventCodecs(SAGA_EVENTS, Serializer())


def print_sagas(options: argparse.Namespace) -> int:
    """`eventsrc sagas PATH [ID [ACTION ...]]`."""
    if options.action is not None:
        return _steer(options)
    with closing(LogReader.open(options.path)) as log:
        if options.id is not None:
            return _print_timeline(log, options)
        found = (_instance(log, head.stream) for head in find_streams(log) if head.stream.startswith(CATEGORY_PREFIX))
        wanted = (saga for saga in found if options.state in (None, saga.state))
        if options.json:
            for saga in wanted:
                print_json(_saga_data(saga))
            return 0
        print_tables(("saga", "state", "step", "attempt", "seconds", "goes on at", "error"), map(_cells, wanted))
    return 0


def _cells(saga: SagaInstance) -> tuple[str, ...]:
    seconds = (saga.updated_ns - saga.started_ns) / NS_PER_SECOND
    wakes = "" if saga.wake_ns is None else format_time(saga.wake_ns)
    return saga.id, saga.state, saga.step, f"{saga.attempt}", f"{seconds:.3f}", wakes, saga.error


def _print_timeline(log: LogReader, options: argparse.Namespace) -> int:
    lines = list(_timeline(log, options.id))
    if not lines:
        raise UnknownSaga(
            f"There is no saga {options.id!r} in {options.path}. List them: eventsrc sagas {options.path}"
        )
    saga = _instance(log, options.id)
    if options.json:
        print_json({**_saga_data(saga), "timeline": lines})
        return 0
    console = make_console()
    console.print(f"{saga.id}: {saga.state}", highlight=False, soft_wrap=True)
    table = make_table("version", "time", "what", "of", "seconds", "details")
    for line in lines:
        table.add_row(
            f"{line['version']}",
            line["time"],
            line["what"],
            line["of"],
            "" if line["seconds"] is None else f"{line['seconds']:.3f}",
            line["details"],
        )
    print_table(table)
    return 0


def _timeline(log: LogReader, stream: str) -> Iterator[dict[str, Any]]:
    """One line for each record: what happened, to which step or call, and how long it took since that began."""
    began: dict[str, int] = {}
    for stored in find_events(log, EventQuery(), stream=stream):
        record = _codecs.decode(stored)
        data = dict(stored.payload)
        what = stored.type.removeprefix("saga.").replace("_", " ")
        of = "/".join(str(data.pop(name)) for name in ("scope", "step", "call") if name in data)
        seconds = None
        if isinstance(record, StepBegun | CompensationBegun | EffectBegun | WaitBegun):
            began[of] = stored.time_ns
        elif of in began:
            seconds = (stored.time_ns - began[of]) / NS_PER_SECOND
        yield {
            "version": stored.version,
            "time": format_time(stored.time_ns),
            "what": what,
            "of": of,
            "seconds": seconds,
            "details": _details(record, data),
        }


def _details(record: Any, data: dict[str, Any]) -> str:
    """The rest of a record's data, shortened: without the whole state, which `eventsrc show` prints."""
    if not isinstance(record, SagaStarted):
        data.pop("state", None)
    for name in ("after", "event_version"):
        data.pop(name, None)
    for name in ("until_ns", "retry_at_ns", "deadline_ns"):
        if data.get(name):
            data[name.removesuffix("_ns")] = format_time(data[name])
        data.pop(name, None)
    shown = {name: value for name, value in data.items() if value not in (None, "", {}, False, 0)}
    return ", ".join(
        f"{name} {value if isinstance(value, str) else compact_json(value)}" for name, value in shown.items()
    )


def _instance(log: LogReader, stream: str) -> SagaInstance:
    found: SagaInstance | None = None
    for stored in find_events(log, EventQuery(), stream=stream):
        record = _codecs.decode(stored)
        found = _first(record, stored) if found is None else found.after(record, stored)
    assert found is not None, f"{stream} is listed and empty"
    return found


def _first(record: Any, stored: StoredEvent) -> SagaInstance:
    assert isinstance(record, SagaStarted), f"{stored.stream} does not begin with saga.started"
    return begun(record, stored)


def _saga_data(saga: SagaInstance) -> dict[str, Any]:
    return {
        "id": saga.id,
        "saga": saga.saga,
        "key": saga.key,
        "state": saga.state,
        "step": saga.step,
        "attempt": saga.attempt,
        "error": saga.error,
        "started": format_time(saga.started_ns),
        "updated": format_time(saga.updated_ns),
        "goes_on_at": None if saga.wake_ns is None else format_time(saga.wake_ns),
    }


# --- steering ---


def _steer(options: argparse.Namespace) -> int:
    argument: dict[str, Any] = {"reason": options.reason}
    for name in ("name", "payload", "reason"):
        if getattr(options, name) is not None:
            check_text(name, getattr(options, name))
    if options.action == "signal":
        if options.name is None:
            print("eventsrc: name the signal: signal NAME", file=sys.stderr)
            return EXIT_USAGE
        argument = {"signal": options.name, "payload": _payload(options.payload)}
    elif not (options.reason or "").strip():
        print(f"eventsrc: say why: {options.action} --reason TEXT; it is recorded", file=sys.stderr)
        return EXIT_USAGE
    with closing(LogReader.open(options.path)) as log:
        if log.head(options.id) is None:
            raise UnknownSaga(f"There is no saga {options.id!r} in {options.path}.")
    with places(options.path) as found:
        writer: Place = found[0]
        left = f"{options.action} of {options.id} will be done when a runtime opens the store"
        asked = msgspec.json.encode(argument).decode()
        answer = ask_or_leave(writer.board, ACTIONS[options.action], options.id, asked, left)
        return print_answers([writer], [answer], options)


def _payload(text: str | None) -> Any:
    """The payload as JSON, or the text itself where it is not JSON."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    sagas = add("sagas", "list the sagas, show the timeline of one, or decide on one that is parked")
    sagas.add_argument("id", nargs="?", metavar="ID", help="the saga's id, as the list shows it")
    sagas.add_argument("action", nargs="?", choices=[*ACTIONS], help="what to do with it; see --reason")
    sagas.add_argument("name", nargs="?", metavar="NAME", help="signal: which")
    sagas.add_argument("payload", nargs="?", metavar="PAYLOAD", help="signal: what comes with it, as JSON or text")
    sagas.add_argument("--reason", help="retry, skip, abandon: why; it is recorded")
    sagas.add_argument("--state", choices=SAGA_STATES, help="list only those in this state")
    sagas.set_defaults(run=print_sagas)
