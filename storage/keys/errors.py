"""Errors of sealing and reading personal data."""

from ..errors import EventSourcingError, StoreError


class PrivacyUnavailable(EventSourcingError):
    """Sealing needs the library `cryptography`, which is not installed."""

    code = "privacy_unavailable"

    def __init__(self) -> None:
        super().__init__('Personal data are sealed by a library that is an extra: pip install "eventsrc[privacy]".')


class SubjectKeysUnusable(StoreError):
    """The file with the keys of subjects cannot be read or written, or is not such a file."""

    code = "subject_keys_unusable"

    def __init__(
        self,
        path: str,
        reason: str,
        advice: str = "See that it is the file of keys, and that its disk has room",
        *,
        is_refused: bool = False,
    ) -> None:
        super().__init__(path, f"The keys of subjects in {path} cannot be used: {reason}. {advice}.")
        self.is_refused = is_refused
        """The system refused access, or another process has the file locked: the file may be sound."""
        self.reason = reason


def no_keys_at(path: str) -> SubjectKeysUnusable:
    """The error for a named file of keys that does not exist."""
    return SubjectKeysUnusable(path, "there is no such file", "Name it: --keys FILE")


class SubjectKeyMissing(StoreError):
    """Data were sealed with a key that the file neither has nor has destroyed: it is the file of another store."""

    code = "subject_key_missing"

    def __init__(self, path: str, key_id: bytes) -> None:
        super().__init__(
            path,
            f"Personal data are sealed with the key {key_id.hex()}, which {path} neither holds nor has forgotten. Give "
            "the file of keys that belongs to this store: Runtime.open(..., keys=PATH), or --keys FILE.",
        )
        self.key_id = key_id


class SealedDataDamaged(StoreError):
    """Sealed bytes were changed: the key does not decrypt them."""

    code = "sealed_data_damaged"

    def __init__(self, path: str, key_id: bytes) -> None:
        super().__init__(
            path,
            f"Personal data that are sealed with the key {key_id.hex()} of {path} were changed after that: it does not "
            "open them. Run `eventsrc verify` to see where the log was changed, and restore it from a backup.",
        )
        self.key_id = key_id
