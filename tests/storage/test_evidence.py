"""Evidence: a checkpoint kept elsewhere finds every change of history, and a proof needs no code of ours to check."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

from eventsrc.runtime.command_line import main
from eventsrc.storage.commit import ANY, Appended, Commit, NewEvent, StreamAppend
from eventsrc.storage.environment.environment import Environment
from eventsrc.storage.evidence.errors import CheckpointInvalid, ProofImpossible, SigningKeyInvalid
from eventsrc.storage.evidence.merkle import NODE_LEAVES, Tree
from eventsrc.storage.evidence.proof import prove
from eventsrc.storage.evidence.signed_checkpoint import (
    SignedCheckpoint,
    load_signing_key,
    make_checkpoint,
    new_signing_key,
    read_checkpoint,
)
from eventsrc.storage.group import KEY, Group, encode_group
from eventsrc.storage.log import EventLog
from eventsrc.storage.reader import LogReader
from eventsrc.storage.record import GENESIS_HASH, StoredEvent, seal
from eventsrc.storage.verification.verify import verify

SCRIPT = Path(__file__).parent / "check_proof.py"
EVENTS = 2 * NODE_LEAVES + 500
encode = msgspec.msgpack.Encoder().encode


def fill(log: EventLog, count: int, *, word: str = "deposited") -> None:
    """Events of seven streams, in commits of a hundred."""
    for first in range(0, count, 100):
        appends = [
            StreamAppend(f"account-{number % 7}", ANY, [NewEvent(word, {"amount": number})])
            for number in range(first, min(first + 100, count))
        ]
        (outcome,) = log.append([Commit(log.last_commit_id + 1, 1_000 + first, appends)])
        assert isinstance(outcome, Appended)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evidence")
    with closing(EventLog(folder / "store")) as log:
        fill(log, EVENTS)
        checkpoint = make_checkpoint(log, new_signing_key(folder / "key.pem"), time_ns=5_000_000_000)
    (folder / "checkpoint.json").write_text(checkpoint.text)
    return folder


@pytest.fixture
def store(template: Path, tmp_path: Path) -> Path:
    with closing(LogReader.open(template / "store")) as log:
        (tmp_path / "store").mkdir()
        log.environment.copy(tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def checkpoint(template: Path) -> SignedCheckpoint:
    return read_checkpoint((template / "checkpoint.json").read_text())


def problems(store: Path, *checkpoints: SignedCheckpoint) -> list[str]:
    with closing(Environment(store, read_only=True)) as environment:
        return [str(finding) for finding in verify(environment, statements=checkpoints)]


# --- checkpoints ---


def test_a_checkpoint_states_size_root_and_time(checkpoint: SignedCheckpoint, store: Path) -> None:
    with closing(LogReader.open(store)) as log:
        leaves = [event.hash for event in log.read(limit=EVENTS)]
    assert (checkpoint.size, checkpoint.root) == (EVENTS, Tree().extended(leaves)[0].root)
    assert checkpoint.time == "1970-01-01T00:00:05+00:00"


def test_the_tree_goes_on_where_it_was_after_a_crash_and_a_restart(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    fill(log, 1_300)
    log.environment.close()  # as if it was killed: nothing is flushed
    with closing(EventLog(tmp_path)) as log:
        fill(log, 1_300)
    with closing(EventLog(tmp_path)) as log:
        fill(log, 100)
        leaves = [event.hash for event in log.read(limit=EVENTS + 1_000)]
        assert log.tree == (2_700, Tree().extended(leaves)[0].root)
        assert list(verify(log)) == []


def test_history_that_was_only_added_to(store: Path, checkpoint: SignedCheckpoint) -> None:
    assert problems(store, checkpoint) == []
    with closing(EventLog(store)) as log:
        fill(log, 333)
    assert problems(store, checkpoint) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"size": EVENTS + 1}, "not right"),
        ({"root": "00" * 32}, "not right"),
        ({"time": "2026-01-01T00:00:00+00:00"}, "not right"),
        ({"signature": "00" * 64}, "not right"),
        ({"public_key": "00" * 32}, "not right"),
        ({"public_key": "00"}, "not right"),
        ({"root": "no digits"}, "no checkpoint"),
        ({"size": "many"}, "no checkpoint"),
        ({"eventsrc_checkpoint": 1}, "version 1"),
        ({"first": "00" * 32}, "not right"),
    ],
)
def test_a_checkpoint_that_was_changed(template: Path, change: dict[str, object], problem: str) -> None:
    text = json.dumps({**json.loads((template / "checkpoint.json").read_text()), **change})
    with pytest.raises(CheckpointInvalid, match=problem):
        read_checkpoint(text)


def test_a_checkpoint_of_somebody_else(template: Path, checkpoint: SignedCheckpoint) -> None:
    text = (template / "checkpoint.json").read_text()
    assert read_checkpoint(text, public_key=checkpoint.public_key) == checkpoint
    with pytest.raises(CheckpointInvalid, match="was signed with the key"):
        read_checkpoint(text, public_key=bytes(32))


def test_a_key_that_cannot_be_used(template: Path, tmp_path: Path) -> None:
    kept = (template / "key.pem").read_bytes()
    with pytest.raises(SigningKeyInvalid, match=r"is there already\. Leave out --new-key") as found:
        new_signing_key(template / "key.pem")
    assert "Make one" not in str(found.value)
    assert (template / "key.pem").read_bytes() == kept
    with pytest.raises(SigningKeyInvalid, match=r"No such file or directory\. Name a file that can be made"):
        new_signing_key(tmp_path / "none" / "key.pem")
    with pytest.raises(SigningKeyInvalid, match="No such file"):
        load_signing_key(tmp_path / "none.pem")
    (tmp_path / "bad.pem").write_text("no key")
    with pytest.raises(SigningKeyInvalid, match="cannot be used"):
        load_signing_key(tmp_path / "bad.pem")
    assert (template / "key.pem").stat().st_mode & 0o077 == 0


# --- whoever tampers knows the format, and makes every chain, checksum, root and index right again

Change = Callable[[list[StoredEvent]], list[StoredEvent]]


def edit(events: list[StoredEvent]) -> list[StoredEvent]:
    events[70] = msgspec.structs.replace(events[70], payload={"amount": 1_000_000})
    return events


def remove(events: list[StoredEvent]) -> list[StoredEvent]:
    return events[:70] + events[71:]


def reorder(events: list[StoredEvent]) -> list[StoredEvent]:
    return [*events[:70], events[77], *events[71:77], events[70], *events[78:]]


def insert(events: list[StoredEvent]) -> list[StoredEvent]:
    return [*events[:70], msgspec.structs.replace(events[70], payload={"amount": 7}), *events[70:]]


def cut(events: list[StoredEvent]) -> list[StoredEvent]:
    return events[:-1]


def forge(source: Path, destination: Path, change: Change) -> None:
    """A store with another history that is sound in itself."""
    with closing(LogReader.open(source)) as log:
        events = change(log.read(limit=EVENTS))
    with closing(EventLog(destination)) as log:
        for event in events:
            new = NewEvent(event.type, event.payload)
            log.append([Commit(log.last_commit_id + 1, event.time_ns, [StreamAppend(event.stream, ANY, [new])])])


@pytest.mark.parametrize("change", [edit, remove, reorder, insert, cut])
def test_a_history_that_was_rewritten_in_whole(
    store: Path, tmp_path: Path, checkpoint: SignedCheckpoint, change: Change
) -> None:
    forge(store, tmp_path / "forged", change)
    assert problems(tmp_path / "forged") == []
    (problem,) = problems(tmp_path / "forged", checkpoint)
    assert problem.startswith(f"checkpoint, position {EVENTS}:")


def test_an_old_checkpoint_tells_before_where_it_was_changed(template: Path, store: Path, tmp_path: Path) -> None:
    key = load_signing_key(template / "key.pem")
    forge(store, tmp_path / "old", lambda events: events[:40])
    with closing(LogReader.open(tmp_path / "old")) as log:
        before = make_checkpoint(log, key, time_ns=1)
    forge(store, tmp_path / "newer", lambda events: events[:80])
    with closing(LogReader.open(tmp_path / "newer")) as log:
        after = make_checkpoint(log, key, time_ns=2)
    forge(store, tmp_path / "forged", edit)
    (problem,) = problems(tmp_path / "forged", before, after)
    assert problem.startswith("checkpoint, position 80: the first 80 events are not those")


def test_a_checkpoint_of_another_store(tmp_path: Path, checkpoint: SignedCheckpoint) -> None:
    for name, count in (("larger", EVENTS + 100), ("smaller", 10)):
        with closing(EventLog(tmp_path / name)) as log:
            fill(log, count, word="withdrawn")
        (problem,) = problems(tmp_path / name, checkpoint)
        assert problem.startswith(f"checkpoint, position {EVENTS}: the checkpoint is of another store")


def test_a_log_whose_end_is_missing(store: Path, tmp_path: Path, checkpoint: SignedCheckpoint) -> None:
    forge(store, tmp_path / "older", lambda events: events[:100])
    (problem,) = problems(tmp_path / "older", checkpoint)
    assert f"is of {EVENTS} events, and the log ends at position 100: its end was removed" in problem


# --- whoever tampers changes less


def rewrite(store: Path, change: Callable[[Any], None], *, table: str = "log") -> None:
    with lmdb.open(str(store), max_dbs=32) as environment:
        handle = environment.open_db(table.encode(), create=False)
        with environment.begin(write=True, db=handle) as transaction, transaction.cursor() as cursor:
            change(cursor)


def test_an_event_changed_with_its_chain_made_right(store: Path) -> None:
    """The last event of a stream: no later one is chained to it."""

    def change(cursor: Any) -> None:
        cursor.last()
        key, group = cursor.key(), Group(KEY.unpack(cursor.key())[0], cursor.value())
        records = group.encoded_records()
        event = msgspec.msgpack.decode(records[-1], type=StoredEvent)
        forged = msgspec.structs.replace(event, payload={"amount": 1_000_000}, hash=GENESIS_HASH)
        previous = bytes.fromhex(previous_hash[0])
        records[-1] = seal(previous, encode(forged))[0]
        cursor.put(key, encode_group(group.first_commit_id, group.last_commit_id, group.root, records, []))

    with closing(LogReader.open(store)) as log:
        previous_hash = [prove(log, EVENTS).previous_hash.hex()]
    rewrite(store, change)
    found = problems(store)
    assert any(
        problem.startswith("tree, position") and "do not give the Merkle root" in problem for problem in found
    ), found


def test_a_root_that_was_changed(store: Path) -> None:
    def change(cursor: Any) -> None:
        cursor.first()
        key, group = cursor.key(), Group(1, cursor.value())
        records = group.encoded_records()
        cursor.put(key, encode_group(group.first_commit_id, group.last_commit_id, bytes(32), records, []))

    rewrite(store, change)
    assert problems(store) == [
        "tree, position 1: the events up to the end of this group do not give the Merkle root that it holds"
    ]


def flip(cursor: Any) -> None:
    cursor.first()
    cursor.put(cursor.key(), bytes(32))


def drop(cursor: Any) -> None:
    cursor.last()
    cursor.delete()


def add(cursor: Any) -> None:
    cursor.put((9).to_bytes(8, "big"), bytes(32))


def mistake(cursor: Any) -> None:
    cursor.put(b"no", bytes(32))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (flip, "tree, position 1: node 0 is not that of its events"),
        (drop, "tree, position 1025: node 1 is missing"),
        (add, "tree, position 9217: node 9 is of no events"),
        (mistake, "tree: the entry b'no' is no node"),
    ],
)
def test_a_stored_node_that_was_changed(store: Path, change: Callable[[Any], None], problem: str) -> None:
    rewrite(store, change, table="tree")
    assert problems(store) == [problem]


@pytest.mark.parametrize(
    ("tree", "problem"),
    [
        (Tree(EVENTS, (bytes(32),)), "is not that of the events"),
        (Tree(17, (bytes(32), bytes(32))), "where no group ends"),
        ("nothing", "cannot be read"),
    ],
)
def test_the_stored_tree(store: Path, tree: object, problem: str) -> None:
    rewrite(store, lambda cursor: cursor.put(b"tree", encode(tree)), table="meta")
    found = problems(store)
    assert {each.partition(":")[0].partition(",")[0] for each in found} == {"meta"}
    assert any(problem in each for each in found)


# --- proofs


def checked(template: Path, proof: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, template / "checkpoint.json"],
        input=proof,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("position", [1, 2, 700, NODE_LEAVES, NODE_LEAVES + 1, 2 * NODE_LEAVES + 1, EVENTS])
def test_a_script_without_our_code_checks_a_proof(
    template: Path, store: Path, position: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with closing(EventLog(store)) as log:
        fill(log, 900)  # what came since does not matter
    options = ["--checkpoint", str(template / "checkpoint.json")]
    assert main(["prove", str(store), str(position), *options]) == 0
    done = checked(template, capsys.readouterr().out)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"event {position} is among the {EVENTS}: b")
    assert "deposited" in done.stdout


@pytest.mark.parametrize("field", ["record", "previous_hash", "path", "position"])
def test_the_script_refuses_what_was_changed(template: Path, store: Path, field: str) -> None:
    with closing(LogReader.open(store)) as log:
        data: dict[str, Any] = prove(log, 77).data
    if field == "position":
        data[field] = 78
    elif field == "path":
        data[field] = data[field][:-1]
    else:
        data[field] = "00" + data[field][2:]
    done = checked(template, json.dumps(data))
    assert done.returncode == 1
    assert "NOT PROVED" in done.stderr


def test_every_event_can_be_proved_at_every_size(tmp_path: Path) -> None:
    with closing(EventLog(tmp_path)) as log:
        roots = {}
        for size in range(1, 20):
            fill(log, 1)
            roots[size] = log.tree[1]
        for size, root in roots.items():
            assert {prove(log, position, size=size).root for position in range(1, size + 1)} == {root}


@pytest.mark.parametrize(("position", "size"), [(0, None), (EVENTS + 1, None), (5, 4), (1, EVENTS + 1)])
def test_there_is_nothing_to_prove(store: Path, position: int, size: int | None) -> None:
    with closing(LogReader.open(store)) as log, pytest.raises(ProofImpossible):
        prove(log, position, size=size)


# --- the command line


def test_the_commands(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    key, kept = str(tmp_path / "key.pem"), tmp_path / "kept.json"
    assert main(["checkpoint", str(store), "--key", key]) == 1
    assert "--new-key" in capsys.readouterr().err
    assert main(["checkpoint", str(store), "--key", key, "--new-key"]) == 0
    kept.write_text(capsys.readouterr().out)
    public_key = json.loads(kept.read_text())["public_key"]
    assert main(["verify", str(store), "--checkpoint", str(kept), "--public-key", public_key]) == 0
    assert f"only added to since the checkpoint of {EVENTS:,} events" in capsys.readouterr().out
    assert main(["verify", str(store), "--checkpoint", str(kept), "--public-key", "00"]) == 1
    assert "was signed with the key" in capsys.readouterr().err
    forge(store, tmp_path / "forged", edit)
    assert main(["verify", str(tmp_path / "forged"), "--checkpoint", str(kept)]) == 2
    assert "history was changed" in capsys.readouterr().out
    assert main(["prove", str(tmp_path / "forged"), "3", "--checkpoint", str(kept)]) == 1
    assert "the roots differ" in capsys.readouterr().err
    kept.write_text("{")
    assert main(["verify", str(store), "--checkpoint", str(kept)]) == 1
    assert "no checkpoint" in capsys.readouterr().err
