"""All bounds of the system in one frozen object."""

import math
from typing import Final

import attrs

from .errors import LimitInvalid

IDEMPOTENCY_WINDOW_SECONDS_MAX: Final = 100 * 365 * 86_400.0
"""A hundred years: the expiry of a key is stored in nanoseconds in eight bytes."""


def _as_float(value: float) -> float:
    """A number as a float; anything else is left to the validator."""
    try:
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
    except OverflowError:
        return value


def _count(default: int) -> int:
    def check(limits: "Limits", field: "attrs.Attribute[int]", value: object) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise LimitInvalid(f"Limits.{field.name}", value, "give a whole number, 1 or more")

    return attrs.field(default=default, validator=check)


def _seconds(default: float, *, most: float = math.inf) -> float:
    def check(limits: "Limits", field: "attrs.Attribute[float]", value: object) -> None:
        if not isinstance(value, float) or not 0 < value <= most:
            bound = "" if most == math.inf else f", {most:g} at most"
            raise LimitInvalid(f"Limits.{field.name}", value, f"give a positive number{bound}")

    return attrs.field(default=default, converter=_as_float, validator=check)


@attrs.frozen(kw_only=True)
class Limits:
    """The bounds of one runtime. Exceeding a bound raises the error that is named with the bound, if any.

    Raises `LimitInvalid`, which is a `ValueError` and a `TypeError`, if a bound is no number, is not positive, or is no
    whole number where it counts, or if the idempotency window is longer than a hundred years.
    """

    stream_events_max: int = _count(100_000)
    """Events in one stream (`StreamFull`)."""
    event_size_bytes_max: int = _count(64 * 1024)
    """One encoded event with its metadata (`EventTooLarge`)."""
    event_tags_max: int = _count(16)
    """Tags of one event (`TooManyTags`)."""
    streams_max: int = _count(10_000)
    """Streams in the store (`TooManyStreams`)."""
    commit_events_max: int = _count(1_000)
    """Events in one commit (`CommitTooLarge`)."""
    commit_size_bytes_max: int = _count(1024 * 1024)
    """Bytes of events in one commit (`CommitTooManyBytes`)."""
    transaction_aggregates_max: int = _count(100)
    """Aggregates that one transaction changes (`TransactionTooLarge`)."""
    sagas_running_max: int = _count(1_000)
    """Sagas whose steps run at the same time; other sagas start when one of these ends or waits."""
    saga_threads_max: int = _count(100)
    """Threads for the effects of sagas that are plain functions; a function that was cut off keeps its thread."""
    commits_waiting_max: int = _count(10_000)
    """Commits that wait for the disk; beyond this, actors wait before they decide more."""
    snapshot_every_events: int = _count(100)
    """The number of new events after which a snapshot of an aggregate is stored."""
    snapshots_kept: int = _count(10)
    """Snapshots of one stream; older snapshots are dropped."""
    proof_events_per_second: int = _count(1_000)
    """The most events per second that are replayed in the background to prove snapshots."""
    projections_max: int = _count(64)
    """Projections of one runtime (`TooManyProjections`)."""
    retention_days: int = _count(30)
    """The age of a stream's final `deleted` event, in days, from which on even a short stream may be compacted."""
    command_timeout_seconds: float = _seconds(5.0)
    """How long `ask` waits for its answer (`CommandTimeout`)."""
    replay_speed_max: float = _seconds(100.0)
    """The highest speed of a replay, as a multiple of the original pace (`ReplaySpeedInvalid`)."""
    compaction_events_min: int = _count(1_000)
    """A stream may be compacted if it has more events than this in the log, or `retention_days` after it was deleted.

    Otherwise compaction is refused (`CompactionTooSmall`).
    """
    idempotency_window_seconds: float = _seconds(300.0, most=IDEMPOTENCY_WINDOW_SECONDS_MAX)
    """How long an idempotency key is remembered, unless the type of the command sets another window."""
    idempotency_key_bytes_max: int = _count(512)
    """The size of one idempotency key in bytes (`IdempotencyKeyInvalid`)."""
    catch_up_batch_events: int = _count(100)
    """Events that a projection handles at a time; up to five times as many if its handlers are fast."""
    mailbox_commands_max: int = _count(1_000)
    """Commands that wait in one actor's mailbox (`MailboxFull`)."""
    resident_actors_max: int = _count(10_000)
    """Aggregates in memory; beyond this, the least recently used idle aggregate is passivated."""
    passivate_after_seconds: float = _seconds(60.0)
    """An aggregate that has received no message for this time is removed from memory."""
    restart_backoff_seconds: float = _seconds(0.1)
    """The wait before a failed actor is activated again; doubled with each failure."""
    restart_backoff_seconds_max: float = _seconds(30.0)
    """The longest wait before a failed actor is activated again."""
    shutdown_seconds: float = _seconds(30.0)
    """How long closing waits for mailboxes to drain (`ShutdownTimeout`)."""

    def restart_backoff(self, failures: int) -> float:
        """The seconds to wait before the next attempt, after `failures` earlier failures."""
        return min(self.restart_backoff_seconds * 2.0 ** min(failures, 32), self.restart_backoff_seconds_max)


def checked_limits(limits: Limits | None) -> Limits:
    """The given limits, or the default ones for None. Raises `LimitInvalid` for anything else."""
    if not isinstance(limits, Limits | None):
        raise LimitInvalid("limits", limits, "give Limits(...)")
    return Limits() if limits is None else limits
