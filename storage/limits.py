"""Every bound of the system in one frozen object."""

import math
from typing import Final

import attrs
from attrs.validators import ge, gt, instance_of, le

IDEMPOTENCY_WINDOW_SECONDS_MAX: Final = 100 * 365 * 86_400.0
"""A hundred years: when a key expires is stored in nanoseconds, in eight bytes."""


def _count(default: int, *, least: int = 1) -> int:
    return attrs.field(default=default, validator=[instance_of(int), ge(least)])


def _seconds(default: float, *, most: float = math.inf) -> float:
    return attrs.field(default=default, converter=float, validator=[gt(0.0), le(most)])


@attrs.frozen(kw_only=True)
class Limits:
    """The bounds of one runtime. One that refuses something does so with an error of its own, named beside it.

    Raises `ValueError` when a bound is not positive, or an idempotency window longer than a hundred years.
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
    """Sagas whose steps run at once; others that could are begun when one of them ends or waits."""
    saga_threads_max: int = _count(100)
    """Threads for the effects of sagas that are plain functions; one that was cut off has its own until it returns."""
    commits_waiting_max: int = _count(10_000)
    """Commits on their way to the disk; beyond it actors wait before they decide more."""
    snapshot_every_events: int = _count(100)
    """An aggregate's state is stored each time it has so many more events."""
    snapshots_kept: int = _count(10)
    """Snapshots of one stream; older ones are dropped."""
    proof_events_per_second: int = _count(1_000)
    """How fast events are replayed in the background, at most, to prove snapshots."""
    projections_max: int = _count(64)
    """Projections of one runtime (`TooManyProjections`)."""
    retention_days: int = _count(30)
    """How long a closed or deleted stream stays as it is before it may be compacted."""
    command_timeout_seconds: float = _seconds(5.0)
    """How long `ask` waits for its answer (`CommandTimeout`)."""
    replay_speed_max: float = _seconds(100.0)
    """Times the original pace, at most (`ReplaySpeedInvalid`)."""
    compaction_events_min: int = _count(1_000)
    """Streams shorter than this are not compacted (`CompactionTooSmall`)."""
    idempotency_window_seconds: float = _seconds(300.0, most=IDEMPOTENCY_WINDOW_SECONDS_MAX)
    """How long an idempotency key is remembered, unless the command's type says otherwise."""
    idempotency_key_bytes_max: int = _count(512)
    """One idempotency key (`IdempotencyKeyInvalid`)."""
    catch_up_batch_events: int = _count(100)
    """Events that a projection takes at a time; up to five times as many where they wait and are handled quickly."""
    mailbox_commands_max: int = _count(1_000)
    """Commands that wait in one actor's mailbox (`MailboxFull`)."""
    resident_actors_max: int = _count(10_000)
    """Aggregates kept in memory; beyond it the least recently used idle one is passivated."""
    passivate_after_seconds: float = _seconds(60.0)
    """An aggregate that got no message for so long leaves memory."""
    restart_backoff_seconds: float = _seconds(0.1)
    """The wait before an actor that failed is activated again; doubled each time."""
    restart_backoff_seconds_max: float = _seconds(30.0)
    """The longest such wait."""
    shutdown_seconds: float = _seconds(30.0)
    """How long closing waits for mailboxes to drain (`ShutdownTimeout`)."""

    def restart_backoff(self, failures: int) -> float:
        """Seconds to wait before something is tried again that has failed so often before."""
        return min(self.restart_backoff_seconds * 2.0 ** min(failures, 32), self.restart_backoff_seconds_max)
