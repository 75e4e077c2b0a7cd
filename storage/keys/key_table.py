"""`KeyTable`, the port of a table of keys, and a table in memory for stores in memory."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from .errors import SubjectKeysUnusable


class SubjectKey(NamedTuple):
    """One key of a subject; `secret` is None once the key was destroyed."""

    id: bytes
    subject: str
    secret: bytes | None

    def __repr__(self) -> str:
        # Without the secret, which would appear in tracebacks and logs.
        return f"SubjectKey({self.id.hex()}, {self.subject!r}, {'destroyed' if self.secret is None else 'kept'})"


class KeyTable(Protocol):
    """A table of keys. Any thread may call it; methods that change it wait for the disk.

    Methods raise `SubjectKeysUnusable` if the table cannot be read or written.
    """

    @property
    def path(self) -> str:
        """The place of the keys, for messages."""

    @property
    def is_shared(self) -> bool:
        """Whether this table is for reading only, while another process may change the keys at any time."""

    @property
    def is_empty(self) -> bool:
        """Whether the table never had a key."""

    def problem(self) -> str:
        """What is wrong with the stored keys; empty if nothing is."""

    def version(self) -> object:
        """A value that differs whenever any process may have changed a key."""

    def of_subject(self, subject: str) -> list[SubjectKey]:
        """The keys of a subject that are not destroyed: one, or a few if several processes created them."""

    def find(self, key_id: bytes) -> SubjectKey | None:
        """The key with this id, destroyed or not; None if there never was one."""

    def add(self, keys: Sequence[SubjectKey]) -> None:
        """Store new keys durably."""

    def destroy(self, subject: str) -> list[bytes]:
        """Destroy all keys of a subject durably; return their ids.

        The subject of the keys stays stored until `finish_forgetting` is called, since forgetting may be interrupted.
        """

    def destroy_again(self, key_ids: Sequence[bytes]) -> None:
        """Destroy, durably, keys that were forgotten before and that an older copy of the table has restored."""

    def sweep(self) -> None:
        """Erase the secrets that an interrupted destruction may have left in the file."""

    def unfinished(self) -> dict[str, list[bytes]]:
        """The ids of destroyed keys by subject, until `finish_forgetting` is called for the subject."""

    def finish_forgetting(self, subject: str) -> None:
        """Complete the forgetting of a subject: remove its id from its destroyed keys."""

    def copy_to(self, destination: Path) -> None:
        """Copy the keys to a file, replacing an older one. Raises `FileWriteFailed`, `SubjectKeysUnusable`."""

    def close(self) -> None:
        """Close the table. Idempotent."""


class KeysInMemory:
    """A `KeyTable` in memory; its keys end with the process."""

    path = "memory"
    is_shared = False

    def __init__(self) -> None:
        self._keys: dict[bytes, SubjectKey] = {}
        self._version = 0

    def problem(self) -> str:
        return ""

    def version(self) -> object:
        return self._version

    @property
    def is_empty(self) -> bool:
        return not self._keys

    def of_subject(self, subject: str) -> list[SubjectKey]:
        return [key for key in list(self._keys.values()) if key.subject == subject and key.secret is not None]

    def find(self, key_id: bytes) -> SubjectKey | None:
        return self._keys.get(key_id)

    def add(self, keys: Sequence[SubjectKey]) -> None:
        self._keys.update({key.id: key for key in keys})
        self._version += 1

    def destroy(self, subject: str) -> list[bytes]:
        ids = [key.id for key in list(self._keys.values()) if key.subject == subject]
        self.add([SubjectKey(key_id, subject, None) for key_id in ids])
        return ids

    def destroy_again(self, key_ids: Sequence[bytes]) -> None:
        self.add([SubjectKey(key_id, "", None) for key_id in key_ids])

    def sweep(self) -> None:
        """Nothing to do: memory has no leftovers."""

    def unfinished(self) -> dict[str, list[bytes]]:
        found: dict[str, list[bytes]] = {}
        for key in list(self._keys.values()):
            if key.secret is None and key.subject:
                found.setdefault(key.subject, []).append(key.id)
        return found

    def finish_forgetting(self, subject: str) -> None:
        for key_id in self.unfinished().get(subject, ()):
            self._keys[key_id] = SubjectKey(key_id, "", None)

    def copy_to(self, destination: Path) -> None:
        raise SubjectKeysUnusable(self.path, "they are in memory, and have no copy", "Keep the store on a disk")

    def close(self) -> None:
        """Nothing to close."""
