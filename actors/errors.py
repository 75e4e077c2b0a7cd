"""The errors of the actors and of the vocabulary that a domain author writes with."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from ..storage.errors import EventSourcingError, LimitExceeded, StoreError, described
from .error_text import described_with_advice

if TYPE_CHECKING:
    from ..storage.record import StoredEvent
    from .future import TrioFuture


class Rejected(EventSourcingError):
    """A handler refused the command. The message is the domain's own; nothing was stored."""

    code: ClassVar[str] = "rejected"


class UnknownCommand(EventSourcingError):
    """The aggregate has no handler for commands of this class."""

    code: ClassVar[str] = "unknown_command"

    def __init__(self, aggregate: type, command: object, *, is_command: bool = True) -> None:
        name = type(command).__name__
        super().__init__(
            f"{aggregate.__name__} was sent the class {command.__name__} itself. Send an object of it: "
            f"{command.__name__}(...)."
            if isinstance(command, type)
            else f"{aggregate.__name__} was sent {command!r:.100}, which is no command: {name} has no @command over "
            f"it. Send an object of a @command class that a method of {aggregate.__name__} with @handles takes."
            if not is_command
            else f"{aggregate.__name__} has no handler for {name}. Add a method with @handles whose parameter is "
            f"annotated with {name}, or send the command to the aggregate that has one."
        )
        self.aggregate = aggregate
        self.command = command


class HandlerFailed(EventSourcingError):
    """A handler raised an exception other than `Rejected`. The command took no effect; the aggregate goes on."""

    code: ClassVar[str] = "handler_failed"

    def __init__(self, stream: str, command: object, error: Exception) -> None:
        super().__init__(
            f"The handler for {type(command).__name__} of {stream!r} raised {described_with_advice(error)}. The "
            "command took no effect. Raise Rejected for what the domain does not allow; mend the handler for anything "
            "else."
        )
        self.stream = stream
        self.command = command


class StateReadOnly(EventSourcingError):
    """A handler set a field of its aggregate. The command took no effect."""

    code: ClassVar[str] = "state_read_only"

    def __init__(self, aggregate: type, field: str) -> None:
        super().__init__(
            f"A handler of {aggregate.__name__} set self.{field}. A handler only decides: return an event, and set the "
            "field in the method with @applies for it, which is called again whenever the state is made from the log."
        )
        self.aggregate = aggregate
        self.field = field


class NotAnEvent(EventSourcingError):
    """A handler returned something that is not an event this aggregate knows. The command took no effect."""

    code: ClassVar[str] = "not_an_event"

    def __init__(self, stream: str, command: object, returned: object, among: object = None) -> None:
        culprit = "" if among is None else f", and nothing applies {among!r:.100}"
        super().__init__(
            f"The handler for {type(command).__name__} of {stream!r} returned {returned!r:.200}{culprit}. Return an "
            "object of an @event class that the aggregate has an @applies method for, a sequence of them, or None."
        )
        self.stream = stream
        self.command = command
        self.returned = returned


class ApplierFailed(EventSourcingError):
    """A method with @applies raised. The aggregate drops its state and loads it again from the log.

    `position` is the position of the stored event, or None for a new event, which is then not stored.
    """

    code: ClassVar[str] = "applier_failed"

    def __init__(self, stream: str, version: int, position: int | None, event_type: str, error: Exception) -> None:
        where = "which is not stored" if position is None else f"at position {position}"
        super().__init__(
            f"Applying event {event_type!r} of {stream!r} (version {version}, {where}) raised {described(error)}. "
            "An applier must accept every event that was stored: mend it and send the command again."
        )
        self.stream = stream
        self.version = version
        self.position = position
        self.event_type = event_type


class SnapshotQuarantined(EventSourcingError):
    """A snapshot of an aggregate differs from the state that its events give: the actor loads the state without it."""

    code: ClassVar[str] = "snapshot_quarantined"

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"A snapshot of {stream!r} is not what its events give, so its state is loaded again without it. Commands "
            "that were decided before stand: compare what they did with the events (eventsrc blame)."
        )
        self.stream = stream


class UnknownEvent(EventSourcingError):
    """The log holds an event that the aggregate's class (or, with `aggregate` None, any class here) does not know."""

    code: ClassVar[str] = "unknown_event"

    def __init__(self, aggregate: type | None, stream: str, event_type: str, position: int) -> None:
        advice = (
            "no class of this runtime has as its own. Open it with an aggregate or a projection that names it."
            if aggregate is None
            else f"{aggregate.__name__} does not apply. Give the class an @applies method for it; events that were "
            "stored stay part of the history."
        )
        super().__init__(f"Stream {stream!r} holds an event {event_type!r} (position {position}) that {advice}")
        self.aggregate = aggregate
        self.stream = stream
        self.event_type = event_type
        self.position = position


class AggregateDeleted(EventSourcingError):
    """The aggregate was deleted, so it takes no commands and has no state."""

    code: ClassVar[str] = "aggregate_deleted"

    def __init__(self, stream: str) -> None:
        super().__init__(
            f"{stream!r} was deleted. Its history is still there (state(at_version=...)); to use the id again, send it "
            "the command Recreate."
        )
        self.stream = stream


class AggregateUnavailable(EventSourcingError):
    """The aggregate's actor failed and is not activated again until a back-off is over; the cause is the failure."""

    code: ClassVar[str] = "aggregate_unavailable"

    def __init__(self, stream: str, retry_after_seconds: float, cause: BaseException) -> None:
        super().__init__(
            f"The actor of {stream!r} failed and is not activated again for {retry_after_seconds:.2f} seconds: ask "
            f"again then. What failed: {cause}"
        )
        self.stream = stream
        self.retry_after_seconds = retry_after_seconds


class ActorFailed(EventSourcingError):
    """An unexpected fault ended an actor. The next command for its aggregate starts a new actor."""

    code: ClassVar[str] = "actor_failed"

    def __init__(self, stream: str, error: BaseException) -> None:
        super().__init__(
            f"The actor of {stream!r} failed with {described(error)}. Whether this command took effect "
            "shows in the log: ask again with the same idempotency key. This is a fault of eventsrc; please report "
            "it."
        )
        self.stream = stream


class RuntimeClosed(EventSourcingError):
    """The runtime is closed or closing and takes no more commands. The command took no effect."""

    code: ClassVar[str] = "runtime_closed"


class AggregateWaitsForItself(EventSourcingError):
    """A handler asks its own aggregate, or one whose handler waits for it, which nobody would ever answer.

    Nothing was sent. `ring` has the streams, each of which waits for the next one, and the last one for the first.
    """

    code: ClassVar[str] = "aggregate_waits_for_itself"

    def __init__(self, ring: Sequence[str]) -> None:
        asked, asking = ring[0], ring[-1]
        if asked == asking:
            message = (
                f"A handler of {asked!r} waits for an answer of {asked!r}, which is busy with that handler until it "
                "returns. Use self for the state, return the events of both commands, or tell() the second one."
            )
        else:
            message = (
                f"A handler of {asking!r} would wait for an answer of {asked!r}, whose handler waits for "
                f"{', whose handler waits for '.join(map(repr, ring[1:]))}. Have one of them tell() its command, or "
                "let a saga send both."
            )
        super().__init__(message)
        self.stream = asking
        self.ring = tuple(ring)


class CommandTimeout(EventSourcingError):
    """No answer came in time. `may_take_effect` tells whether the command was begun and may still be stored."""

    code: ClassVar[str] = "command_timeout"

    def __init__(self, stream: str, command: object, timeout_seconds: float, may_take_effect: bool) -> None:
        outcome = (
            "Its actor is busy: ask again, or with a longer timeout."
            if command is None
            else "It had been begun and may still take effect: send it again with the same idempotency key to learn."
            if may_take_effect
            else "It had not been begun and will not take effect: send it again, or with a longer timeout."
        )
        subject = "The question for the state of" if command is None else f"{type(command).__name__} to"
        super().__init__(f"{subject} {stream!r} got no answer in {timeout_seconds:g} seconds. {outcome}")
        self.stream = stream
        self.command = command
        self.timeout_seconds = timeout_seconds
        self.may_take_effect = may_take_effect


class IdempotencyKeyInvalid(LimitExceeded):
    """An idempotency key is empty or longer than `Limits.idempotency_key_bytes_max`."""

    code: ClassVar[str] = "idempotency_key_invalid"
    limit = "idempotency_key_bytes_max"


class ResidencyFull(LimitExceeded):
    """Every aggregate in memory is busy and there is no room for another."""

    code: ClassVar[str] = "residency_full"
    limit = "resident_actors_max"


class JournalFailed(StoreError):
    """The journal met an unexpected fault while writing; whether the commit is stored is not known."""

    code: ClassVar[str] = "journal_failed"

    def __init__(self, path: str, error: Exception) -> None:
        super().__init__(
            path,
            f"Writing to {path} failed with {described(error)}. Whether the commit is stored is not "
            "known: ask again with the same idempotency key. This is a fault of eventsrc; please report it.",
        )


class DefinitionError(EventSourcingError, TypeError):
    """A command, event or aggregate class is not well formed; raised where it is defined."""

    code: ClassVar[str] = "definition_error"


class SchemaError(EventSourcingError):
    """A class has a field that cannot be turned into data; raised when a runtime is opened with the class."""

    code: ClassVar[str] = "schema_error"


class EncodingError(EventSourcingError):
    """An object cannot be turned into data."""

    code: ClassVar[str] = "encoding_error"


class DecodingError(EventSourcingError):
    """Stored data cannot be turned into an object of its class."""

    code: ClassVar[str] = "decoding_error"


class EventVersionUnknown(DecodingError):
    """An event was stored with a schema version that its class does not know: newer code wrote it."""

    code: ClassVar[str] = "event_version_unknown"

    def __init__(self, stored: "StoredEvent", event_class: type, known_version: int) -> None:
        super().__init__(
            f"The event {stored.type!r} of {stored.stream!r} at position {stored.position} was stored with version "
            f"{stored.schema_version} of its schema, and {event_class.__name__} here is version {known_version}. Run "
            "the program whose class has that version: newer code reads what older code stored, not the reverse."
        )
        self.stored = stored
        self.event_class = event_class
        self.known_version = known_version


class UpcasterFailed(DecodingError):
    """An upcaster could not turn a stored payload into a payload of the next version."""

    code: ClassVar[str] = "upcaster_failed"

    def __init__(self, stored: "StoredEvent", event_class: type, from_version: int, reason: str) -> None:
        super().__init__(
            f"The upcaster of {event_class.__name__} from version {from_version} to {from_version + 1} {reason} for "
            f"the event {stored.type!r} of {stored.stream!r} at position {stored.position}. Mend it: of each payload "
            "that was stored with that version it makes one of the next, a dict of plain data as it would be stored (a "
            "time is a text)."
        )
        self.stored = stored
        self.event_class = event_class
        self.from_version = from_version
        self.reason = reason


class WouldDeadlock(EventSourcingError):
    """`get()` was called on a thread that runs trio, for an answer that is not there yet.

    `future` is the unsettled future. It is None once this error has itself become the answer of a future.
    """

    code: ClassVar[str] = "would_deadlock"

    def __init__(self, future: "TrioFuture[Any] | None") -> None:
        super().__init__(
            "get() would block the thread that runs trio, and with it the actor that has to answer. Write `await "
            "future` (`await ref.ask(message, block=False)`), or call get() in a worker thread. If this was an ask, "
            "its message has been sent."
        )
        self.future = future


class MailboxFull(EventSourcingError):
    """The mailbox cannot take the message: it holds `capacity` messages already."""

    code: ClassVar[str] = "mailbox_full"

    def __init__(self, capacity: int) -> None:
        super().__init__(
            f"The mailbox is full: {capacity} messages are waiting and this one was not taken. Await answers before "
            "sending more, send it again later, or give the actor a larger mailbox (an aggregate's is "
            "Limits.mailbox_commands_max)."
        )
        self.capacity = capacity
