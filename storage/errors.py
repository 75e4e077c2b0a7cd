"""The base of every error of eventsrc, and the errors of the storage layer."""

from typing import ClassVar, Literal


class EventSourcingError(Exception):
    """Base of every error that eventsrc raises. `code` is stable and may be stored or compared."""

    code: ClassVar[str] = "event_sourcing_error"


def described(error: BaseException) -> str:
    """The class of an error and what it says: "ValueError: no such account". Of any: one may fail to say anything."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception as fault:
        return f"{type(error).__name__}, whose text cannot be had because of {type(fault).__name__}"


class ThreadRefused(EventSourcingError):
    """The system starts no further thread for this process. What needed it was not begun; it may be tried again."""

    code = "thread_refused"

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"The system starts no further thread: {reason}. Nothing was begun. Look at the limits of this process "
            "(`ulimit -u`, `pids.max` of its control group) and at its memory, and try again."
        )


class StoreError(EventSourcingError):
    """Something about the store at `path`."""

    code = "store_error"

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


class StorePathInvalid(StoreError):
    """The path cannot hold a store: it is a file, its parent is missing, or it may not be read or written."""

    code = "store_path_invalid"


class ViewUnusable(StoreError):
    """The file of a view cannot be opened, or is of another format."""

    code = "view_unusable"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"The view in {path!r} cannot be opened: {reason}. Look at the disk, and at the limits of this process. A "
            "view holds nothing that the log does not: where it is damaged, delete the folder and it is made anew.",
        )


class ViewClosed(StoreError):
    """The view was closed, or replaced by a newer generation of itself."""

    code = "view_closed"

    def __init__(self, path: str) -> None:
        super().__init__(path, f"The view in {path!r} is closed.")


class StoreReadOnly(StoreError):
    """The file system or its permissions refuse writing."""

    code = "store_read_only"


class StoreFormatUnknown(StoreError):
    """The folder holds something that this version of eventsrc cannot read: another format, or a newer one."""

    code = "store_format_unknown"


class StoreTruncated(StoreError):
    """The store's file is shorter than its own table of contents says, or its pages are damaged."""

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
    """The store was opened before a fork and is used in the child."""

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

    def __init__(self, path: str) -> None:
        super().__init__(path, f"The store {path} is closed. Open it again to read or write.")


class StoreFull(StoreError):
    """The disk (or a quota) has no room. Nothing of the failed commit was stored; all that was answered is safe."""

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


class FileWriteFailed(StoreError):
    """The operating system refused to write a file that is not the log: a copy, a view, or what is kept beside it."""

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


class StoreOutcomeUnknown(StoreError):
    """A write failed and the store could not be opened again to see whether the commit is there."""

    code = "store_outcome_unknown"

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            path,
            f"A write to the store {path} failed and the store cannot be read any more ({reason}). Whether the commit "
            "is stored shows when it can be opened again: ask again then, with the same idempotency key.",
        )


class CorruptRecord(StoreError):
    """A stored value does not pass its own check."""

    code = "corrupt_record"

    def __init__(self, path: str, position: int, reason: str) -> None:
        super().__init__(
            path,
            f"The record at position {position} of {path} is damaged: {reason}. Run `eventsrc verify {path}` to see "
            "everything that is wrong, and restore the store from a backup.",
        )
        self.position = position


class AppendRefused(EventSourcingError):
    """Base of the reasons for which the log refuses one commit and stays as it was."""

    code = "append_refused"


class VersionConflict(AppendRefused):
    """The stream is not at the version that the commit expected.

    `expected` is what the caller asked for (a version number or a word), `actual` the stream's version (0: no stream).
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
    """A commit with this id, or a later one, is in the log: applying it again changes nothing."""

    code = "commit_already_applied"

    def __init__(self, commit_id: int, last_commit_id: int) -> None:
        super().__init__(f"Commit {commit_id} was applied before: the log is at commit {last_commit_id}.")
        self.commit_id = commit_id
        self.last_commit_id = last_commit_id


class CommitAbandoned(AppendRefused):
    """A commit was decided on the outcome of an earlier one, and that one was refused."""

    code = "commit_abandoned"

    def __init__(self, commit_id: int, follows: int) -> None:
        super().__init__(
            f"Commit {commit_id} was decided on the outcome of commit {follows}, which was refused, so it took no "
            "effect. Send the command again: it will be decided on what is stored."
        )
        self.commit_id = commit_id
        self.follows = follows


class StoreMapRefused(StoreError):
    """The system does not give the process as much address space as a store reserves. It takes no memory by itself."""

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
    """The process that writes the store lets it grow faster than this one, which reads, can follow."""

    code = "store_map_outgrown"

    def __init__(self, path: str) -> None:
        super().__init__(path, f"{path} has grown beyond what this process has mapped while it read: read it again.")


class StreamNameInvalid(EventSourcingError):
    """A stream name that cannot be a key: empty, too long, or with control characters."""

    code = "stream_name_invalid"

    def __init__(self, stream: str, reason: str) -> None:
        super().__init__(f"{stream[:80]!r} cannot name a stream: {reason}.")
        self.stream = stream


class LimitExceeded(AppendRefused):
    """Base of the errors for a bound of `Limits`: `limit` names the field, `bound` its value, `actual` what came."""

    code = "limit_exceeded"
    limit: ClassVar[str] = ""

    def __init__(self, subject: str, actual: int, bound: int, advice: str) -> None:
        super().__init__(f"{subject}: {actual:,} is over Limits.{self.limit} = {bound:,}. {advice}")
        self.subject = subject
        self.actual = actual
        self.bound = bound


class StreamFull(LimitExceeded):
    """The stream holds as many events as `Limits.stream_events_max` allows."""

    code = "stream_full"
    limit = "stream_events_max"

    def __init__(self, stream: str, event_count: int, bound: int) -> None:
        advice = "Close this aggregate and begin a new one, or raise the limit."
        super().__init__(f"Events in stream {stream!r}", event_count, bound, advice)


class TooManyStreams(LimitExceeded):
    """The store holds as many streams as `Limits.streams_max` allows."""

    code = "too_many_streams"
    limit = "streams_max"


class EventTooLarge(LimitExceeded):
    """One event with its metadata is larger than `Limits.event_size_bytes_max`."""

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


class CommitTooLarge(LimitExceeded):
    """One commit has more events than `Limits.commit_events_max`."""

    code = "commit_too_large"
    limit = "commit_events_max"


class CommitTooManyBytes(LimitExceeded):
    """One commit has more bytes than `Limits.commit_size_bytes_max`."""

    code = "commit_too_many_bytes"
    limit = "commit_size_bytes_max"


class PayloadInvalid(AppendRefused):
    """An event's payload or metadata cannot be encoded as MessagePack."""

    code = "payload_invalid"

    def __init__(self, stream: str, event_type: str, reason: str) -> None:
        super().__init__(f"An event {event_type!r} for stream {stream!r} cannot be encoded: {reason}.")
        self.stream = stream
        self.event_type = event_type


class TooManyTags(LimitExceeded):
    """One event has more tags than `Limits.event_tags_max`."""

    code = "too_many_tags"
    limit = "event_tags_max"


class TagInvalid(AppendRefused):
    """A tag cannot be the key of an index: it is empty, too long, has control characters, given twice, or ours."""

    code = "tag_invalid"

    def __init__(self, stream: str, event_type: str, tag: str, reason: str) -> None:
        super().__init__(f"{tag!r} cannot be a tag of event {event_type!r}: {reason}.")
        self.stream = stream
        self.tag = tag


class ConditionNotMet(AppendRefused):
    """An append was conditional on no event matching a query, and one does. Nothing was stored."""

    code = "condition_not_met"

    def __init__(self, query: str, position: int) -> None:
        super().__init__(
            f"The event at position {position} matches the query ({query}) that the append was conditional on. Look at "
            "what has happened, decide again, and append on the condition that nothing matches after that position."
        )
        self.query = query
        self.position = position


class VerificationImpossible(StoreError):
    """There is no store to verify, or none that this version of eventsrc knows."""

    code = "verification_impossible"
