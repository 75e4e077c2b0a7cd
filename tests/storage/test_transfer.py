"""Backups, exports and forks: what arrives is what was sent, and what does not fit is refused."""

import gzip
import json
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from eventsrc.storage.backup import backup, restore
from eventsrc.storage.commit import ANY, Appended, Commit, NewEvent, StreamAppend
from eventsrc.storage.divergence import Divergence, StreamDivergence, divergence
from eventsrc.storage.errors import BackupRefused, ImportRefused
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import StoredEvent
from eventsrc.storage.transfer import events_of, export_events, import_events
from eventsrc.storage.verify import verify

ODD = [
    {"bytes": b"\x00\xff", "float": 0.1, "nan": float("inf"), "none": None, "text": "ß\U0001f600"},
    {"nested": {"list": [1, [2, {"three": b"3"}]], "big": 2**63, "small": -(2**63), "whole": 1.0}},
    {"keys": {1: "int", "1": "text"}},
    {},
]


def fill(log: EventLog, count: int = 300) -> None:
    commit_id = log.last_commit_id
    for number in range(count):
        commit_id += 1
        payload = ODD[number] if number < len(ODD) else {"number": number}
        events = [
            NewEvent(
                f"type.{number % 3}",
                payload,
                1 + number % 2,
                None,
                f"c{number}",
                "cause",
                {"m": number},
                (f"t{number % 5}",),
            ),
            NewEvent("more", {"and": number}),
        ]
        appends = [StreamAppend(f"s{number % 7}-x", ANY, events), StreamAppend(f"u{number % 4}-y", ANY, events[1:])]
        (outcome,) = log.append([Commit(commit_id, 1_000 * (number // 3), appends)])
        assert isinstance(outcome, Appended)


def all_of(path: Path) -> list[StoredEvent]:
    with closing(LogReader.open(path)) as log:
        assert not list(verify(log))
        return list(events_of(log))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    with closing(EventLog(tmp_path / "source")) as log:
        fill(log)
    return tmp_path / "source"


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_an_export_comes_back_with_positions_times_and_hashes(source: Path, tmp_path: Path, name: str) -> None:
    with closing(LogReader.open(source)) as log:
        assert export_events(log, tmp_path / name) == 900
    with closing(EventLog(tmp_path / "target")) as log:
        assert import_events(log, tmp_path / name) == 900
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))


def test_an_increment_goes_on_where_the_last_one_ended(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "1.jsonl")
    with closing(EventLog(source)) as log:
        fill(log, 50)
        export_events(log, tmp_path / "2.jsonl", after=900)
        with pytest.raises(ImportRefused, match="has no position 9999"):
            export_events(log, tmp_path / "3.jsonl", after=9_999)
    with closing(EventLog(tmp_path / "target")) as log:
        with pytest.raises(ImportRefused, match=r"begins after position 900, and .* ends at 0"):
            import_events(log, tmp_path / "2.jsonl")
        import_events(log, tmp_path / "1.jsonl")
        with pytest.raises(ImportRefused, match=r"begins after position 0, and .* ends at 900"):
            import_events(log, tmp_path / "1.jsonl")
        import_events(log, tmp_path / "2.jsonl")
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))


def test_what_was_changed_on_the_way_is_found(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        export_events(log, tmp_path / "events.jsonl")
    lines = (tmp_path / "events.jsonl").read_text().splitlines()

    def refused(changed: list[str], match: str) -> None:
        (tmp_path / "changed.jsonl").write_text("\n".join(changed))
        target = tmp_path / f"target-{len(list(tmp_path.iterdir()))}"
        with closing(EventLog(target)) as log, pytest.raises(ImportRefused, match=match):
            import_events(log, tmp_path / "changed.jsonl")

    event = json.loads(lines[100])
    refused([*lines[:100], json.dumps({**event, "payload": {"number": -1}}), *lines[101:]], "do not give the hash")
    refused([*lines[:100], json.dumps({**event, "time_ns": 1}), *lines[101:]], "do not give the hash|do not fit")
    refused([*lines[:100], *lines[101:]], "do not fit|do not give the hash")
    refused([*lines[:100], lines[101], lines[100], *lines[102:]], "do not fit|do not give the hash")
    refused([*lines[:100], "{}", *lines[101:]], "line 101")
    refused(lines[1:], "is no export of eventsrc")
    refused([json.dumps({"eventsrc_export": 9, "after": 0, "after_hash": ""})], "of version 9")
    refused([], "is no export of eventsrc")
    packed = gzip.compress("\n".join(lines).encode())
    (tmp_path / "cut.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    with closing(EventLog(tmp_path / "cut")) as log, pytest.raises(ImportRefused, match="is damaged"):
        import_events(log, tmp_path / "cut.jsonl.gz")


def test_a_backup_is_a_sound_copy_while_the_store_is_written(source: Path, tmp_path: Path) -> None:
    with closing(EventLog(source)) as log:
        summary = backup(log, tmp_path / "copy")
        fill(log, 10)
    assert summary.events == 900
    assert repr(all_of(tmp_path / "copy")) == repr(all_of(source)[:900])
    with closing(EventLog(tmp_path / "copy")) as log:
        fill(log, 1)
    with closing(LogReader.open(source)) as log, pytest.raises(BackupRefused, match="is there already"):
        backup(log, tmp_path / "copy")


def test_a_store_is_restored_to_any_point(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        backup(log, tmp_path / "copy")
    with closing(EventLog(source)) as log:
        fill(log, 60)
        export_events(log, tmp_path / "since.jsonl.gz", after=900)
    whole = all_of(source)
    increments = [tmp_path / "since.jsonl.gz"]
    points = {
        "all": {},
        "in-base": {"to_position": 450},
        "in-increment": {"to_position": 1_000},
        "time": {"to_time_ns": 50_000},
    }
    for name, point in points.items():
        with closing(LogReader.open(tmp_path / "copy")) as log:
            end = restore(
                log,
                tmp_path / name,
                increments=increments,
                to_position=point.get("to_position"),
                to_time_ns=point.get("to_time_ns"),
            )
        found = all_of(tmp_path / name)
        assert repr(found) == repr(whole[:end])
        assert len(found) == end
    assert len(all_of(tmp_path / "all")) == len(whole)
    assert len(all_of(tmp_path / "in-base")) == 450
    assert len(all_of(tmp_path / "in-increment")) == 1_000
    at_time = all_of(tmp_path / "time")
    assert at_time[-1].time_ns <= 50_000 < whole[len(at_time)].time_ns


DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(payloads=st.lists(st.dictionaries(st.text(), DATA, max_size=4), min_size=1, max_size=5))
def test_any_payload_survives_an_export(
    payloads: list[dict[str, object]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with closing(EventLog(folder / "source")) as log:
        for number, payload in enumerate(payloads, 1):
            (outcome,) = log.append([Commit(number, number, [StreamAppend("s-1", ANY, [NewEvent("x", payload)])])])
            assert isinstance(outcome, Appended), outcome
        export_events(log, folder / "x.jsonl")
        hashes = [event.hash for event in events_of(log)]
    with closing(EventLog(folder / "target")) as log:
        import_events(log, folder / "x.jsonl")
        assert [event.hash for event in events_of(log)] == hashes


# --- a store and its fork


def test_two_logs_part_where_their_histories_do(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        end = log.last_position
        restore(log, tmp_path / "fork", to_position=100)
    with closing(LogReader.open(source)) as log, closing(EventLog(tmp_path / "fork")) as fork:
        assert divergence(log, fork).shared_position == 100
        head = fork.head("s0-x")
        assert head is not None
        events = [NewEvent("what.if", {})]
        fork.append([Commit(fork.last_commit_id + 1, 10**9, [StreamAppend("s0-x", ANY, events)])])
        fork.append([Commit(fork.last_commit_id + 1, 10**9, [StreamAppend("new-1", ANY, events)])])
        found = divergence(log, fork)
        assert found.shared_position == 100
        by_stream = {each.stream: each for each in found.streams}
        assert by_stream["s0-x"].shared_version == head.version
        assert by_stream["s0-x"].other_version == head.version + 1
        assert by_stream["new-1"] == StreamDivergence("new-1", 0, 0, 1)
        assert set(by_stream) == {event.stream for event in log.read(after=100, limit=end)} | {"new-1"}
        assert divergence(fork, log).streams[0].version == by_stream[found.streams[0].stream].other_version


def test_a_log_parts_from_itself_nowhere(source: Path, tmp_path: Path) -> None:
    with closing(LogReader.open(source)) as log:
        backup(log, tmp_path / "copy")
        with closing(LogReader.open(tmp_path / "copy")) as copy:
            assert divergence(log, copy) == Divergence(log.last_position, [])
    with closing(EventLog(tmp_path / "empty")) as empty, closing(LogReader.open(tmp_path / "copy")) as copy:
        assert divergence(empty, copy).shared_position == 0
