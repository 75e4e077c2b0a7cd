"""A file of flights becomes commands in time order."""

import gzip
from datetime import datetime
from pathlib import Path

import pytest

from eventsrc.demos.flights_data import SAMPLE, UNASSIGNED, DataInvalid, Flight, Step, read_flights, steps_by_day
from eventsrc.demos.flights_domain import Arrive, Cancel, Depart, Schedule

HEADER = (
    "year,month,day,sched_dep_time,dep_time,dep_delay,sched_arr_time,arr_time,arr_delay,"
    "carrier,flight,tailnum,origin,dest"
)


def read(tmp_path: Path, *rows: str) -> list[Flight]:
    file = tmp_path / "flights.csv"
    file.write_text("\n".join([HEADER, *rows]) + "\n")
    return read_flights(file)


def steps(tmp_path: Path, *rows: str) -> list[Step]:
    return [step for _, steps in steps_by_day(read(tmp_path, *rows)) for step in steps]


def test_a_flight_is_scheduled_a_day_ahead_then_departs_and_arrives(tmp_path: Path) -> None:
    found = steps(tmp_path, "2013,1,1,515,517,2,819,830,11,UA,1545,N14228,EWR,IAH")
    assert [(step.at, step.command) for step in found] == [
        (
            datetime(2012, 12, 31, 5, 15),
            Schedule("2013-01-01 UA1545 EWR", "N14228", "EWR", "IAH", "2013-01-01 05:15"),
        ),
        (datetime(2013, 1, 1, 5, 17), Depart("2013-01-01 UA1545 EWR", "2013-01-01 05:17")),
        (datetime(2013, 1, 1, 8, 30), Arrive("2013-01-01 UA1545 EWR", "2013-01-01 08:30")),
    ]
    assert {step.aircraft for step in found} == {"N14228"}


def test_a_flight_without_a_departure_was_cancelled(tmp_path: Path) -> None:
    found = steps(tmp_path, "2013,1,1,630,NA,NA,815,NA,NA,EV,4308,N18120,EWR,RDU")
    assert [type(step.command) for step in found] == [Schedule, Cancel]


def test_a_flight_without_an_arrival_was_diverted(tmp_path: Path) -> None:
    found = steps(tmp_path, "2013,1,1,2000,2030,30,2310,NA,NA,UA,1,N1,EWR,IAH")
    assert [type(step.command) for step in found] == [Schedule, Depart]


def test_a_flight_without_an_aircraft_is_left_to_the_domain(tmp_path: Path) -> None:
    found = steps(tmp_path, "2013,1,2,1545,NA,NA,1910,NA,NA,AA,133,NA,JFK,LAX")
    assert [(step.aircraft, type(step.command)) for step in found] == [(UNASSIGNED, Schedule)]


@pytest.mark.parametrize(
    ("row", "departed", "arrived"),
    [
        pytest.param(
            "2013,1,1,2359,5,6,350,340,-10,B6,1,N1,JFK,PSE", "2013-01-02 00:05", "2013-01-02 03:40", id="after midnight"
        ),
        pytest.param(
            "2013,1,2,5,2350,-15,400,2400,-240,B6,1,N1,JFK,PSE",
            "2013-01-01 23:50",
            "2013-01-02 00:00",
            id="early, before midnight, and arriving at it",
        ),
        pytest.param(
            "2013,1,9,900,641,1301,1530,1242,1272,HA,51,N384HA,JFK,HNL",
            "2013-01-10 06:41",
            "2013-01-10 12:42",
            id="a day late",
        ),
        pytest.param(
            "2013,1,1,2300,2400,60,130,230,60,B6,1,N1,JFK,PSE", "2013-01-02 00:00", "2013-01-02 02:30", id="2400"
        ),
    ],
)
def test_clock_times_get_their_day(tmp_path: Path, row: str, departed: str, arrived: str) -> None:
    (flight,) = read(tmp_path, row)
    assert flight.departed == datetime.fromisoformat(departed)
    assert flight.arrived == datetime.fromisoformat(arrived)


def test_steps_come_in_time_order_by_day_and_each_has_a_key_of_its_own() -> None:
    days = list(steps_by_day(read_flights(SAMPLE)))
    assert [day for day, _ in days] == sorted({day for day, _ in days})
    assert all(step.at.date() == day for day, steps in days for step in steps)
    times = [step.at for _, steps in days for step in steps]
    assert times == sorted(times)
    keys = [step.idempotency_key for _, steps in days for step in steps]
    assert len(keys) == len(set(keys)) == 17_031


def test_a_file_that_is_not_one_of_flights_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    with pytest.raises(DataInvalid, match=r"other\.csv, line 1: there is no column year, month"):
        read_flights(other)


def test_a_bad_row_is_named_by_its_line(tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match=r"flights\.csv, line 2: invalid literal"):
        read(tmp_path, "2013,1,x,515,517,2,819,830,11,UA,1545,N14228,EWR,IAH")


def test_a_file_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(f"{HEADER}\n".encode())[:-8])
    with pytest.raises(DataInvalid, match="end-of-stream"):
        read_flights(cut)


def test_a_file_that_is_not_packed_is_named(tmp_path: Path) -> None:
    plain = tmp_path / "plain.csv.gz"
    plain.write_text(f"{HEADER}\n")
    with pytest.raises(DataInvalid, match=r"plain\.csv\.gz, line 0: Not a gzipped file"):
        read_flights(plain)


def test_a_row_that_is_too_short_is_named_by_its_line_and_an_empty_line_is_none(tmp_path: Path) -> None:
    whole = "2013,1,1,515,517,2,819,830,11,UA,1545,N14228,EWR,IAH"
    assert len(read(tmp_path, f"{whole}\n\n")) == 1
    with pytest.raises(DataInvalid, match=r"flights\.csv, line 4: the row has 3 values, too few for its columns"):
        read(tmp_path, f"{whole}\n\n2013,1,1")
