"""The flights demo: what was answered is in the store, and a second run adds nothing."""

import gzip
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from eventsrc import Runtime
from eventsrc.demos import flights
from eventsrc.demos.flights_board import Board
from eventsrc.demos.flights_check import check_nothing_is_missing
from eventsrc.demos.flights_data import SAMPLE, Flight, read_flights
from eventsrc.demos.flights_domain import Aircraft, Arrive, Depart, Schedule
from eventsrc.demos.flights_feed import Answers

FLIGHTS, UNASSIGNED, COMMANDS, EVENTS = 6_104, 345, 17_031, 16_692
"""Of the week: counted from the file by other means. The events are one for each command that is accepted, and six for
flights that were diverted and never heard of."""


@pytest.fixture(name="week", scope="module")
def _week() -> list[Flight]:
    return read_flights(SAMPLE)


@pytest.fixture(name="console")
def _console() -> Console:
    return Console(quiet=True)


async def test_a_second_run_adds_nothing(week: list[Flight], console: Console, tmp_path: Path) -> None:
    assert sum(not flight.tail_number for flight in week) == UNASSIGNED

    first = await flights.main(week, tmp_path / "flights.db", console)
    assert first.answers.commands == COMMANDS
    assert first.answers.accepted == COMMANDS - UNASSIGNED
    assert dict(first.answers.reasons) == {"no tail number: no aircraft is assigned to the flight": UNASSIGNED}
    assert first.events_added == first.check.events == first.check.events_acknowledged == EVENTS
    assert first.check.nothing_is_missing

    second = await flights.main(week, tmp_path / "flights.db", console)
    assert (second.answers.accepted, second.answers.duplicates) == (0, COMMANDS - UNASSIGNED)
    assert second.answers.rejected == UNASSIGNED
    assert second.answers.events == first.answers.events
    assert second.answers.versions == first.answers.versions
    assert (second.events_added, second.check.events) == (0, EVENTS)
    assert second.check.nothing_is_missing


async def test_the_board_counts_what_the_file_says(week: list[Flight], tmp_path: Path) -> None:
    printed = io.StringIO()
    await flights.main(week, tmp_path / "flights.db", Console(file=printed, width=200))
    standing = printed.getvalue().index("departures on the board, on time most often")
    assert standing < printed.getvalue().index("Every command was answered"), "it was queried while events came in"
    async with Runtime.open(tmp_path / "flights.db", aggregates=[Aircraft], projections=[Board]) as runtime:
        rows = await runtime.view(Board.punctuality).all().rows()
    flown = [flight for flight in week if flight.tail_number and flight.departed]
    names = {
        "carrier": lambda flight: flight.name.split()[1][:2],
        "airport": lambda flight: flight.origin,
        "hour": lambda flight: f"{flight.scheduled:%H}",
    }
    assert {row.kind for row in rows} == set(names)
    for row in rows:
        delays = [
            (flight.departed - flight.scheduled).total_seconds() / 60
            for flight in flown
            if flight.departed and names[row.kind](flight) == row.name
        ]
        assert (row.departed, row.delay_minutes) == (len(delays), sum(delays)), row
        assert row.on_time == sum(delay < 15 for delay in delays), row
    cancelled = sum(bool(flight.tail_number) and flight.departed is None for flight in week)
    assert sum(row.cancelled for row in rows if row.kind == "airport") == cancelled


async def test_a_flight_that_is_in_the_file_twice_is_counted_once(
    week: list[Flight], console: Console, tmp_path: Path
) -> None:
    flights_twice = [flight for flight in week[:20] for _ in range(2)]
    for is_second in (False, True):
        outcome = await flights.main(flights_twice, tmp_path / "flights.db", console)
        assert (outcome.answers.accepted == 0) is is_second
        assert outcome.answers.duplicates >= outcome.check.events
        assert outcome.check.events_acknowledged == outcome.check.events > 20
        assert outcome.check.nothing_is_missing


async def test_a_missing_event_is_found(tmp_path: Path) -> None:
    answers = Answers()
    async with Runtime.open(tmp_path / "flights.db", aggregates=[Aircraft]) as runtime:
        aircraft = runtime.actor(Aircraft, "N1")
        answers.add(await aircraft.ask(Schedule("one", "N1", "EWR", "IAH", "2013-02-04 05:00")))
        answers.versions["aircraft-N1"] += 1
        check = await check_nothing_is_missing(runtime, answers)
    assert check.events_missing == 1
    assert not check.nothing_is_missing


async def test_a_diverted_flight_is_closed_when_its_aircraft_departs_a_day_later(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path / "flights.db", aggregates=[Aircraft]) as runtime:
        aircraft = runtime.actor(Aircraft, "N1")
        for flight, at in (("one", "2013-02-04 05:00"), ("two", "2013-02-04 23:00"), ("three", "2013-02-05 06:00")):
            await aircraft.ask(Schedule(flight, "N1", "EWR", "IAH", at))
            receipt = await aircraft.ask(Depart(flight, at))
        assert [type(event).__name__ for event in receipt.events] == ["LostSightOf", "Departed"]
        await aircraft.ask(Arrive("two", "2013-02-05 03:00"))
        state = await aircraft.state()
    assert list(state.airborne) == ["three"]
    assert (state.departed_count, state.arrived_count, state.lost_count, state.airport) == (3, 1, 1, "IAH")


def test_another_file_may_be_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with gzip.open(SAMPLE, "rt") as file:
        header, first, second = next(file), next(file), next(file)
    (tmp_path / "two.csv").write_text(header + first + second)
    assert flights.run(["--data", str(tmp_path / "two.csv"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["commands"], found["accepted"], found["events_added"]) == (6, 6, 6)


def test_a_data_file_that_is_not_there_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        flights.run(["--data", str(tmp_path / "none.csv")])
    assert stopped.value.code == 2
    assert "none.csv" in capsys.readouterr().err


def test_the_demo_says_so_when_it_is_run_again(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "eventsrc", "demo", "flights", "--store", "flights.db"]
    first, second = (
        subprocess.run([*command, *extra], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        for extra in ([], ["--json"])
    )
    assert (first.returncode, first.stderr, second.returncode) == (0, "", 0)
    assert first.stdout.splitlines()[-1].startswith(
        "Nothing is missing: all 16,692 events of the answers are in the log"
    )
    assert first.stdout.endswith("and every aircraft's state counts them.\n"), "no line is broken when piped"
    assert not set(first.stdout) & set("━│┃─"), "nor are there lines around what programs may read"
    for told in (
        "events added       16,692",
        "commands a second",
        "The busiest aircraft",
        "The last events of aircraft-",
    ):
        assert told in first.stdout
    assert "All of it was in the store" not in first.stdout
    assert "All of it was in the store" in second.stderr
    found = json.loads(second.stdout)
    assert (found["accepted"], found["events_added"], found["events"]) == (0, 0, EVENTS)
    assert found["nothing_is_missing"] is True
