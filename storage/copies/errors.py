"""Why a copy, an export or an import is refused."""

from ..errors import EventSourcingError


class ImportRefused(EventSourcingError):
    """Events that are to be taken over do not fit: no export, of another history, or changed on the way."""

    code = "import_refused"


class BackupRefused(EventSourcingError):
    """A copy of a store cannot be made there, or is not sound."""

    code = "backup_refused"


# --- where something is to be written


class DestinationExists(BackupRefused):
    """Something is at the destination already. It was not touched."""

    code = "destination_exists"

    def __init__(self, path: str) -> None:
        super().__init__(f"{path} is there already. Name a path that is free, or a folder that is empty.")
        self.path = path


class DestinationOverlaps(BackupRefused):
    """The destination is the store itself, or lies inside its folder."""

    code = "destination_overlaps"

    def __init__(self, path: str, source: str) -> None:
        super().__init__(f"{path} is the store {source} itself, or inside of it. Name a path outside of its folder.")
        self.path = path
        self.source = source


class DestinationUnusable(BackupRefused):
    """The system refuses to write there."""

    code = "destination_unusable"

    def __init__(self, path: str, reason: str, advice: str = "Name another path") -> None:
        super().__init__(f"{path} cannot be written: {reason}. {advice}.")
        self.path = path
        self.reason = reason


class DestinationFull(BackupRefused):
    """The disk of the destination has no room. Nothing is left there that looks finished."""

    code = "destination_full"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"There is no room to write {path} ({reason}). Nothing is left there that looks finished: free some space, "
            "or name a path on another disk."
        )
        self.path = path
        self.reason = reason


class DestinationInUse(BackupRefused):
    """Another process is writing to this destination at this moment."""

    code = "destination_in_use"

    def __init__(self, path: str, partial: str) -> None:
        super().__init__(
            f"Another process is writing {path}: it has {partial} open. Wait for it, or name another path."
        )
        self.path = path


class CopyInterrupted(BackupRefused):
    """While a store was copied it had to be mapped anew: it grew, its disk refused a write, or it was closed."""

    code = "copy_interrupted"

    def __init__(self, source: str) -> None:
        super().__init__(
            f"The copy of {source} was broken off, since it had to be mapped anew: it grows, or its disk refuses what "
            f"is written. Back it up once that is over, or from another process: eventsrc backup {source}"
        )
        self.source = source


class CopyUnsound(BackupRefused):
    """A copy was verified and is damaged, as its source is, or the disk. It is removed."""

    code = "copy_unsound"

    def __init__(self, source: str, findings: list[str]) -> None:
        super().__init__(
            f"The copy of {source} is damaged and was removed: {'; '.join(findings)}. Run `eventsrc verify {source}` "
            "to see whether the store is."
        )
        self.source = source
        self.findings = findings


class CopyUnverified(BackupRefused):
    """The system refused to let a copy be verified: whether it is sound is not known. It is removed."""

    code = "copy_unverified"

    def __init__(self, source: str, reasons: list[str]) -> None:
        super().__init__(
            f"The copy of {source} could not be verified and was removed: {'; '.join(reasons)}. Look at the disk, and "
            "at the limits of this process, and try again."
        )
        self.source = source
        self.reasons = reasons


class PointUnreachable(BackupRefused):
    """There is no such position, or nothing was stored by that time."""

    code = "point_unreachable"

    def __init__(self, path: str, wanted: str, reaches: str) -> None:
        super().__init__(f"{path} does not reach {wanted}: {reaches}.")
        self.path = path
        self.wanted = wanted
        self.reaches = reaches


# --- what is to be read


class ExportUnreadable(ImportRefused):
    """The file cannot be read, is no export, or one of another version."""

    code = "export_unreadable"

    def __init__(self, path: str, reason: str, line: int = 0) -> None:
        where = f"{path}, line {line}," if line else path
        super().__init__(f"{where} cannot be read as an export of eventsrc: {reason}. Nothing of it was stored.")
        self.path = path
        self.line = line
        self.reason = reason


class ExportTruncated(ImportRefused):
    """The end of the file is missing. `position` is that of its last whole event."""

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
    """What the file says does not fit together: something was changed, left out or moved after it was written."""

    code = "export_altered"

    def __init__(self, path: str, line: int, reason: str) -> None:
        super().__init__(f"{path} was altered after it was written: in line {line} {reason}. Copy the file again.")
        self.path = path
        self.line = line
        self.reason = reason


class ImportGap(ImportRefused):
    """The file begins after the end of the store: what lies between is missing."""

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
    """The file and the store hold different events. `position` is the first that differs, or the last it can be."""

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
