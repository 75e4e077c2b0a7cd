"""The port to where keys are kept, and keys that are kept in memory, for stores that are, too."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from .errors import SubjectKeysUnusable


class SubjectKey(NamedTuple):
    """One key of a subject; `secret` is None once it was destroyed."""

    id: bytes
    subject: str
    secret: bytes | None

    def __repr__(self) -> str:
        # Without the secret: it would be in tracebacks and logs.
        return f"SubjectKey({self.id.hex()}, {self.subject!r}, {'destroyed' if self.secret is None else 'kept'})"


class KeyTable(Protocol):
    """Keeps keys. Any thread may call it; what changes it waits for the disk.

    Every method raises `SubjectKeysUnusable` where the file system refuses.
    """

    @property
    def path(self) -> str:
        """Where they are, for messages."""

    @property
    def is_shared(self) -> bool:
        """Whether another process changes it, so that nothing that it says holds for long."""

    @property
    def is_empty(self) -> bool:
        """Whether there never was a key."""

    def problem(self) -> str:
        """What is wrong with the place where they are; empty where nothing is."""

    def version(self) -> object:
        """Another one whenever anybody, also another process, may have changed a key."""

    def of_subject(self, subject: str) -> list[SubjectKey]:
        """The keys of a subject that were not destroyed: one, or a few where several processes made them."""

    def find(self, key_id: bytes) -> SubjectKey | None:
        """The key with this id, destroyed or not; None where there never was one."""

    def add(self, keys: Sequence[SubjectKey]) -> None:
        """Keep new keys, durably."""

    def destroy(self, subject: str) -> list[bytes]:
        """Destroy all keys of a subject, durably; returns their ids.

        Whose they were stays known until `forgotten` is called: what is to be done about it may be interrupted.
        """

    def destroy_again(self, key_ids: Sequence[bytes]) -> None:
        """Destroy keys that were destroyed and forgotten before, durably: this is what was kept of an older time."""

    def sweep(self) -> None:
        """Take out what a destruction that was interrupted may have left of what it destroyed."""

    def unfinished(self) -> dict[str, list[bytes]]:
        """Subjects whose keys were destroyed, with the ids of those keys, until `finish_forgetting` is called."""

    def finish_forgetting(self, subject: str) -> None:
        """All is done: nothing says any more whose keys they were."""

    def copy_to(self, destination: Path) -> None:
        """Put a copy into a file, in the place of an older one. Raises `FileWriteFailed`, `SubjectKeysUnusable`."""

    def close(self) -> None:
        """Close it. Idempotent."""


class KeysInMemory:
    """Keys that end with the process."""

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
        """Nothing is left anywhere."""

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
        """Nothing is open."""
