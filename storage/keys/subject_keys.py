"""Sealing: personal data of a subject are encrypted with a key of that subject. Without the key they cannot be read.

The cipher is AES-SIV (RFC 5297) by the library `cryptography`, the extra `privacy`. It is deterministic: equal values
sealed with one key give equal bytes, so equal states stay equal. Sealed bytes reveal the id of the key, which values
are equal, and how long they are; nothing else.
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
"""With the id of a key: the tag of every event with values that are sealed with this key."""
SECRET_BYTES: Final = 64
"""The key size of AES-SIV with AES-256: two keys of 256 bits."""
LOOK_SECONDS: Final = 0.1
"""How often a writing process checks whether another process has changed the keys."""
CIPHERS_CACHED_MAX: Final = 10_000
"""The most cached ciphers, and the most subjects whose current key is cached."""


class SubjectKeys:
    """The keys of one runtime. Any thread may call it. Sealing a value for a new subject creates a key.

    `flush` stores new keys; call it before any value that was sealed with them is stored.
    """

    def __init__(self, table: KeyTable) -> None:
        self._table = table
        self._lock = threading.Lock()
        self._ciphers: dict[bytes, AESSIV | None] = {}
        """By key id; None if the key was destroyed."""
        self._current: dict[str, bytes] = {}
        """By subject: the id of the key that seals its values."""
        self._new: dict[bytes, SubjectKey] = {}
        self._new_of: dict[str, SubjectKey] = {}
        """The new keys by subject."""
        self._leaving: dict[str, tuple[bytes, AESSIV]] = {}
        """The key and cipher for subjects that are being forgotten: their values must not get a new key."""
        self._look_at = 0.0
        """When to check next (`time.monotonic`) whether another process has changed the table."""
        self._version: object = None
        """The version of the table that the caches were filled from."""
        self._changing = threading.Lock()
        """Held while a change of the table waits for the disk; `_lock` is never held for that."""

    @property
    def path(self) -> str:
        """The place of the keys, for messages."""
        return self._table.path

    @property
    def is_empty(self) -> bool:
        """Whether no key was ever stored."""
        return self._table.is_empty

    def check(self) -> None:
        """Raise `PrivacyUnavailable` if the library `cryptography` is missing."""
        _cipher_class()

    def problem(self) -> str:
        """What is wrong with the stored keys; empty if nothing is. Raises `SubjectKeysUnusable`."""
        return self._table.problem()

    def knows(self, key_id: bytes) -> bool:
        """Whether a key with this id exists or was destroyed. Raises `SubjectKeysUnusable`."""
        return key_id in self._new or self._table.find(key_id) is not None

    # --- sealing ---

    def seal(self, subject: str, value: bytes) -> bytes:
        """Encrypt a value with the subject's key; return the id of the key (16 bytes) followed by the ciphertext.

        Raises `SubjectKeysUnusable`, `PrivacyUnavailable`.
        """
        with self._lock:
            self._look_for_changes()
            key_id, cipher = self._leaving.get(subject) or self._key_for(subject)
        return key_id + cipher.encrypt(value, None)

    def unseal(self, sealed: bytes) -> bytes | None:
        """Decrypt a sealed value; None if its key was destroyed.

        Raises `SubjectKeyMissing`, `SealedDataDamaged`, `SubjectKeysUnusable`, `PrivacyUnavailable`.
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
        """Clear the caches if another process may have changed the table.

        A reader checks at every call. A writer checks every `LOOK_SECONDS`, since only one process should write.
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
        """The ids of the keys of a subject that are not destroyed, including a new key that is not stored yet."""
        with self._lock:
            new = self._new_of.get(subject)
        stored = [key.id for key in self._table.of_subject(subject)]
        return stored if new is None or new.id in stored else [*stored, new.id]

    def flush(self) -> None:
        """Store the new keys durably. Raises `SubjectKeysUnusable`."""
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
        """Make values that are sealed for a subject during the block unreadable once the block destroys its keys.

        An actor that still has the subject's data in memory may seal them again during the block. They get no new key,
        but the key that is destroyed; after an interrupted `forget`, a random key that is never stored.
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
        """Whether a block of `leaving` is active for any subject."""
        return bool(self._leaving)

    def forget(self, subject: str) -> list[bytes]:
        """Destroy every key of a subject durably; return their ids. Values sealed later get a new key.

        Until `finish_forgetting` is called, calling this again returns the same ids. Raises `SubjectKeysUnusable`; the
        keys may or may not be destroyed then, and the next use looks them up again.
        """
        with self._changing:
            self._add_new()
            with self._looked_up_again():
                return self._table.destroy(subject)

    def forget_again(self, key_ids: Sequence[bytes]) -> bool:
        """Destroy those of the given keys that an older copy of the file has restored; return whether the file changed.

        `key_ids` are keys that the log records as destroyed. A key that the file does not know is recorded as destroyed
        as well. A reader does nothing. Raises `SubjectKeysUnusable`.
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
        """Enclose a change of the table: the next use checks the table again, even if the change fails."""
        try:
            yield
        finally:
            with self._lock:
                self._look_at = 0.0

    def sweep(self) -> None:
        """Erase the secrets that an interrupted `forget` may have left in the file. Raises `SubjectKeysUnusable`."""
        with self._changing:
            self._table.sweep()

    @property
    def unfinished(self) -> dict[str, list[bytes]]:
        """The ids of destroyed keys by subject, until `finish_forgetting` is called for the subject."""
        return self._table.unfinished()

    def finish_forgetting(self, subject: str) -> None:
        """Complete the forgetting of a subject: remove its id from its destroyed keys. Raises `SubjectKeysUnusable`."""
        self._table.finish_forgetting(subject)

    def copy_to(self, destination: Path) -> None:
        """Copy the file, which may be in use, to `destination`, replacing an older copy.

        The copy has the keys of all commands that were answered before. Raises `FileWriteFailed`,
        `SubjectKeysUnusable`.
        """
        self._table.copy_to(destination)

    def close(self) -> None:
        """Close the file. Idempotent. Raises `SubjectKeysUnusable`."""
        self._table.close()


def _keep(cached: dict[K, V], key: K, value: V) -> None:
    """Put a value into a cache; drop the oldest entry if the cache is over `CIPHERS_CACHED_MAX`."""
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
