"""Sealing: what is about a subject is encrypted with a key of that subject. Without the key nobody can read it again.

The cipher is AES-SIV (RFC 5297) by the library `cryptography`, the extra `privacy`: the same value of one subject is
sealed to the same bytes, so that equal states stay equal, and that is all that the bytes tell.
"""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from .errors import PrivacyUnavailable, SealedDataDamaged, SubjectKeyMissing
from .key_table import KeyTable, SubjectKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESSIV

K = TypeVar("K")
V = TypeVar("V")

KEY_ID_BYTES: Final = 16
KEY_TAG_PREFIX: Final = "eventsrc.key:"
"""Before the id of a key: the tag of every event that holds what is sealed with it."""
SECRET_BYTES: Final = 64
"""Of AES-SIV with 256 bits."""
LOOK_SECONDS: Final = 0.1
"""How long a process that writes goes on without looking whether another one has changed the keys."""
CIPHERS_CACHED_MAX: Final = 10_000
"""Keys that are kept ready, and subjects whose key is known; others are looked up."""


class SubjectKeys:
    """The keys of one runtime. Any thread may call it; a key is made when something is sealed for a new subject.

    New keys are kept when `flush` is called, which must be before anything that was sealed with them is stored.
    """

    def __init__(self, table: KeyTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._ciphers: dict[bytes, AESSIV | None] = {}
        """By id; None where the key was destroyed."""
        self._current: dict[str, bytes] = {}
        """By subject the id of the key that it is sealed with."""
        self._new: dict[bytes, SubjectKey] = {}
        self._new_of: dict[str, SubjectKey] = {}
        """The same by subject."""
        self._leaving: dict[str, tuple[bytes, AESSIV]] = {}
        """What is sealed for these subjects can be opened by nobody once their keys are destroyed."""
        self._look_at = 0.0
        """When to look (`time.monotonic`) whether another process has changed the table."""
        self._version: object = None
        """Of the table, when what is kept ready was looked up."""
        self._changing = threading.Lock()
        """Held while the table waits for the disk; the other lock never is."""

    @property
    def path(self) -> str:
        """Where the keys are, for messages."""
        return self._table.path

    @property
    def is_empty(self) -> bool:
        """Whether there never was a key."""
        return self._table.is_empty

    def check(self) -> None:
        """Raise `PrivacyUnavailable` where the library for it is missing."""
        _cipher_class()

    def problem(self) -> str:
        """What is wrong with where they are kept; empty where nothing is. Raises `SubjectKeysUnusable`."""
        return self._table.problem()

    def knows(self, key_id: bytes) -> bool:
        """Whether there is a key with this id, or was one that was destroyed. Raises `SubjectKeysUnusable`."""
        return key_id in self._new or self._table.find(key_id) is not None

    # --- sealing ---

    def seal(self, subject: str, value: bytes) -> bytes:
        """The id of the subject's key, and the value encrypted with it. Raises `SubjectKeysUnusable`."""
        with self._lock:
            self._look_for_changes()
            key_id, cipher = self._leaving.get(subject) or self._key_for(subject)
        return key_id + cipher.encrypt(value, None)

    def unseal(self, sealed: bytes) -> bytes | None:
        """The value; None where its subject was forgotten.

        Raises `SubjectKeyMissing`, `SealedDataDamaged`, `SubjectKeysUnusable`.
        """
        key_id = sealed[:KEY_ID_BYTES]
        with self._lock:
            self._look_for_changes()
            cipher = self._cipher(key_id)
        if cipher is None:
            return None
        try:
            return cipher.decrypt(sealed[KEY_ID_BYTES:], None)
        except Exception as error:
            raise SealedDataDamaged(self.path, key_id) from error

    def _look_for_changes(self) -> None:
        """Keys that are kept ready are looked up again where the table has changed.

        By another process, that is: a reader looks each time, and who writes now and then, since one is to.
        """
        now = time.monotonic()
        if now < self._look_at and not self._table.is_shared:
            return
        self._look_at = now + LOOK_SECONDS
        version = self._table.version()
        if version != self._version:
            self._version = version
            self._ciphers.clear()
            self._current.clear()

    def _key_for(self, subject: str) -> "tuple[bytes, AESSIV]":
        key_id = self._current.get(subject)
        cipher = None if key_id is None else self._ciphers.get(key_id)
        if key_id is not None and cipher is not None:
            return key_id, cipher
        key = self._known_key(subject)
        if key is None:
            key = SubjectKey(secrets.token_bytes(KEY_ID_BYTES), subject, secrets.token_bytes(SECRET_BYTES))
            self._new[key.id] = self._new_of[subject] = key
        assert key.secret is not None, "it was not destroyed"
        cipher = _cipher_class()(key.secret)
        _keep(self._ciphers, key.id, cipher)
        _keep(self._current, subject, key.id)
        return key.id, cipher

    def _known_key(self, subject: str) -> SubjectKey | None:
        return self._new_of.get(subject) or next(iter(self._table.of_subject(subject)), None)

    def _cipher(self, key_id: bytes) -> "AESSIV | None":
        if key_id in self._ciphers:
            return self._ciphers[key_id]
        key = self._new.get(key_id) or self._table.find(key_id)
        if key is None:
            raise SubjectKeyMissing(self.path, key_id)
        cipher = None if key.secret is None else _cipher_class()(key.secret)
        _keep(self._ciphers, key_id, cipher)
        return cipher

    def ids_of(self, subject: str) -> list[bytes]:
        """The ids of the keys that something about a subject may be sealed with, and that were not destroyed."""
        with self._lock:
            new = self._new_of.get(subject)
        stored = [key.id for key in self._table.of_subject(subject)]
        return stored if new is None or new.id in stored else [*stored, new.id]

    def flush(self) -> None:
        """Keep the keys that were made since the last time, durably. Raises `SubjectKeysUnusable`."""
        if not self._new:
            return
        with self._changing:
            self._add_new()

    def _add_new(self) -> None:
        with self._lock:
            new = list(self._new.values())
        if new:
            self._table.add(new)
        with self._lock:
            for key in new:
                del self._new[key.id], self._new_of[key.subject]

    # --- forgetting ---

    @contextmanager
    def leaving(self, subject: str) -> Iterator[None]:
        """Let nothing that is sealed for a subject in the block outlast its keys, which are destroyed there.

        Who still has in mind what they sealed may seal it again: that gets no new key, but one that is gone.
        """
        with self._lock:
            key = self._known_key(subject)
            if key is not None and key.secret is not None:
                self._leaving[subject] = key.id, _cipher_class()(key.secret)
            elif destroyed := self._table.unfinished().get(subject):
                self._leaving[subject] = destroyed[0], _cipher_class()(secrets.token_bytes(SECRET_BYTES))
        try:
            yield
        finally:
            with self._lock:
                self._leaving.pop(subject, None)

    @property
    def is_forgetting(self) -> bool:
        """Whether there is a subject of which nothing that is sealed is kept."""
        return bool(self._leaving)

    def forget(self, subject: str) -> list[bytes]:
        """Destroy every key of a subject, durably; returns their ids. What is sealed for it later gets a new one.

        Until `finish_forgetting` is called, calling it again returns the same ids. Raises `SubjectKeysUnusable`; the
        next call looks whether the keys are destroyed.
        """
        with self._changing:
            self._add_new()
            with self._looked_up_again():
                return self._table.destroy(subject)

    def forget_again(self, key_ids: Sequence[bytes]) -> bool:
        """Destroy keys of which is known that they were destroyed; returns whether any had to be.

        Where an older copy of the file was put in its place they are back. Raises `SubjectKeysUnusable`.
        """
        if self._table.is_shared:
            return False
        found = {key_id: self._table.find(key_id) for key_id in key_ids}
        again = [key_id for key_id, key in found.items() if key is None or key.secret is not None]
        if again:
            with self._changing, self._looked_up_again():
                self._table.destroy_again(again)
        return bool(again)

    @contextmanager
    def _looked_up_again(self) -> Iterator[None]:
        """Around a change of the table that what is kept ready must not outlast, however it ends."""
        try:
            yield
        finally:
            with self._lock:
                self._look_at = 0.0

    def sweep(self) -> None:
        """Take out of the file what an interrupted `forget` may have left. Raises `SubjectKeysUnusable`."""
        with self._changing:
            self._table.sweep()

    @property
    def unfinished(self) -> dict[str, list[bytes]]:
        """Subjects whose keys were destroyed, with the ids of those keys, until `finish_forgetting` is called."""
        return self._table.unfinished()

    def finish_forgetting(self, subject: str) -> None:
        """All is done: the file does not say any more whose keys they were. Raises `SubjectKeysUnusable`."""
        self._table.finish_forgetting(subject)

    def copy_to(self, destination: Path) -> None:
        """Put a copy of the file in the place of an older one, while it is in use or not.

        It has every key of what was answered before. Raises `FileWriteFailed`, `SubjectKeysUnusable`.
        """
        self._table.copy_to(destination)

    def close(self) -> None:
        """Close the file. Idempotent. Raises `SubjectKeysUnusable`."""
        self._table.close()


def _keep(cached: dict[K, V], key: K, value: V) -> None:
    """Put it in, and let the oldest go where that is one too many."""
    cached[key] = value
    if len(cached) > CIPHERS_CACHED_MAX:
        del cached[next(iter(cached))]


@cache
def _cipher_class() -> "type[AESSIV]":
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESSIV  # noqa: PLC0415 (an extra)
    except ImportError as error:
        raise PrivacyUnavailable from error
    return AESSIV
