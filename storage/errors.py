"""The base class of all errors of eventsrc, and the errors of the storage layer."""

from typing import ClassVar, Literal


class EventSourcingError(Exception):
    """Base class of all errors that eventsrc raises. `code` is stable and may be stored or compared."""

    code: ClassVar[str] = "event_sourcing_error"


def described(error: BaseException) -> str:
    """The class of an error and its text: "ValueError: no such account". Works even if `str(error)` raises."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as fault:
        return f"{type(error).__name__}, whose text cannot be had because of {type(fault).__name__}"


class LimitInvalid(EventSourcingError, ValueError, TypeError):
    """A bound of `Limits` is no number or out of its range, or what is given as limits is no `Limits`."""

    code = "limit_invalid"

    def __init__(self, limit: str, value: object, advice: str) -> None:
        super().__init__(f"{limit}={value!r:.100} cannot be used: {advice}.")
        self.limit = limit
        self.value = value


class EventQueryInvalid(EventSourcingError, ValueError, TypeError):
    """A criterion of an `EventQuery` can match no event, or is of a wrong type."""

    code = "event_query_invalid"


class ThreadRefused(EventSourcingError):
    """The system starts no further thread for this process. What needed it was not begun; it may be tried again."""

    code = "thread_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The system starts no further thread: {reason}. Nothing was begun. Look at the limits of this process "
            "(`ulimit -u`, `pids.max` of its control group) and at its memory, and try again."
        )
        self.reason = reason


class StoreError(EventSourcingError):
    """Base class of errors about the store, or another file, at `path`."""

    code = "store_error"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class StorePathInvalid(StoreError):
    """The path cannot be used as a store: it is a file, has no store, or may not be read or written."""

    code = "store_path_invalid"


class ViewUnusable(StoreError):
    """A view cannot be opened or read."""

    code = "view_unusable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"The view in {path!r} cannot be opened: {reason}. Look at the disk, and at the limits of this process. A "
            "view holds nothing that the log does not: where it is damaged, delete the folder and it is made anew.",
        )
        self.reason = reason


class ViewClosed(StoreError):
    """The view was closed, or replaced by a newer generation of itself."""

    code = "view_closed"

    def __init__(self, path: str) -> None:
        super().__init__(path, f"The view in {path!r} is closed. Close the place for views after its runtime.")


class StoreReadOnly(StoreError):
    """The store cannot be written: its file system is read-only, or the user lacks the permission."""

    code = "store_read_only"


class StoreFormatUnknown(StoreError):
    """The folder has data in a format that this version of eventsrc cannot read."""

    code = "store_format_unknown"


class StoreTruncated(StoreError):
    """The store's data file is shorter than its meta page says, or its pages are damaged."""

    code = "store_truncated"


class StoreReplaced(StoreError):
    """The folder of an open store was moved away or removed, or another store was put in its place."""

    code = "store_replaced"

    def __init__(self, path: str) -> None:
        super().__init__(path, f"{path} was moved, removed or replaced while it was open. Open what is there now.")


class StoreInUse(StoreError):
    """Another process, or another runtime in this one, has the store open for writing."""

    code = "store_in_use"

    def __init__(self, path: str, owner: str) -> None:
        super().__init__(
            path,
            f"The store {path} is open for writing by {owner}. One writer at a time: stop that one, or send it the "
            "commands.",
        )
        self.owner = owner


class StoreForked(StoreError):
    """The store was opened before a fork and is used in the forked child."""

    code = "store_forked"

    def __init__(self, path: str) -> None:
        super().__init__(
            path,
            f"The store {path} was opened before this process was forked. LMDB cannot be used across a fork: open the "
            "store in the child, or start children with 'spawn'.",
        )


class StoreClosed(StoreError):
    """The store was closed before the call."""

    code = "store_closed"

    def __init__(self, path: str, advice: str = "Open it again to read or write.") -> None:
        super().__init__(path, f"The store {path} is closed. {advice}")


class StoreFull(StoreError):
    """The disk, a quota or the limit on file sizes is exhausted. Nothing of a failed commit was stored."""

    code = "store_full"

    def __init__(self, path: str, reason: str, to: Literal["write", "open", "read"] = "write") -> None:
        if to == "read":
            message = (
                f"The store {path} cannot be read: there is no room for {reason}. Free some space, or copy its folder "
                "to another disk and read that."
            )
        elif to == "open":
            message = (
                f"The store {path} cannot be opened for writing: there is no room ({reason}). Nothing that was "
                "answered is lost: free some space and open it again."
            )
        else:
            message = (
                f"No room to write to the store {path} ({reason}). Nothing of this commit was stored and nothing that "
                "was answered is lost: free some space and send the command again."
            )
        super().__init__(path, message)
        self.reason = reason


class FileWriteFailed(StoreError):
    """The operating system refused to write a file other than the log: a copy, a view, the control board."""

    code = "file_write_failed"

    def __init__(
        self, path: str, reason: str, advice: str = "See that its disk works and has room, then do it again"
    ) -> None:
        super().__init__(path, f"{path} cannot be written: {reason}. {advice}.")
        self.reason = reason


class StoreWriteFailed(StoreError):
    """The operating system refused a write to the log. The commit is known not to be stored."""

    code = "store_write_failed"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"Writing to the store {path} failed ({reason}). The store was reopened and does not hold this commit: "
            "look at the disk, then send the command again.",
        )
        self.reason = reason


class StoreOutcomeUnknown(StoreError):
    """A write failed, and the store could not be reopened to check whether the commit is stored."""

    code = "store_outcome_unknown"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"A write to the store {path} failed and the store cannot be read any more ({reason}). Whether the commit "
            "is stored shows when it can be opened again: ask again then, with the same idempotency key.",
        )
        self.reason = reason


class CorruptRecord(StoreError):
    """A stored value is damaged or missing: its checksum does not match, or it cannot be decoded."""

    code = "corrupt_record"

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(
            path,
            f"The record at position {position} of {path} is damaged: {reason}. Run `eventsrc verify {path}` to see "
            "everything that is wrong, and restore the store from a backup.",
        )
        self.position = position
        self.reason = reason


class AppendRefused(EventSourcingError):
    """Base class of the errors with which the log refuses a commit; the log is unchanged."""

    code = "append_refused"


class VersionConflict(AppendRefused):
    """The stream is not at the version that the commit expected.

    `expected` is the expectation of the caller (a version number or an `Expected`), `actual` the stream's version (0:
    no stream).
    """

    code = "version_conflict"

    def __init__(self, stream: str, expected: object, actual: int) -> None:
        super().__init__(
            f"Stream {stream!r} is at version {actual}, but {expected} was expected. Load its state again, decide "
            "again, and send the command with the new version."
        )
        self.stream = stream
        self.expected = expected
        self.actual = actual


class CommitAlreadyApplied(AppendRefused):
    """The log has a commit with this id or a later one, so this commit was not applied."""

    code = "commit_already_applied"

    def __init__(self, commit_id: int, last_commit_id: int) -> None:
        super().__init__(f"Commit {commit_id} was applied before: the log is at commit {last_commit_id}.")
        self.commit_id = commit_id
        self.last_commit_id = last_commit_id


class CommitAbandoned(AppendRefused):
    """The commit was decided on the outcome of an earlier commit, which was refused."""

    code = "commit_abandoned"

    def __init__(self, commit_id: int, follows: int) -> None:
        super().__init__(
            f"Commit {commit_id} was decided on the outcome of commit {follows}, which was refused, so it took no "
            "effect. Send the command again: it will be decided on what is stored."
        )
        self.commit_id = commit_id
        self.follows = follows


class StoreMapRefused(StoreError):
    """The system refuses the address space that a store reserves. Reserved address space takes no memory."""

    code = "store_map_refused"

    def __init__(self, path: str, size_bytes: int, *, is_growing: bool = False) -> None:
        if is_growing:
            what = "is full and cannot grow"
            advice = "then try again: nothing of this commit was stored, and nothing that was answered is lost."
        else:
            what = "cannot be mapped"
            advice = "or open a log with a smaller map: Runtime.open(EventLog(path, map_size_bytes=1 << 30))."
        super().__init__(
            path,
            f"{path} {what}: the process may not reserve {size_bytes:,} bytes of address space, although only what is "
            f"stored takes room. Raise its limit (ulimit -v unlimited), {advice}",
        )
        self.size_bytes = size_bytes


class StoreMapOutgrown(StoreError):
    """The writing process lets the store grow faster than this reading process can follow, or during an open read."""

    code = "store_map_outgrown"

    def __init__(self, path: str) -> None:
        super().__init__(path, f"{path} has grown beyond what this process has mapped while it read: read it again.")


class StreamNameInvalid(EventSourcingError):
    """A stream name cannot be a key: it is empty, too long, not valid Unicode, or has control characters."""

    code = "stream_name_invalid"

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"{stream[:80]!r} cannot name a stream: {reason}.")
        self.stream = stream
        self.reason = reason


class LimitExceeded(AppendRefused):
    """Base class of the errors for a bound of `Limits`: field `limit` has the value `bound`; `actual` is above it."""

    code = "limit_exceeded"
    limit: ClassVar[str] = ""

    def __init__(self, subject: str, actual: int, bound: int, advice: str) -> None:
        super().__init__(f"{subject}: {actual:,} is over Limits.{self.limit} = {bound:,}. {advice}")
        self.subject = subject
        self.actual = actual
        self.bound = bound


class StreamFull(LimitExceeded):
    """The stream would have more than `Limits.stream_events_max` events."""

    code = "stream_full"
    limit = "stream_events_max"

    def __init__(self, stream: str, event_count: int, bound: int) -> None:
        advice = "Close this aggregate and begin a new one, or raise the limit."
        super().__init__(f"Events in stream {stream!r}", event_count, bound, advice)


class TooManyStreams(LimitExceeded):
    """The store would have more than `Limits.streams_max` streams."""

    code = "too_many_streams"
    limit = "streams_max"


class EventTooLarge(LimitExceeded):
    """One encoded event, with its metadata, is larger than `Limits.event_size_bytes_max`."""

    code = "event_too_large"
    limit = "event_size_bytes_max"

    def __init__(
        self,
        stream: str,
        event_type: str,
        size_bytes: int,
        bound: int,
        advice: str = "Store large data elsewhere and its reference in the event.",
    ) -> None:
        super().__init__(f"Bytes of event {event_type!r} for stream {stream!r}", size_bytes, bound, advice)
        self.event_type = event_type


class CommitTooLarge(LimitExceeded):
    """One commit has more events than `Limits.commit_events_max`."""

    code = "commit_too_large"
    limit = "commit_events_max"


class CommitTooManyBytes(LimitExceeded):
    """The events of one commit have more bytes than `Limits.commit_size_bytes_max`."""

    code = "commit_too_many_bytes"
    limit = "commit_size_bytes_max"


class PayloadInvalid(AppendRefused):
    """An event cannot be stored: it cannot be encoded as MessagePack and decoded again, or its type cannot be a key."""

    code = "payload_invalid"

    def __init__(self, stream: str, event_type: str, reason: str) -> None:
        super().__init__(f"An event {event_type!r} for stream {stream!r} cannot be encoded: {reason}.")
        self.stream = stream
        self.event_type = event_type
        self.reason = reason


class TooManyTags(LimitExceeded):
    """One event has more tags than `Limits.event_tags_max`."""

    code = "too_many_tags"
    limit = "event_tags_max"


class TagInvalid(AppendRefused):
    """A tag is empty, too long, has control characters, is given twice, or is reserved for the runtime."""

    code = "tag_invalid"

    def __init__(self, stream: str, event_type: str, tag: str, reason: str) -> None:
        super().__init__(f"{tag!r} cannot be a tag of event {event_type!r}: {reason}.")
        self.stream = stream
        self.tag = tag
        self.event_type = event_type
        self.reason = reason


class ConditionNotMet(AppendRefused):
    """An event matches the query that an append was conditional on. Nothing was stored."""

    code = "condition_not_met"

    def __init__(self, query: str, position: int) -> None:
        super().__init__(
            f"The event at position {position} matches the query ({query}) that the append was conditional on. Look at "
            "what has happened, decide again, and append on the condition that nothing matches after that position."
        )
        self.query = query
        self.position = position


class VerificationImpossible(StoreError):
    """A store cannot be verified: it does not exist, has an unknown format, or the system refuses to read it."""

    code = "verification_impossible"
