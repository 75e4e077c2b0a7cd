"""Keys of subjects: what is sealed with them is read again until they are destroyed, and then by nobody."""

import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from eventsrc import SealedDataDamaged, SubjectKeyMissing, SubjectKeys, SubjectKeysUnusable
from eventsrc.storage.keys import key_file
from eventsrc.storage.keys.key_file import KeyFile
from eventsrc.storage.keys.key_table import KeysInMemory, KeyTable, SubjectKey


@pytest.fixture(params=["file", "memory"])
def table(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KeyTable]:
    with closing(KeyFile(tmp_path / "keys") if request.param == "file" else KeysInMemory()) as opened:
        yield opened


def key_of(number: int) -> SubjectKey:
    return SubjectKey(os.urandom(16), f"subject number {number}", os.urandom(64))


def all_bytes(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.iterdir())


def test_a_value_is_read_again_as_it_was(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    sealed = keys.seal("ann", b"a secret")
    assert b"secret" not in sealed
    assert keys.unseal(sealed) == b"a secret"
    keys.flush()
    assert SubjectKeys(table).unseal(sealed) == b"a secret"


def test_equal_values_of_a_subject_are_sealed_alike_and_those_of_others_are_not(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    assert keys.seal("ann", b"same") == keys.seal("ann", b"same")
    assert keys.seal("ann", b"same")[16:] != keys.seal("bob", b"same")[16:]
    keys.flush()
    assert SubjectKeys(table).seal("ann", b"same") == keys.seal("ann", b"same")


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(min_size=1)), min_size=1), st.sampled_from("abc"))
def test_forgetting_a_subject_takes_its_values_and_no_other(values: list[tuple[str, bytes]], forgotten: str) -> None:
    keys = SubjectKeys(KeysInMemory())
    sealed = [(subject, value, keys.seal(subject, value)) for subject, value in values]
    keys.forget(forgotten)
    for subject, value, each in sealed:
        assert keys.unseal(each) == (None if subject == forgotten else value)


def test_a_forgotten_subject_is_forgotten_for_whoever_opens_the_keys_next(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    stored, only_here = keys.seal("ann", b"stored"), keys.seal("bob", b"never stored")
    keys.flush()
    ids = keys.forget("ann")
    assert ids == [stored[:16]]
    assert keys.forget("bob") == [only_here[:16]]
    later = SubjectKeys(table)
    assert (later.unseal(stored), later.unseal(only_here)) == (None, None)
    assert later.unfinished == {"ann": ids, "bob": [only_here[:16]]}
    assert later.forget("ann") == ids, "it can be done again until it is done"
    later.finish_forgetting("ann")
    assert later.unfinished == {"bob": [only_here[:16]]}
    assert later.forget("ann") == []


def test_what_comes_after_is_sealed_with_a_new_key(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    old = keys.seal("ann", b"old")
    keys.forget("ann")
    new = keys.seal("ann", b"new")
    assert (keys.unseal(old), keys.unseal(new)) == (None, b"new")
    assert keys.ids_of("ann") == [new[:16]]


def test_keys_of_another_store_are_not_taken_for_forgotten_ones(table: KeyTable) -> None:
    sealed = SubjectKeys(KeysInMemory()).seal("ann", b"value")
    with pytest.raises(SubjectKeyMissing, match="Give the file of keys that belongs to this store") as caught:
        SubjectKeys(table).unseal(sealed)
    assert caught.value.key_id == sealed[:16]


def test_changed_bytes_are_not_taken_for_a_value(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    sealed = bytearray(keys.seal("ann", b"value"))
    sealed[-1] ^= 1
    with pytest.raises(SealedDataDamaged, match="eventsrc verify"):
        keys.unseal(bytes(sealed))


def test_more_subjects_than_are_kept_ready(table: KeyTable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventsrc.storage.keys.subject_keys.CIPHERS_CACHED_MAX", 3)
    keys = SubjectKeys(table)
    sealed = [keys.seal(f"{number}", b"value") for number in range(10)]
    assert [keys.seal(f"{number}", b"value") for number in range(10)] == sealed, "none got a second key"
    keys.flush()
    assert [keys.unseal(each) for each in sealed] == [b"value"] * 10


def test_no_file_is_made_before_there_is_a_key(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        keys.flush()
        assert (keys.ids_of("ann"), keys.unfinished) == ([], {})
        assert not any(tmp_path.iterdir())
        keys.seal("ann", b"value")
        assert not any(tmp_path.iterdir())
        keys.flush()
    (file,) = tmp_path.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_destroyed_key_is_in_no_byte_of_the_file(tmp_path: Path) -> None:
    with closing(KeyFile(tmp_path / "keys")) as file:
        keys = [key_of(number) for number in range(3_000)]
        for begin in range(0, len(keys), 37):
            file.add(keys[begin : begin + 37])
        destroyed, others = keys[::11], [key for number, key in enumerate(keys) if number % 11]
        for number, key in enumerate(destroyed):
            file.destroy(key.subject)
            if number % 2:
                file.finish_forgetting(key.subject)
                assert file.find(key.id) == SubjectKey(key.id, "", None)
            if number % 50 == 0:
                file.add([key_of(number * 10_000 + other) for other in range(50)])
        content = all_bytes(tmp_path)
        assert [key for key in destroyed if key.secret and key.secret[:8] in content] == []
        assert all(key.secret and key.secret in content for key in others)
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_a_reader_sees_at_once_what_the_writer_has_forgotten(tmp_path: Path) -> None:
    with (
        closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys,
        closing(SubjectKeys(KeyFile(tmp_path / "keys", "read"))) as reading,
    ):
        sealed = keys.seal("ann", b"value")
        with pytest.raises(SubjectKeyMissing):
            reading.unseal(sealed)
        keys.flush()
        assert reading.unseal(sealed) == b"value"
        keys.forget("ann")
        assert reading.unseal(sealed) is None


def test_nothing_is_left_beside_the_file_by_whoever_closes_it_last(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        sealed = keys.seal("ann", b"value")
        keys.flush()
        reading = SubjectKeys(KeyFile(tmp_path / "keys", "read"))
        assert reading.unseal(sealed) == b"value"
    reading.close()
    assert [path.name for path in tmp_path.iterdir()] == ["keys"]
    for access in ("read", "write"):
        with closing(SubjectKeys(KeyFile(tmp_path / "keys", access))) as again:
            assert again.unseal(sealed) == b"value"
        assert [path.name for path in tmp_path.iterdir()] == ["keys"]


def test_what_is_sealed_while_a_subject_leaves_is_gone_with_it(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    before = keys.seal("ann", b"value")
    with keys.leaving("ann"):
        assert keys.is_forgetting
        (key_id,) = keys.forget("ann")
        meanwhile = keys.seal("ann", b"value")
        assert (keys.unseal(before), keys.unseal(meanwhile)) == (None, None)
    # One that was interrupted goes on: there is no key by then.
    with keys.leaving("ann"):
        again = keys.seal("ann", b"value")
    assert again[:16] == meanwhile[:16] == key_id
    after = keys.seal("ann", b"value")
    keys.flush()
    assert [keys.unseal(each) for each in (before, meanwhile, again, after)] == [None, None, None, b"value"]


def test_a_subject_that_is_not_known_may_leave(table: KeyTable) -> None:
    keys = SubjectKeys(table)
    with keys.leaving("ann"):
        assert keys.forget("ann") == []
        sealed = keys.seal("ann", b"value")
    assert keys.unseal(sealed) == b"value"


def test_what_was_destroyed_is_destroyed_again_in_an_older_copy(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        sealed, other = keys.seal("ann", b"value"), keys.seal("bob", b"value")
        keys.flush()
    shutil.copy(tmp_path / "keys", tmp_path / "old")
    with closing(SubjectKeys(KeyFile(tmp_path / "old"))) as old:
        with closing(KeyFile(tmp_path / "keys")) as file:
            secrets = [key.secret or b"" for key in file.of_subject("ann")]
        unknown = os.urandom(16)
        assert old.unseal(sealed) == b"value"
        assert old.forget_again([sealed[:16], unknown])
        assert not old.forget_again([sealed[:16], unknown])
        assert (old.unseal(sealed), old.unseal(unknown + sealed[16:]), old.unseal(other)) == (None, None, b"value")
        assert (old.unfinished, old.ids_of("ann")) == ({}, [])
        assert not any(secret in path.read_bytes() for secret in secrets for path in tmp_path.glob("old*"))
    with closing(SubjectKeys(KeyFile(tmp_path / "none"))) as none:
        none.forget_again([sealed[:16]])
    assert not (tmp_path / "none").exists(), "a file is made for keys alone"


def test_a_secret_that_an_interruption_left_is_swept_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with closing(KeyFile(tmp_path / "keys")) as file:
        key, other = key_of(1), key_of(2)
        file.add([key, other])
        with monkeypatch.context() as patched:
            patched.setattr(file, "sweep", stop)
            with pytest.raises(KeyboardInterrupt):
                file.destroy(key.subject)
        assert key.secret
        assert key.secret in all_bytes(tmp_path), "the write-ahead log has it as it was when it was new"
        assert file.destroy(key.subject) == [key.id]
        assert key.secret not in all_bytes(tmp_path)
        assert file.find(other.id) == other


def stop() -> None:
    raise KeyboardInterrupt


def test_a_file_that_was_replaced_is_not_written_to_any_more(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        keys.seal("ann", b"value")
        keys.flush()
        sealed = keys.seal("bob", b"value")
        (tmp_path / "keys").rename(tmp_path / "moved")
        for change in (
            keys.flush,
            lambda: keys.seal("cat", b"value"),
            lambda: keys.forget("ann"),
            lambda: keys.finish_forgetting("ann"),
        ):
            with pytest.raises(SubjectKeysUnusable, match="moved, removed or replaced while it was in use"):
                change()
        (tmp_path / "moved").rename(tmp_path / "keys")
        keys.flush()
        keys.forget("ann")
        assert keys.unseal(sealed) == b"value"


def test_a_reader_of_a_folder_that_it_may_not_write_sees_what_somebody_else_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        sealed = keys.seal("ann", b"value")
        keys.flush()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with closing(SubjectKeys(KeyFile(tmp_path / "keys", "read"))) as reading:
        assert reading.unseal(sealed) == b"value"
        with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
            keys.forget("ann")
            assert reading.unseal(sealed) is None
        assert reading.unseal(sealed) is None


VISITOR = """
import sqlite3, sys
with sqlite3.connect(sys.argv[1]) as connection:
    print(connection.execute("SELECT count(*) FROM secrets").fetchone()[0])
connection.close()
"""


def test_who_looks_into_the_file_meanwhile_takes_no_key_along(tmp_path: Path) -> None:
    def visit() -> int:
        command = [sys.executable, "-c", VISITOR, str(tmp_path / "keys")]
        return int(subprocess.run(command, check=True, capture_output=True).stdout)

    with closing(KeyFile(tmp_path / "keys")) as file:
        file.add([key_of(1)])
        file.destroy("subject number 1")
        assert visit() == 1
        # Had it been the last to close the file, it would have removed the write-ahead log that is in use here.
        file.add([key_of(2)])
        assert visit() == 2


def test_no_secret_is_in_a_text(tmp_path: Path) -> None:
    key = key_of(1)
    assert key.secret
    assert repr(key) == f"SubjectKey({key.id.hex()}, 'subject number 1', kept)"
    assert repr(key._replace(secret=None)).endswith("destroyed)")


@pytest.mark.parametrize("suffix", ["", "-wal", "-shm"])
def test_nobody_else_may_read_the_keys(tmp_path: Path, suffix: str) -> None:
    with closing(KeyFile(tmp_path / "keys")) as file:
        file.add([key_of(1)])
        assert stat.S_IMODE((tmp_path / f"keys{suffix}").stat().st_mode) == 0o600


def test_two_that_write_the_same_file_notice_what_the_other_has_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventsrc.storage.keys.subject_keys.LOOK_SECONDS", 0.0)
    with (
        closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys,
        closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as others,
    ):
        sealed = keys.seal("ann", b"value")
        keys.flush()
        assert others.seal("ann", b"value") == sealed
        assert others.unseal(sealed) == b"value"
        keys.forget("ann")
        assert others.unseal(sealed) is None
        again = others.seal("ann", b"value")
        others.flush()
        assert keys.unseal(again) == b"value"


def test_a_reader_makes_no_keys(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys", "read"))) as reading:
        reading.seal("ann", b"value")
        with pytest.raises(SubjectKeysUnusable, match="a reader changes none"):
            reading.flush()


def test_somebody_who_reads_for_long_is_named_as_what_keeps_a_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_file, "BUSY_SECONDS_MAX", 0.05)
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys, ExitStack() as stack:
        sealed = keys.seal("ann", b"value")
        keys.flush()
        other = stack.enter_context(closing(sqlite3.connect(tmp_path / "keys", isolation_level=None)))
        other.execute("BEGIN")
        other.execute("SELECT * FROM subject_keys").fetchall()
        with pytest.raises(SubjectKeysUnusable, match="somebody has been reading it"):
            keys.forget("ann")
        assert keys.unseal(sealed) is None, "it is destroyed by then"
        after = keys.seal("ann", b"value")
        keys.flush()
        with closing(SubjectKeys(KeyFile(tmp_path / "keys", "read"))) as reading:
            assert reading.unseal(after) == b"value"
        other.execute("COMMIT")
        keys.forget("ann")
        assert (keys.unseal(sealed), keys.unseal(after)) == (None, None)


def test_a_file_that_somebody_else_has_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(key_file, "BUSY_SECONDS_MAX", 0.05)
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        sealed = keys.seal("ann", b"value")
        keys.flush()
        keys.seal("bob", b"value")
        with closing(sqlite3.connect(tmp_path / "keys", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            for change in (keys.flush, lambda: keys.forget("ann")):
                with pytest.raises(SubjectKeysUnusable, match=r"locked for 0\.05 seconds\. End that, and try again"):
                    change()
            assert keys.unseal(sealed) == b"value", "nothing was destroyed"
        keys.flush()
        assert len(keys.ids_of("bob")) == 1


def foreign(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE something (else_ TEXT)")


def newer(path: Path) -> None:
    with closing(SubjectKeys(KeyFile(path))) as keys:
        keys.seal("ann", b"value")
        keys.flush()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 2")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.write_bytes(b"no database" * 1_000), "file is not a database"),
        (foreign, "it is no file of keys"),
        (newer, "it has format 2, and this version of eventsrc knows format 1"),
        (lambda path: path.mkdir(), "it is no file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, spoil: Callable[[Path], None], words: str) -> None:
    path = tmp_path / "keys"
    spoil(path)
    with closing(SubjectKeys(KeyFile(path))) as keys:
        with pytest.raises(SubjectKeysUnusable, match=words) as caught:
            keys.seal("ann", b"value")
        assert caught.value.path == str(path)
        with pytest.raises(SubjectKeysUnusable, match=words):
            keys.unseal(bytes(40))


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "none" / "keys"))) as keys:
        sealed = keys.seal("ann", b"value")
        with pytest.raises(SubjectKeysUnusable, match="No such file or directory"):
            keys.flush()
        assert keys.unseal(sealed) == b"value", "it was not lost: the next flush may keep it"
        (tmp_path / "none").mkdir()
        keys.flush()
        with closing(SubjectKeys(KeyFile(tmp_path / "none" / "keys"))) as again:
            assert again.unseal(sealed) == b"value"


def test_threads_may_seal_flush_and_forget_at_once(tmp_path: Path) -> None:
    with closing(SubjectKeys(KeyFile(tmp_path / "keys"))) as keys:
        errors: list[BaseException] = []

        def work(number: int) -> None:
            try:
                for round_ in range(20):
                    subject = f"{number % 3}-{round_ % 4}"
                    sealed = keys.seal(subject, b"value")
                    keys.flush()
                    assert keys.unseal(sealed) in (b"value", None)
                    if round_ % 5 == 4:
                        keys.forget(subject)
                        assert keys.unseal(sealed) is None
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
