"""Limits and queries of a wrong kind are told by errors of their own, which are also those of Python."""

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from eventsrc import (
    AnyOf,
    EventLog,
    EventQuery,
    EventQueryInvalid,
    EventSourcingError,
    LimitInvalid,
    Limits,
    MemoryLog,
    StorePathInvalid,
)


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "5", None, math.nan])
def test_a_count_is_a_whole_number_from_one_on(value: Any) -> None:
    with pytest.raises(LimitInvalid, match=r"^Limits\.streams_max=.*: give a whole number, 1 or more\.$"):
        Limits(streams_max=value)


@pytest.mark.parametrize("value", [0, -1, True, "5", None, math.nan, timedelta(seconds=5), 10**400])
def test_a_time_is_a_positive_number_of_seconds(value: Any) -> None:
    with pytest.raises(LimitInvalid, match=r"^Limits\.command_timeout_seconds=.*: give a positive number\.$"):
        Limits(command_timeout_seconds=value)


def test_whole_seconds_and_no_end_are_times() -> None:
    assert Limits(command_timeout_seconds=5).command_timeout_seconds == 5.0
    assert Limits(command_timeout_seconds=math.inf).command_timeout_seconds == math.inf
    with pytest.raises(LimitInvalid, match=r"idempotency_window_seconds=1\d+\.0 .*, 3\.1536e\+09 at most"):
        Limits(idempotency_window_seconds=1e11)


@pytest.mark.parametrize("value", [5, {"streams_max": 5}, Limits])
def test_what_is_no_limits(value: Any, tmp_path: Path) -> None:
    with pytest.raises(LimitInvalid, match=r"limits=.* cannot be used: give Limits\(\.\.\.\)"):
        MemoryLog(limits=value)
    with pytest.raises(LimitInvalid, match=r"limits=.* cannot be used: give Limits\(\.\.\.\)"):
        EventLog(tmp_path, limits=value)


def test_what_is_no_path_or_size_of_a_log(tmp_path: Path) -> None:
    wrong: Any
    for wrong in (None, 5, b"bank.db"):
        with pytest.raises(StorePathInvalid, match="is no path of a store: give a text or a Path"):
            EventLog(wrong)
    for wrong in ("1", 1.5, None):
        with pytest.raises(LimitInvalid, match=r"map_size_bytes=.* cannot be used: give a whole number"):
            EventLog(tmp_path, map_size_bytes=wrong)


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        ({"after": "1"}, "after must be a position, a whole number from 0 on, not '1'"),
        ({"after": True}, "not True"),
        ({"after": -1}, "not -1"),
        ({"category": Limits}, "category must be a text, not <class"),
        ({"correlation_id": 5}, "correlation_id must be a text, not 5"),
        ({"metadata": [1]}, "metadata must be a mapping by name"),
        ({"metadata": None}, "metadata must be a mapping by name"),
        ({"metadata": {1: 2}}, "metadata must be a mapping by name"),
        ({"types": [5]}, "types must be stored names or event classes, not 5"),
    ],
)
def test_a_criterion_of_a_wrong_type(criterion: Any, words: str) -> None:
    with pytest.raises(EventQueryInvalid, match=words):
        EventQuery(**criterion)


@pytest.mark.parametrize("values", ["ab", b"ab", 5])
def test_several_values_are_no_text(values: Any) -> None:
    with pytest.raises(EventQueryInvalid, match=r"AnyOf takes several values, AnyOf\(\(1, 2\)\)"):
        AnyOf(values)
    assert AnyOf(["a", "b"]).values == ("a", "b")


@pytest.mark.parametrize("error", [LimitInvalid, EventQueryInvalid])
def test_programs_catch_them_as_errors_of_python_as_well(error: type[Exception]) -> None:
    assert issubclass(error, EventSourcingError)
    assert issubclass(error, ValueError)
    assert issubclass(error, TypeError)
