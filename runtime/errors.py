"""The errors of the runtime itself."""

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from ..actors.aggregates.receipt import Receipt
from ..storage.errors import EventSourcingError, LimitExceeded


class UnknownAggregate(EventSourcingError):
    """The runtime was not opened with this aggregate class."""

    code: ClassVar[str] = "unknown_aggregate"

    def __init__(self, aggregate: object, known: Sequence[str]) -> None:
        name = getattr(aggregate, "__name__", repr(aggregate))
        super().__init__(
            f"The runtime was not opened with {name}. Add it to Runtime.open(..., aggregates=[...]); it knows "
            f"{', '.join(known) or 'none'}."
        )
        self.aggregate = aggregate
        self.known = known


class ArgumentInvalid(EventSourcingError, ValueError, TypeError):
    """An argument has a value or a type that cannot be used; nothing was sent and nothing was done."""

    code: ClassVar[str] = "argument_invalid"

    def __init__(self, argument: str, value: object, advice: str) -> None:
        super().__init__(f"{argument}={value!r:.100} cannot be used: {advice}.")
        self.argument = argument
        self.value = value


class HandlerIsAsync(EventSourcingError):
    """`Scenario.when` cannot run an async handler to its end in a test that is async itself."""

    code: ClassVar[str] = "handler_is_async"

    def __init__(self) -> None:
        super().__init__("The handler is async, and so is the test: write `await scenario(...).when_async(command)`.")


class NotInTrio(EventSourcingError):
    """A runtime was opened outside of trio without a portal (for example on asyncio). Nothing was opened."""

    code: ClassVar[str] = "not_in_trio"

    def __init__(self) -> None:
        super().__init__(
            "A runtime lives on trio: open it in what trio.run() runs, or have a thread of its own run it: `async with "
            "AsyncioPortal(Runtime.open(...)) as portal` on asyncio, `with BlockingPortal(...)` in synchronous code."
        )


class WrongThread(EventSourcingError):
    """A method of the trio thread was called on another thread, or a method for other threads on the trio thread."""

    code: ClassVar[str] = "wrong_thread"

    def __init__(
        self, method: str, *, is_for_others: bool = False, instead: str = "portal.call(ref.ask, command)"
    ) -> None:
        super().__init__(
            f"{method} was called on the trio thread that the runtime lives on, and would block it. Await {instead}."
            if is_for_others
            else f"{method} was called outside of the trio thread that the runtime lives on. In a program that does "
            f"not run on trio, write {instead}; in a worker thread of trio use trio.from_thread, or for commands "
            "ask_from_thread() and tell()."
        )
        self.method = method


class ShutdownTimeout(EventSourcingError):
    """Closing waited `Limits.shutdown_seconds` for the mailboxes to drain and dropped the commands that were left.

    Every answered command is on disk. `streams` names the aggregates that were still at work.
    """

    code: ClassVar[str] = "shutdown_timeout"

    def __init__(self, seconds: float, streams: Sequence[str]) -> None:
        shown = ", ".join(streams[:5])
        super().__init__(
            f"After {seconds:g} seconds {len(streams)} aggregates were still at work ({shown}); their waiting commands "
            "were not begun and take no effect: send them again. Everything that was answered is on disk. "
            "Limits(shutdown_seconds=...) gives more time."
        )
        self.streams = tuple(streams)
        self.seconds = seconds


class UnknownProjection(EventSourcingError):
    """The runtime was opened without this projection."""

    code: ClassVar[str] = "unknown_projection"

    def __init__(self, projection: type | str, known: Sequence[str]) -> None:
        name = projection if isinstance(projection, str) else projection.__name__
        super().__init__(
            f"The runtime was not opened with {name}; it has {', '.join(known) or 'none'}. "
            "Give it to Runtime.open(projections=[...]), and for the past to as_of(projections=[...])."
        )
        self.projection = projection
        self.known = known


class NotInHistory(EventSourcingError):
    """The log does not reach this version, position or time, or the moment is before its first event."""

    code: ClassVar[str] = "not_in_history"


class UnknownStream(EventSourcingError):
    """A store has no stream of this name."""

    code: ClassVar[str] = "unknown_stream"

    def __init__(self, path: str, stream: str, near: Sequence[str]) -> None:
        advice = f"Near it: {', '.join(near)}" if near else f"`eventsrc streams {path}` lists what there is"
        super().__init__(f"There is no stream {stream!r} in {path}. {advice}.")
        self.path = path
        self.stream = stream
        self.near = tuple(near)


class UnknownEventType(EventSourcingError):
    """The store has no event of this stored type, and no known event class has that name."""

    code: ClassVar[str] = "unknown_event_type"

    def __init__(self, path: str, event_type: str, near: Sequence[str], known: Sequence[str]) -> None:
        names = f"Near it: {', '.join(near)}" if near else f"It has {', '.join(known) or 'none'}"
        super().__init__(f"There is no event of the type {event_type!r} in {path}. {names}.")
        self.path = path
        self.event_type = event_type
        self.near = tuple(near)
        self.known = known


class TransactionTooLarge(LimitExceeded):
    """A transaction names more aggregates than `Limits.transaction_aggregates_max`."""

    code: ClassVar[str] = "transaction_too_large"
    limit = "transaction_aggregates_max"


class TransactionTimeout(EventSourcingError):
    """A transaction did not end in time. `may_take_effect` tells whether its commit is on its way to the disk."""

    code: ClassVar[str] = "transaction_timeout"

    def __init__(self, streams: Sequence[str], timeout_seconds: float, *, may_take_effect: bool) -> None:
        outcome = (
            "Its commit is on its way and may still be stored: send it again with the same idempotency key to learn."
            if may_take_effect
            else "It took no effect: send it again, or look for a handler that waits for one of these aggregates."
        )
        super().__init__(f"The transaction over {', '.join(streams)} took over {timeout_seconds:g} seconds. {outcome}")
        self.streams = list(streams)
        self.timeout_seconds = timeout_seconds
        self.may_take_effect = may_take_effect


class TransactionKeyReused(EventSourcingError):
    """Only some of a transaction's aggregates know its idempotency key: another transaction used the key."""

    code: ClassVar[str] = "transaction_key_reused"

    def __init__(self, key: str, stream: str) -> None:
        super().__init__(
            f"The idempotency key {key!r} was used by another transaction, which did not change {stream!r}. "
            "Nothing was done: give each transaction a key of its own."
        )
        self.key = key
        self.stream = stream


class TooManyProjections(LimitExceeded):
    """A runtime was given more projections than `Limits.projections_max`."""

    code: ClassVar[str] = "too_many_projections"
    limit = "projections_max"


class ViewTooOld(EventSourcingError):
    """A view did not reach the requested position in time; it may do so later."""

    code: ClassVar[str] = "view_too_old"

    def __init__(
        self, name: str, position: int, wanted_position: int, seconds: float, state: str, reason: str = ""
    ) -> None:
        because = f" Its projection is {state}{f' ({reason})' if reason else ''}." if state != "live" or reason else ""
        super().__init__(
            f"The view {name!r} has seen position {position}, not {wanted_position}, after {seconds:g} seconds."
            f"{because} What was written is on disk; ask again later, with a longer timeout, or with "
            'on_timeout="stale".'
        )
        self.name = name
        self.position = position
        self.wanted_position = wanted_position
        self.state = state
        """The state of the view's projection: "catching_up", "live", "retrying", ..."""
        self.reason = reason
        """The error that holds the projection back; empty when there is none."""
        self.receipt: Receipt | None = None
        """The receipt of the command that waited, whose events are on disk; None for a query."""
        self.seconds = seconds


class ViewStillRemembers(EventSourcingError):
    """A subject was forgotten, but a view that may show it was not rebuilt in time; the rebuild goes on."""

    code: ClassVar[str] = "view_still_remembers"

    def __init__(self, name: str, subject: str, seconds: float, state: str, reason: str = "") -> None:
        because = f" Its projection is {state} ({reason})." if reason else ""
        super().__init__(
            f"{subject!r} is forgotten, but the view {name!r} may still show it after {seconds:g} seconds: it is being "
            f"built anew.{because} runtime.projections.lag tells when that is done; for longer waits give a timeout."
        )
        self.name = name
        self.subject = subject
        self.state = state
        """The state of the view's projection: "catching_up", "retrying", ..."""
        self.reason = reason
        """The error of the view's projection; empty when there is none."""
        self.seconds = seconds


class RuntimeReadOnly(EventSourcingError):
    """A runtime with role="reader" was sent a command, or asked for something that only a writer has."""

    code: ClassVar[str] = "runtime_read_only"

    def __init__(self, path: str, what: str = "it takes no commands. Send them to the process that writes it.") -> None:
        super().__init__(f'This runtime reads the store {path!r} (role="reader"), so {what}')
        self.path = path


class PastReadOnly(RuntimeReadOnly):
    """A runtime of `as_of` was asked to change something: the past cannot be changed."""

    code: ClassVar[str] = "past_read_only"

    def __init__(self, path: str) -> None:
        EventSourcingError.__init__(
            self,
            f"This runtime shows {path}: what is over takes no commands, sagas, subscriptions or maintenance. Use "
            "the runtime that as_of was called on; for what-if commands make a store of its own: runtime.fork(...).",
        )
        self.path = path


class ReadersFull(EventSourcingError):
    """The maximum number of reader processes already keep views beside the store."""

    code: ClassVar[str] = "readers_full"

    def __init__(self, path: str, bound: int) -> None:
        super().__init__(
            f"{bound} processes keep views beside the store {path!r} already, which is the most. Give this one a "
            "folder of its own: Runtime.open(..., views=...)."
        )
        self.path = path
        self.bound = bound


class SubscriptionDeleted(EventSourcingError):
    """The subscription was deleted while a consumer was at work; its unacknowledged events are not handed out again."""

    code: ClassVar[str] = "subscription_deleted"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"The subscription {name!r} was deleted. Consume it again to begin a new one under the same name."
        )
        self.name = name


class ConsumerLeft(EventSourcingError):
    """The block that a consumer belongs to is over; what it would be handed now, nobody would give back."""

    code: ClassVar[str] = "consumer_left"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"This consumer of {name!r} has left. Take its messages within its block: async with runtime.consume(...)."
        )
        self.name = name


class UnknownSubscription(EventSourcingError):
    """No consumer has ever used a subscription of this name, or the subscription was deleted."""

    code: ClassVar[str] = "unknown_subscription"

    def __init__(self, name: str, known: list[str]) -> None:
        names = ", ".join(sorted(known)) or "none"
        super().__init__(f"There is no subscription {name!r}. Those that there are: {names}.")
        self.name = name
        self.known = known


class SignalKnown(EventSourcingError):
    """The saga already has this signal; the first one counts."""

    code: ClassVar[str] = "signal_known"

    def __init__(self, saga_id: str, signal: str) -> None:
        super().__init__(f"The saga {saga_id!r} has the signal {signal!r} already; the first one counts.")
        self.saga_id = saga_id
        self.signal = signal


class SubscriptionFull(EventSourcingError):
    """The subscription stops, because the maximum number of its events are parked."""

    code: ClassVar[str] = "subscription_full"

    def __init__(self, name: str, bound: int) -> None:
        super().__init__(
            f"{bound} events of the subscription {name!r} are parked, which is the most. Repair the handler and retry "
            f"them with `eventsrc subscriptions PATH retry {name}`, or delete the subscription."
        )
        self.name = name
        self.bound = bound


class SubscriptionNameInvalid(EventSourcingError):
    """The name of a subscription cannot be stored."""

    code: ClassVar[str] = "subscription_name_invalid"

    def __init__(self, name: object) -> None:
        super().__init__(
            f"{name!r} cannot be the name of a subscription: use 1 to 100 letters, digits, dots, dashes and "
            "underscores."
        )
        self.name = name


class SubscriptionFilterDiffers(EventSourcingError):
    """Consumers of one subscription share its events, so all of them must have the same filter."""

    code: ClassVar[str] = "subscription_filter_differs"

    def __init__(self, name: str, wanted: str, other: str) -> None:
        super().__init__(
            f"The subscription {name!r} is consumed here with another filter ({wanted or 'any event'}) than this "
            f"consumer's ({other or 'any event'}). Consume it with the same one, or under another name."
        )
        self.name = name
        self.wanted = wanted
        self.other = other


class SubscriptionDiverged(EventSourcingError):
    """The log lacks the event that a subscription has reached: the log holds another history than the one consumed."""

    code: ClassVar[str] = "subscription_diverged"

    def __init__(self, name: str, position: int) -> None:
        super().__init__(
            f"The subscription {name!r} has come to position {position} of another history: the log does not have the "
            "event that was there (a restored backup that was written to since?). Nothing was handed out, as events "
            "could be lost or come again. Delete the subscription, and consume it again with after= the last position "
            "that both histories share."
        )
        self.name = name
        self.position = position


class NoPlaceForProgress(EventSourcingError):
    """A reader without a folder of its own has no place to keep the progress of a subscription.

    The numbered folders beside the store pass to whichever reader comes next, and progress would pass with them.
    """

    code: ClassVar[str] = "no_place_for_progress"

    def __init__(self, path: str) -> None:
        super().__init__(
            f"This reader of {path!r} has no folder of its own, so it cannot keep how far a subscription has come. "
            'Open it with Runtime.open(..., role="reader", views="some folder"). Consumers of one name share events '
            "within one runtime; another process has subscriptions, and progress, of its own."
        )
        self.path = path


class PlaceUnusable(EventSourcingError):
    """The benchmark cannot write to the folder in which it is to measure."""

    code: ClassVar[str] = "place_unusable"

    def __init__(self, path: Path, cause: Exception) -> None:
        super().__init__(
            f"The benchmark cannot write to {path} ({cause}). Name a folder on the disk to measure with --path, with "
            "room for some gigabytes."
        )
        self.path = path


class UnknownSubject(EventSourcingError):
    """No stored data is about this subject: it was forgotten before, or never known."""

    code: ClassVar[str] = "unknown_subject"

    def __init__(self, subject: str, path: str) -> None:
        super().__init__(
            f"Nothing is sealed with a key of the subject {subject!r} in {path}: it was forgotten before, or nothing "
            "personal was ever stored of it. Look at the id: it is the one that the personal fields name; and at the "
            "file: it is the one that belongs to the store."
        )
        self.subject = subject
        self.path = path


class SagaHoldsSubject(EventSourcingError):
    """A step of a saga asked to forget a subject whose data the saga holds; nothing was forgotten."""

    code: ClassVar[str] = "saga_holds_subject"

    def __init__(self, subject: str, saga: str) -> None:
        super().__init__(
            f"A step of the saga {saga!r} forgets {subject!r}, and would wait until no step holds anything of it, "
            "itself included. Let the saga hold the id alone, or forget the subject once the saga has ended."
        )
        self.subject = subject
        self.saga = saga


class SubjectInSagas(EventSourcingError):
    """Unfinished sagas hold data of the subject; nothing was forgotten."""

    code: ClassVar[str] = "subject_in_sagas"

    def __init__(self, subject: str, sagas: Sequence[str]) -> None:
        super().__init__(
            f"{subject!r} cannot be forgotten as long as sagas hold something of it that have not ended: "
            f"{', '.join(sagas[:5])}{', ...' if len(sagas) > 5 else ''}. Wait for them, or have them go on "
            "without: forget(..., even_in_sagas=True)."
        )
        self.subject = subject
        self.sagas = sagas
