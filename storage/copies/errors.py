"""Errors of backups, exports and imports."""

from ..errors import EventSourcingError


class ImportRefused(EventSourcingError):
    """Events cannot be imported: the file is no export, is of another history, or was altered."""

    code = "import_refused"


class BackupRefused(EventSourcingError):
    """A copy or an export of a store cannot be made."""

    code = "backup_refused"


# --- errors of the destination and the copy


class DestinationExists(BackupRefused):
    """Something exists at the destination already. It was not touched."""

    code = "destination_exists"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is there already. Name a path that is free, or a folder that is empty.")
        self.path = path


class DestinationOverlaps(BackupRefused):
    """The destination is the store itself, or is inside its folder."""

    code = "destination_overlaps"

    def __init__(self, path: str, source: str) -> None:
        super().__init__(f"{path} is the store {source} itself, or inside of it. Name a path outside of its folder.")
        self.path = path
        self.source = source


class DestinationUnusable(BackupRefused):
    """The destination cannot be written: its path is invalid or the system refuses."""

    code = "destination_unusable"

    def __init__(self, path: str, reason: str, advice: str = "Name another path") -> None:
        super().__init__(f"{path} cannot be written: {reason}. {advice}.")
        self.path = path
        self.reason = reason


class DestinationFull(BackupRefused):
    """The disk of the destination is full. Nothing at the destination looks finished."""

    code = "destination_full"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"There is no room to write {path} ({reason}). Nothing is left there that looks finished: free some space, "
            "or name a path on another disk."
        )
        self.path = path
        self.reason = reason


class DestinationInUse(BackupRefused):
    """Another process is writing to this destination now."""

    code = "destination_in_use"

    def __init__(self, path: str, partial: str) -> None:
        super().__init__(
            f"Another process is writing {path}: it has {partial} open. Wait for it, or name another path."
        )
        self.path = path


class CopyInterrupted(BackupRefused):
    """A copy was aborted because its source had to be mapped anew: it grew, a write failed, or it was closed."""

    code = "copy_interrupted"

    def __init__(self, source: str) -> None:
        super().__init__(
            f"The copy of {source} was broken off, since it had to be mapped anew: it grows, or its disk refuses what "
            f"is written. Back it up once that is over, or from another process: eventsrc backup {source}"
        )
        self.source = source


class CopyUnsound(BackupRefused):
    """A copy is damaged, because its source or the disk is. The copy was removed."""

    code = "copy_unsound"

    def __init__(self, source: str, findings: list[str]) -> None:
        super().__init__(
            f"The copy of {source} is damaged and was removed: {'; '.join(findings)}. Run `eventsrc verify {source}` "
            "to see whether the store is."
        )
        self.source = source
        self.findings = findings


class CopyUnverified(BackupRefused):
    """The system refused to let a copy be verified, so it may or may not be sound. The copy was removed."""

    code = "copy_unverified"

    def __init__(self, source: str, reasons: list[str]) -> None:
        super().__init__(
            f"The copy of {source} could not be verified and was removed: {'; '.join(reasons)}. Look at the disk, and "
            "at the limits of this process, and try again."
        )
        self.source = source
        self.reasons = reasons


class PointUnreachable(BackupRefused):
    """The store does not have the requested position, or had no event at the requested time."""

    code = "point_unreachable"

    def __init__(self, path: str, wanted: str, reaches: str) -> None:
        super().__init__(f"{path} does not reach {wanted}: {reaches}.")
        self.path = path
        self.wanted = wanted
        self.reaches = reaches


# --- errors of imports


class ExportUnreadable(ImportRefused):
    """The file cannot be read, is no export, or is an export of another version."""

    code = "export_unreadable"

    def __init__(self, path: str, reason: str, line: int = 0) -> None:
        where = f"{path}, line {line}," if line else path
        super().__init__(f"{where} cannot be read as an export of eventsrc: {reason}. Nothing of it was stored.")
        self.path = path
        self.line = line
        self.reason = reason


class ExportTruncated(ImportRefused):
    """The end of the file is missing. `position` is the position of the last complete event."""

    code = "export_truncated"

    def __init__(self, path: str, position: int, last_position: int) -> None:
        super().__init__(
            f"{path} is cut off after position {position}: it should go to {last_position} and end with a line that "
            "says so. Export it once more, or copy the file again."
        )
        self.path = path
        self.position = position
        self.last_position = last_position


class ExportAltered(ImportRefused):
    """The file is inconsistent: something in it was changed, removed or moved after it was written."""

    code = "export_altered"

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path} was altered after it was written: in line {line} {reason}. Copy the file again.")
        self.path = path
        self.line = line
        self.reason = reason


class ImportGap(ImportRefused):
    """The file begins after the end of the store: the events between them are missing."""

    code = "import_gap"

    def __init__(self, path: str, after: int, store: str, last_position: int) -> None:
        super().__init__(
            f"{path} begins after position {after}, and {store} ends at {last_position}: an increment is missing, or "
            "they were given in another order."
        )
        self.path = path
        self.after = after
        self.last_position = last_position
        self.store = store


class HistoryDiverged(ImportRefused):
    """The file and the store have different events.

    `position` is the first position that differs if `is_exact`; otherwise the first difference is there or before.
    """

    code = "history_diverged"

    def __init__(self, path: str, store: str, position: int, *, is_exact: bool) -> None:
        where = f"at position {position}" if is_exact else f"at position {position} or before"
        super().__init__(
            f"{path} and {store} part {where}: they are of different stores, or were both written to since. Nothing of "
            "it was stored; import it into a path of its own."
        )
        self.path = path
        self.position = position
        self.is_exact = is_exact
        self.store = store
