"""`eventsrc verify` looks at the keys of personal data, where they are there."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest
import trio
from command_cases import eventsrc
from people_domain import Person, Register

from eventsrc import EventLog, Runtime
from eventsrc.runtime import command_line
from eventsrc.storage.commit import NO_STREAM, Appended, Commit, NewEvent, StreamAppend
from eventsrc.storage.keys import key_file
from eventsrc.storage.keys.subject_keys import KEY_TAG_PREFIX

WITHOUT_ROOM = """
import resource, sys
from eventsrc.runtime.command_line import main
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
sys.exit(main())
"""


def keys_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.keys")


@pytest.fixture
async def path(tmp_path: Path) -> Path:
    """A store that holds something of two people, with an older copy of its keys; a third one was forgotten."""
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        await runtime.actor(Person, "ann").ask(Register("Ann"))
        assert (await eventsrc("keys", path, tmp_path / "older"))[0] == 0
        await runtime.actor(Person, "bob").ask(Register("Bob"))
        await runtime.actor(Person, "cleo").ask(Register("Cleo"))
        await runtime.forget("cleo")
    return path


async def test_sound_keys_are_no_finding_nor_are_those_that_were_destroyed(path: Path) -> None:
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        await runtime.actor(Person, "dora").ask(Register("Dora"))
        code, out, err = await eventsrc("verify", path)
    assert (code, err) == (0, "")
    assert out.endswith("all sound\n")


async def test_a_file_that_lacks_keys_is_told_with_the_first_event_of_each(path: Path, tmp_path: Path) -> None:
    code, out, _ = await eventsrc("verify", path, "--keys", tmp_path / "older")
    assert code == 2
    *lacking, end = out.splitlines()
    bob, cleo = sorted(lacking)
    assert bob.startswith("keys, position 2, stream person-bob, version 1: ")
    assert cleo.startswith("keys, position 3, stream person-cleo, version 1: ")
    assert f"{tmp_path / 'older'} lacks the key " in bob
    assert end.endswith("sound in itself, but NOT the keys of its personal data")


async def test_keys_are_read_on_a_full_disk_and_may_be_sound_where_they_cannot_be(path: Path, tmp_path: Path) -> None:
    """SQLite puts a file beside them, for which there is no room: the limit on files stands for a full disk."""
    killed = tmp_path / "killed"
    async with Runtime.open(path, aggregates=[Person]) as runtime:
        await runtime.actor(Person, "dora").ask(Register("Dora"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{keys_of(path)}{suffix}", f"{killed}{suffix}")

    async def verified_without_room(*options: object) -> tuple[int, str, str]:
        command = [sys.executable, "-c", WITHOUT_ROOM, "verify", str(path), *map(str, options)]
        ran = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
        return ran.returncode, ran.stdout.decode(), ran.stderr.decode()

    code, out, _ = await verified_without_room()
    assert (code, out.endswith("all sound\n")) == (0, True)
    code, out, err = await verified_without_room("--keys", killed)
    assert code == 1, "what is not yet in the file itself cannot be read without that"
    assert out.endswith("sound as far as it could be looked at, but NOT all of it could\n")
    assert "cannot be used: disk I/O error" in err


async def test_a_damaged_file_is_told(path: Path, tmp_path: Path) -> None:
    lost = tmp_path / "lost"
    shutil.copy(keys_of(path), lost)
    with closing(sqlite3.connect(lost)) as connection, connection:
        connection.execute("UPDATE secrets SET secret = zeroblob(64) WHERE slot = 1")
    code, out, _ = await eventsrc("verify", path, "--keys", lost)
    assert code == 2
    assert "of 1 keys that nobody destroyed the secret is gone" in out

    content = bytearray(keys_of(path).read_bytes())
    content[4_096:] = bytes(len(content) - 4_096)
    keys_of(path).write_bytes(content)
    code, out, _ = await eventsrc("verify", path)
    assert code == 2
    assert out.startswith("keys: ")

    keys_of(path).write_text("no keys")
    code, out, _ = await eventsrc("verify", path)
    assert code == 2
    assert "cannot be used" in out


async def test_keys_that_are_not_there_are_no_fault_and_said(path: Path, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    assert (await eventsrc("backup", path, backup))[0] == 0
    code, out, err = await eventsrc("verify", backup)
    assert (code, err) == (0, "")
    assert out.endswith(f"all sound\nits personal data cannot be read: there are no keys at {keys_of(backup)}\n")
    _, out, _ = await eventsrc("verify", backup, "--json")
    assert json.loads(out)["missing_keys"] == str(keys_of(backup))
    _, out, _ = await eventsrc("verify", path, "--json")
    assert json.loads(out)["missing_keys"] is None
    code, out, err = await eventsrc("verify", backup, "--keys", keys_of(path))
    assert (code, out.endswith("all sound\n"), err) == (0, True, "")


async def test_keys_that_are_named_and_are_not_there_are_not_passed_over(path: Path, tmp_path: Path) -> None:
    for how in ([], ["--json"]):
        code, out, err = await eventsrc("verify", path, "--keys", tmp_path / "typo", *how)
        assert (code, out) == (1, "")
        assert f"{tmp_path / 'typo'} cannot be used: there is no such file. Name it: --keys FILE.\n" in err


async def test_keys_that_somebody_has_locked_are_not_known_to_be_damaged(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(key_file, "BUSY_SECONDS_MAX", 0.05)
    with closing(sqlite3.connect(keys_of(path), isolation_level=None)) as connection:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("BEGIN EXCLUSIVE")
        assert command_line.main(["verify", str(path)]) == 1
    printed = capsys.readouterr()
    assert printed.out.endswith("sound as far as it could be looked at, but NOT all of it could\n")
    assert "somebody else has had it locked" in printed.err


async def test_stored_tags_that_are_like_those_of_keys_are_passed_over(path: Path) -> None:
    with closing(EventLog(path)) as log:
        tagged = NewEvent("thing.happened", {}, tags=(f"{KEY_TAG_PREFIX}mine",))
        (stored,) = log.append([Commit(log.last_commit_id + 1, 1, [StreamAppend("thing-1", NO_STREAM, [tagged])])])
    assert isinstance(stored, Appended)
    code, _, err = await eventsrc("verify", path)
    assert (code, err) == (0, "")
