"""Exports and imports: what arrives is what was sent, and what does not fit is refused before anything is stored."""

import gzip
import hashlib
import io
import json
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transfer_cases import SECOND, all_of, fill, groups, keyed, root, store_with

from eventsrc.storage.commit import ANY, Commit, IdempotencyEntry, NewEvent, StreamAppend
from eventsrc.storage.contract import appended
from eventsrc.storage.copies.backup import fork
from eventsrc.storage.copies.errors import (
    DestinationExists,
    DestinationOverlaps,
    ExportAltered,
    ExportTruncated,
    ExportUnreadable,
    HistoryDiverged,
    ImportGap,
    ImportRefused,
    PointUnreachable,
)
from eventsrc.storage.copies.exporting import export_events
from eventsrc.storage.copies.importing import import_events, import_store
from eventsrc.storage.errors import CorruptRecord, StoreInUse, StorePathInvalid
from eventsrc.storage.limits import Limits
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return store_with(tmp_path / "source")


def export(store: Path, file: Path, *, after: int = 0) -> int:
    with closing(LogReader.open(store)) as log:
        return export_events(log, file, after=after)


def lines_of(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


# --- what arrives


@pytest.mark.parametrize("name", ["events.jsonl", "events.jsonl.gz"])
def test_an_export_comes_back_as_it_was(source: Path, tmp_path: Path, name: str) -> None:
    assert export(source, tmp_path / name) == 900
    assert import_store(str(tmp_path / "target"), tmp_path / name) == (900, 900)
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))
    assert groups(tmp_path / "target") == groups(source)
    assert root(tmp_path / "target") == root(source)


def test_an_export_says_what_it_holds_and_where_it_ends(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "e.jsonl", after=890)
    first, *events, last = map(json.loads, lines_of(tmp_path / "e.jsonl"))
    assert {**first, "root": ""} == {
        "eventsrc_export": 2,
        "after": 890,
        "root": "",
        "events": 10,
        "last_position": 900,
    }
    assert [event["position"] for event in events] == list(range(891, 901))
    content = (tmp_path / "e.jsonl").read_bytes()
    before_the_end = content[: content.rindex(b'{"end"')]
    assert last["end"] == {
        "events": 10,
        "last_position": 900,
        "root": root(source).hex(),
        "sha256": hashlib.sha256(before_the_end).hexdigest(),
    }


def test_the_same_events_give_the_same_file(source: Path, tmp_path: Path) -> None:
    for name in ("1.jsonl.gz", "2.jsonl.gz"):
        export(source, tmp_path / name)
    assert (tmp_path / "1.jsonl.gz").read_bytes() == (tmp_path / "2.jsonl.gz").read_bytes()


def test_a_commit_over_the_limits_of_today_is_moved_whole(tmp_path: Path) -> None:
    generous = Limits(commit_events_max=5_000, commit_size_bytes_max=1 << 24, event_size_bytes_max=1 << 20)
    events = [NewEvent("t", {"n": number, "text": "x" * 500}) for number in range(3_000)]
    with closing(EventLog(tmp_path / "source", limits=generous)) as log:
        appended(log.append([Commit(1, 1, [StreamAppend("a-1", ANY, events)])])[0])
        appended(log.append([Commit(2, 1, [StreamAppend("a-1", ANY, [NewEvent("t", {"text": "x" * 500_000})])])])[0])
        fork(log, 3_001, tmp_path / "fork")
    export(tmp_path / "source", tmp_path / "e.jsonl")
    assert import_store(str(tmp_path / "target"), tmp_path / "e.jsonl") == (3_001, 3_001)
    for name in ("target", "fork"):
        assert groups(tmp_path / name) == [(1, 3_000, 1, 1), (3_001, 1, 2, 2)]
        assert root(tmp_path / name) == root(tmp_path / "source")


def test_a_payload_that_was_encoded_by_others_keeps_its_bytes(tmp_path: Path) -> None:
    # A map whose value is an integer in more bytes than it needs: what msgspec would write has another hash.
    wasteful = msgspec.Raw(b"\x81\xa1a\xcd\x00\x01")
    with closing(EventLog(tmp_path / "source")) as log:
        appended(log.append([Commit(1, 1, [StreamAppend("a-1", ANY, [NewEvent("t", wasteful)])])])[0])
    export(tmp_path / "source", tmp_path / "e.jsonl")
    import_store(str(tmp_path / "target"), tmp_path / "e.jsonl")
    assert root(tmp_path / "target") == root(tmp_path / "source")
    first, event, end = map(json.loads, lines_of(tmp_path / "e.jsonl"))
    event["type"] = "another"
    write_export(tmp_path / "changed.jsonl", [first, event, end])
    with pytest.raises(ExportAltered, match="its fields are not those of its record"):
        import_store(str(tmp_path / "changed"), tmp_path / "changed.jsonl")


def test_idempotency_keys_that_are_alive_go_along(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path / "source")) as log:
        for number, (key, expires) in enumerate([("dead", 2), ("alive", 99), ("last", 99)], 1):
            appended(log.append([keyed(number, key, expires_ns=expires * SECOND)])[0])
    export(tmp_path / "source", tmp_path / "e.jsonl")
    import_store(str(tmp_path / "target"), tmp_path / "e.jsonl")
    with closing(LogReader.open(tmp_path / "target")) as log:
        found = {key: log.idempotency(f"keyed-{key}", [key], now_ns=1) for key in ("dead", "alive", "last")}
    assert found["dead"] == {}
    assert found["alive"]["alive"].position == 2
    assert found["last"]["last"].version == 1
    all_of(tmp_path / "target")


DATA = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(0, 9), inner, max_size=3),
    max_leaves=10,
)
MAPS = st.dictionaries(st.text(), DATA, max_size=4)
NAMES = st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=20)
EVENTS = st.builds(
    NewEvent,
    type=NAMES,
    payload=MAPS,
    schema_version=st.integers(1, 2**31),
    kind=st.none() | st.sampled_from(["created", "updated", "deleted", "snapshot", "compacted", "saga_step"]),
    correlation_id=st.text(),
    causation_id=st.text(),
    metadata=MAPS,
    tags=st.lists(NAMES, max_size=3, unique=True).map(tuple),
)
COMMITS = st.lists(st.lists(st.tuples(NAMES, EVENTS), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(commits=COMMITS)
def test_any_history_survives_an_export(
    commits: list[list[tuple[str, NewEvent]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("any")
    with closing(EventLog(folder / "source")) as log:
        for number, events in enumerate(commits, 1):
            appends = [StreamAppend(stream, ANY, [event]) for stream, event in events]
            appended(log.append([Commit(number, number, appends)])[0])
    export(folder / "source", folder / "x.jsonl")
    import_store(str(folder / "target"), folder / "x.jsonl")
    assert root(folder / "target") == root(folder / "source")
    assert groups(folder / "target") == groups(folder / "source")
    assert repr(all_of(folder / "target")) == repr(all_of(folder / "source"))


# --- what was changed on the way


def write_export(file: Path, lines: list[dict[str, object]]) -> None:
    """Write these lines, with a right hash at the end, as somebody would who knows the format."""
    *before, end = lines
    content = b"".join(msgspec.json.encode(line) + b"\n" for line in before)
    known = end["end"]
    assert isinstance(known, dict)
    end = {"end": {**known, "sha256": hashlib.sha256(content).hexdigest()}}
    file.write_bytes(content + msgspec.json.encode(end) + b"\n")


Change = Callable[[list[dict[str, object]]], object]


def swap(lines: list[dict[str, object]]) -> None:
    lines[100], lines[101] = lines[101], lines[100]


CHANGES: dict[str, tuple[Change, type[ImportRefused], str]] = {
    "payload": (lambda lines: lines[100].update(payload={"number": -1}), ExportAltered, "line 101 .* the hash"),
    "time": (lambda lines: lines[100].update(time_ns=1), ExportAltered, "the hash that it came with"),
    "tag": (lambda lines: lines[100].update(tags=["other"]), ExportAltered, "the hash that it came with"),
    "version": (lambda lines: lines[100].update(version=77), ExportAltered, "version 77 of .* should follow"),
    "hash": (lambda lines: lines[100].update(hash="00" * 32), ExportAltered, "the hash that it came with"),
    "short hash": (lambda lines: lines[100].update(hash="00"), ExportAltered, "its hash has 1 bytes"),
    "unknown field": (lambda lines: lines[100].update(note="x"), ExportAltered, "unknown field"),
    "kind": (lambda lines: lines[100].update(kind="x"), ExportAltered, "cannot be decoded"),
    "left out": (lambda lines: lines.pop(100), ExportAltered, "position 101 where 100 should follow"),
    "twice": (lambda lines: lines.insert(100, lines[100]), ExportAltered, "position 100 where 101 should follow"),
    "swapped": (swap, ExportAltered, "position 101 where 100 should follow"),
    "no event": (lambda lines: lines[100].clear(), ExportAltered, "line 101 is no event"),
    "last left out": (lambda lines: lines.pop(-2), ExportAltered, "it is 899"),
    "commits": (lambda lines: lines[1].update(commits=None), ExportAltered, "does not name its commits"),
    "commit ids": (lambda lines: lines[1].update(commits=[9, 1]), ExportAltered, "its commits are"),
    "key": (
        lambda lines: lines[1].update(idempotency=[["a-1", "k", 1, 1, 2**40, 1]]),
        ExportAltered,
        "its idempotency entry",
    ),
    "stream of a key": (
        lambda lines: lines[1].update(idempotency=[["", "k", 1, 1, 1, 1]]),
        ExportAltered,
        "it is empty",
    ),
    "root": (lambda lines: lines[-1].update(end={**lines[-1]["end"], "root": "00"}), ExportAltered, "the Merkle tree"),  # type: ignore[dict-item]
    "count": (lambda lines: lines[0].update(events=899), ExportAltered, "there are 900 events, not 900|not 899"),
    "no header": (lambda lines: lines.pop(0), ExportUnreadable, "none of an export"),
    "version 9": (lambda lines: lines[0].update(eventsrc_export=9), ExportUnreadable, "it is of version 9"),
    "negative": (lambda lines: lines[0].update(after=-1), ExportUnreadable, "goes from -1"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_was_changed_is_found_before_anything_is_stored(source: Path, tmp_path: Path, name: str) -> None:
    change, error, match = CHANGES[name]
    export(source, tmp_path / "events.jsonl")
    lines = [json.loads(line) for line in lines_of(tmp_path / "events.jsonl")]
    change(lines)
    write_export(tmp_path / "changed.jsonl", lines)
    with pytest.raises(error, match=match):
        import_store(str(tmp_path / "new"), tmp_path / "changed.jsonl")
    assert not list(tmp_path.glob("new*"))
    with closing(EventLog(tmp_path / "existing")) as log:
        with pytest.raises(error, match=match):
            import_events(log, tmp_path / "changed.jsonl")
        assert log.last_position == 0


def test_a_byte_that_no_event_depends_on_is_guarded_by_the_end(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "e.jsonl")
    content = (tmp_path / "e.jsonl").read_bytes()
    for changed in (content.replace(b'"commits":[1,', b'"commits": [1,'), content.replace(b":", b": ", 1)):
        (tmp_path / "changed.jsonl").write_bytes(changed)
        with pytest.raises(ExportAltered, match="the hash of all before it is another one"):
            import_store(str(tmp_path / "new"), tmp_path / "changed.jsonl")
    (tmp_path / "longer.jsonl").write_bytes(content + b"{}\n")
    with pytest.raises(ExportAltered, match="something follows the end"):
        import_store(str(tmp_path / "new"), tmp_path / "longer.jsonl")


@pytest.mark.parametrize("name", ["e.jsonl", "e.jsonl.gz"])
def test_a_file_that_is_cut_off_anywhere_stores_nothing(tmp_path: Path, name: str) -> None:
    export(store_with(tmp_path / "source", 4), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    begins = content.index(b"\n") + 1 if name == "e.jsonl" else len(content)
    ends = {at + 1 for at, byte in enumerate(content[:-1]) if byte == ord("\n")}
    with closing(EventLog(tmp_path / "existing")) as log:
        for size in sorted({*ends, *range(0, len(content) - 1, 17), len(content) - 2}):
            (tmp_path / "cut").write_bytes(content[:size])
            with pytest.raises(ExportTruncated if size >= begins else (ExportTruncated, ExportUnreadable)):
                import_events(log, tmp_path / "cut")
            assert log.last_position == 0
        (tmp_path / "cut").write_bytes(content)
        assert import_events(log, tmp_path / "cut") == 12


def test_a_file_that_ends_too_early_says_where(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "e.jsonl")
    (tmp_path / "cut.jsonl").write_text("\n".join(lines_of(tmp_path / "e.jsonl")[:500]) + "\n")
    with pytest.raises(ExportTruncated, match="after position 499: it should go to 900") as caught:
        import_store(str(tmp_path / "new"), tmp_path / "cut.jsonl")
    assert (caught.value.position, caught.value.last_position) == (499, 900)


def test_what_is_no_export_is_refused(tmp_path: Path) -> None:
    contents = [b"", b"{}\n", b"\x00\xff", gzip.compress(b"{}"), b"\x1f\x8b\x00", gzip.compress(b"x" * 99)[:20]]
    for number, content in enumerate(contents):
        (tmp_path / f"{number}").write_bytes(content)
        with pytest.raises(ExportUnreadable):
            import_store(str(tmp_path / "new"), tmp_path / f"{number}")
    with pytest.raises(ExportUnreadable, match="No such file"):
        import_store(str(tmp_path / "new"), tmp_path / "missing")
    with pytest.raises(ExportUnreadable, match="Is a directory"):
        import_store(str(tmp_path / "new"), tmp_path)
    assert not list(tmp_path.glob("new*"))


# --- into a store that has events


def test_an_import_that_is_repeated_adds_nothing(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "all.jsonl")
    for expected in ((900, 900), (0, 900)):
        assert import_store(str(tmp_path / "target"), tmp_path / "all.jsonl") == expected
    with closing(EventLog(tmp_path / "target")) as log:
        fill(log, 5)
    assert import_store(str(tmp_path / "target"), tmp_path / "all.jsonl") == (0, 915)


def test_an_import_goes_on_where_one_was_killed(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "all.jsonl")
    with closing(EventLog(tmp_path / "target")) as log:
        import_events(log, tmp_path / "all.jsonl", until=lambda position, _: position > 500)
    assert import_store(str(tmp_path / "target"), tmp_path / "all.jsonl") == (400, 900)
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))


def test_commit_ids_go_on_after_those_of_commits_without_events(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "all.jsonl")
    with closing(EventLog(tmp_path / "target")) as log:
        import_events(log, tmp_path / "all.jsonl", until=lambda position, _: position > 500)
        entry = IdempotencyEntry("s0-x", "nothing happened", 1, -1, 0, 10**18)
        appended(log.append([Commit(1_000, 1, [], [entry])])[0])
        import_events(log, tmp_path / "all.jsonl")
        assert log.last_commit_id > 1_000
        assert list(log.idempotency("s0-x", [entry.key], now_ns=1)) == [entry.key]
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))


def test_increments_may_overlap_and_must_not_leave_a_gap(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "1.jsonl")
    with closing(EventLog(source)) as log:
        fill(log, 50)
    export(source, tmp_path / "2.jsonl", after=900)
    export(source, tmp_path / "overlapping.jsonl", after=450)
    target = str(tmp_path / "target")
    with pytest.raises(ImportGap, match=r"begins after position 900, and .* ends at 0") as caught:
        import_store(target, tmp_path / "2.jsonl")
    assert (caught.value.after, caught.value.last_position) == (900, 0)
    import_store(target, tmp_path / "1.jsonl")
    assert import_store(target, tmp_path / "overlapping.jsonl") == (150, 1_050)
    assert import_store(target, tmp_path / "2.jsonl") == (0, 1_050)
    assert repr(all_of(tmp_path / "target")) == repr(all_of(source))
    with closing(EventLog(source)) as log, pytest.raises(PointUnreachable, match="does not reach position 9999"):
        export_events(log, tmp_path / "3.jsonl", after=9_999)


def test_another_history_is_refused_with_the_first_position_that_differs(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "all.jsonl")
    export(source, tmp_path / "late.jsonl", after=899)
    with closing(EventLog(tmp_path / "other")) as log:
        fill(log, 150)
        event = NewEvent("another", {})
        appended(log.append([Commit(log.last_commit_id + 1, 10**12, [StreamAppend("s1-x", ANY, [event])])])[0])
        with pytest.raises(HistoryDiverged, match="part at position 451:") as caught:
            import_events(log, tmp_path / "all.jsonl")
        assert (caught.value.position, caught.value.is_exact) == (451, True)
        assert log.last_position == 451
        fill(log, 300)
        with pytest.raises(HistoryDiverged, match="part at position 899 or before") as caught:
            import_events(log, tmp_path / "late.jsonl")
        assert (caught.value.position, caught.value.is_exact) == (899, False)


def test_a_store_in_use_and_a_folder_of_something_else_are_left_alone(source: Path, tmp_path: Path) -> None:
    export(source, tmp_path / "all.jsonl")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").touch()
    with pytest.raises(StorePathInvalid, match="a folder without a store"):
        import_store(str(tmp_path / "photos"), tmp_path / "all.jsonl")
    with pytest.raises(StorePathInvalid, match="is a file"):
        import_store(str(tmp_path / "all.jsonl"), tmp_path / "all.jsonl")
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["1.jpg"]
    with closing(EventLog(source)), pytest.raises(StoreInUse):
        import_store(str(source), tmp_path / "all.jsonl")


# --- where an export goes


def test_an_export_overwrites_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(DestinationExists, match="is there already"):
        export(source, tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
    with pytest.raises(DestinationOverlaps):
        export(source, source / "inside.jsonl")


def test_an_export_passes_through_standard_streams(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(out))
    assert export(source, Path("-")) == 900
    export(source, tmp_path / "e.jsonl")
    assert out.getvalue() == (tmp_path / "e.jsonl").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(out.getvalue()))))
    assert import_store(str(tmp_path / "target"), Path("-")) == (900, 900)


def test_a_damaged_source_is_not_exported(source: Path, tmp_path: Path) -> None:
    with closing(EventLog(source)) as log:
        key = None
        with log.environment.read() as transaction, transaction.cursor(log.environment.table("log")) as cursor:
            assert cursor.last()
            key, value = cursor.item()
        changed = value[:-1] + bytes([value[-1] ^ 1])
        log.environment.write(lambda transaction: transaction.put(key, changed, db=log.environment.table("log")))
        with pytest.raises(CorruptRecord):
            export_events(log, tmp_path / "e.jsonl")
    assert not list(tmp_path.glob("e.jsonl*"))
