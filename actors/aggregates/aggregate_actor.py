"""The actor of one aggregate: takes commands from its mailbox one at a time, decides, applies, and goes on.

The actor does not wait for the disk. Its decisions go to the journal turn by turn, and an answer leaves when the commit
with its events is stored. If a commit fails, everything decided after it fails as well, and the state is loaded again.
"""

import logging
from collections.abc import Awaitable, Sequence
from types import CoroutineType
from typing import Any, Final

import trio
from pykka._envelope import Envelope
from pykka.messages import _ActorStop

from ...storage.commit import Appended, expectation_holds
from ...storage.errors import EventSourcingError, VersionConflict
from ..errors import ActorFailed, AggregateUnavailable, ApplierFailed, HandlerFailed, MailboxFull, RuntimeClosed
from ..future import TrioFuture
from ..mailbox import answer_error
from ..trio_actor import TrioActor
from .aggregate import Aggregate
from .aggregate_type import AggregateType
from .decision import Decision, encode_decision
from .host import AggregateHost
from .idempotency import IdempotencyKeys
from .pipeline import Pipeline
from .recovery import recover
from .request import Cause, Hold, Request, Requests, StateQuery, current_cause
from .ring import Question
from .turn import Answers, Reply, Turn

TURN_MESSAGES_MAX: Final = 100
"""How many messages are decided before other tasks get their turn."""

logger = logging.getLogger("eventsrc.aggregate")


class AggregateActor(TrioActor):
    """Started by the runtime. Handles the messages `Request`, `Requests`, `StateQuery` and `Hold`."""

    def __init__(self, host: AggregateHost, aggregate_type: AggregateType, stream: str, aggregate_id: str) -> None:
        self.stream = stream
        super().__init__(mailbox_capacity=host.limits.mailbox_commands_max)
        self.last_used = 0.0
        self.has_personal_data = aggregate_type.has_personal_data
        self._host = host
        self._type = aggregate_type
        self._aggregate_id = aggregate_id
        self._state: Aggregate
        self._version = 0
        self._pipeline = Pipeline(host, aggregate_type, stream, self.on_settled)
        self._broken: EventSourcingError | None = None
        self._unavailable: AggregateUnavailable | None = None
        self._busy = True
        self._rested: trio.Event | None = None
        self.task: trio.lowlevel.Task | None = None
        self.question: Question | None = None

    @property
    def is_idle(self) -> bool:
        """Whether the actor may leave memory: nothing waits, is being decided, or is on its way to the disk."""
        return not (self._busy or self._pipeline.is_busy or self.actor_inbox)

    @property
    def is_in_hand_of_this_task(self) -> bool:
        """Whether the current task runs a handler of this aggregate."""
        return self._busy and self.task is trio.lowlevel.current_task()

    @property
    def keys(self) -> IdempotencyKeys:
        """The idempotency keys of the aggregate's commands."""
        return self._pipeline.keys

    def _create_actor_urn(self) -> str:
        return self.stream

    # --- in the caller's task ---

    def can_decide_now(self, request: Request) -> bool:
        """Whether the command can be decided at once: nothing is ahead of it, and deciding it waits for nothing."""
        return (
            self.is_idle
            and self._broken is None
            and request.unless is None
            and type(request.command) not in self._type.async_commands
            and not self._host.journal.is_full
        )

    @trio.lowlevel.enable_ki_protection
    def decide_now(self, request: Request) -> TrioFuture[Any]:
        """Decide a command in the caller's task, which saves waking the actor's task.

        The actor is idle, so nothing can come in between. If the handler unexpectedly returns a coroutine, the actor's
        task awaits it before any later message.
        """
        future: TrioFuture[Any] = TrioFuture()
        self._busy = True
        try:
            assert self.task is not None, "an idle actor has begun"
            waiting = self.task.context.run(self._handle, request, Reply(future))
        except BaseException as error:
            # Usually the program is about to end. The state may be half applied.
            self._broken = ActorFailed(self.stream, error)
            raise
        finally:
            self._busy = False
        if waiting is None:
            self._submit()
        else:
            self.actor_inbox.put(Envelope(waiting, reply_to=future))
        return future

    # --- the loop ---

    async def _actor_loop_running(self) -> None:  # type: ignore[override]
        self.task = trio.lowlevel.current_task()
        self._host.began(self)
        try:
            if await self._load() is None:
                while not self.actor_stopped.is_set():
                    self._busy = False
                    self.question = None
                    self._tell_rested()
                    envelope = await self.actor_inbox.receive()
                    self._busy = True
                    await self._turn_with(envelope)
        except Exception as error:
            # A bug in eventsrc: this aggregate's callers get the error, and the runtime goes on.
            logger.exception("actor failed", extra={"stream": self.stream})
            failure = ActorFailed(self.stream, error)
            self._pipeline.fail_turn(failure)
            self._refuse_waiting(failure)
        finally:
            self._pipeline.fail_turn(_ended(self.stream))
            self._refuse_waiting(_ended(self.stream))
            self._tell_rested()
            self._host.ended(self)

    async def _turn_with(self, envelope: Envelope[Any]) -> None:
        """Decide the waiting commands, beginning with this one, and hand the outcome to the journal."""
        journal, inbox = self._host.journal, self.actor_inbox
        try:
            if journal.is_full:
                await journal.until_room()
        except BaseException:
            answer_error(envelope, _ended(self.stream))
            raise
        await self._receive_one(envelope)
        for _ in range(TURN_MESSAGES_MAX):
            if inbox.empty() or self.actor_stopped.is_set():
                break
            await self._receive_one(inbox.get())
        self._submit()

    async def _receive_one(self, envelope: Envelope[Any]) -> None:
        try:
            await self._dispatch(envelope)
        except Exception as error:
            answer_error(envelope, ActorFailed(self.stream, error))
            raise

    async def _dispatch(self, envelope: Envelope[Any]) -> None:
        message = envelope.message
        future: Any = envelope.reply_to
        if isinstance(message, Request):
            waiting = self._handle(message, Reply(future))
            if waiting is not None:
                await waiting
        elif isinstance(message, Requests):
            await self._handle_all(message.requests, future)
        elif isinstance(message, CoroutineType):
            await message
        elif isinstance(message, StateQuery):
            await self._answer_state(future)
        elif isinstance(message, Hold):
            await self._stand_still(message, future)
        elif not isinstance(message, _ActorStop):
            await super()._receive_one(envelope)
        else:
            if self.actor_inbox.empty():
                await self._settle_all()
            if self.actor_inbox.empty():
                await super()._receive_one(envelope)
            else:
                # Decide the messages behind the stop first: a stopping actor loses no command.
                self.actor_inbox.put(envelope)

    async def _handle_all(self, requests: Sequence[Request], future: TrioFuture[Any]) -> None:
        """Decide several commands and answer them together."""
        try:
            self.keys.look_up(requests)
        except EventSourcingError as error:
            future.fail(error)
            return
        answers = Answers(future, len(requests))
        for index, request in enumerate(requests):
            waiting = self._handle(request, Reply(answers, index))
            if waiting is not None:
                try:
                    await waiting
                except BaseException:
                    # Cancelled: this command has its answer, and the later ones, which are not begun, get theirs.
                    for later in range(index + 1, len(requests)):
                        answers.put(later, _ended(self.stream))
                    raise
        self.keys.drop_looked_up()

    def _handle(self, request: Request, reply: Reply) -> Awaitable[None] | None:
        """Decide one command and queue its answer. Returns an awaitable if anything is left to await."""
        if self._broken is not None:
            return self._recover_and_handle(self._broken, request, reply)
        if request.withdrawn:
            reply.settle(_ended(self.stream))
            return None
        if request.unless is not None:
            self._submit()
        request.started = True
        try:
            key = None if request.has_fresh_key else request.idempotency_key
            if key is not None and self._pipeline.is_duplicate(key, reply, self._version):
                return None
            result = self.decide(request)
            if isinstance(result, CoroutineType):
                return self._finish(request, reply, result)
            self._conclude(request, reply, result)
        except Exception as error:
            self._answer_error(request, reply, error)
        # Await a conditional commit, so that its refusal fails no other command.
        return None if request.unless is None else self._settle_all()

    async def _finish(self, request: Request, reply: Reply, handling: Awaitable[Any]) -> None:
        """Await an async handler; submit earlier decisions first, so that they are not held up."""
        series = self._pipeline.series
        self._submit()
        try:
            result = await handling
            if series.error is not None:
                raise series.error
            self._conclude(request, reply, result)
            if request.unless is not None:
                await self._settle_all()
        except Exception as error:
            self._answer_error(request, reply, error)
        except BaseException:
            reply.settle(_ended(self.stream))
            raise

    async def _recover_and_handle(self, broken: EventSourcingError, request: Request, reply: Reply) -> None:
        try:
            await self._recover_from(broken)
        except EventSourcingError as error:
            reply.settle(error)
            return
        waiting = self._handle(request, reply)
        if waiting is not None:
            await waiting

    # --- deciding ---

    def decide(self, request: Request) -> Any:
        """Return the handler's result, which may have to be awaited. Raises `VersionConflict`, or as `_type.decide`."""
        expected = request.expected_version
        if expected is not None and not expectation_holds(expected, self._version):
            raise VersionConflict(self.stream, expected, self._version)
        current_cause.set(Cause(request.correlation_id, request.command_id))
        return self._type.decide(self._state, self._version, request.command)

    def _conclude(self, request: Request, reply: Reply, returned: Any) -> None:
        """Encode and apply what the handler returned."""
        try:
            self.take(request, reply, self.encode(request, returned))
        except ApplierFailed as failure:
            # The state may be half applied: submit what was decided before; the state is loaded again later.
            self._broken = failure
            self._submit()
            raise

    def encode(self, request: Request, returned: Any) -> Decision:
        """Check the handler's result and encode it for the log. Raises what `encode_decision` raises."""
        return encode_decision(self._type, self.stream, self._version, request, returned, self._host.limits)

    def take(self, request: Request, reply: Reply, decision: Decision) -> None:
        """Apply the events and add them to the turn. Raises `ApplierFailed`, which leaves the state half applied."""
        turn = self._pipeline.turn_with_room_for(decision, self._state, self._version)
        turn.depend_as(request)
        appliers = self._type.appliers
        for number, event in enumerate(decision.events, self._version + 1):
            try:
                appliers[type(event)](self._state, event)
            except Exception as error:
                raise ApplierFailed(self.stream, number, None, self._type.codecs[type(event)].name, error) from error
        self._version += len(decision.events)
        turn.events += decision.new_events
        turn.size_bytes += decision.size_bytes
        turn.version = reply.version = self._version
        reply.events = decision.events
        turn.replies.append(reply)
        if request.idempotency_key is not None:
            self.keys.remember(turn, request, request.idempotency_key, reply)

    # --- the disk ---

    def _submit(self) -> None:
        self._pipeline.submit(None if self._broken is not None else self._state)

    async def _settle_all(self) -> None:
        """Submit everything decided, and wait until it is stored or refused."""
        self._submit()
        await self._pipeline.until_settled()

    def on_settled(self, outcome: Appended | EventSourcingError) -> None:
        """Take in the journal's outcome for the oldest turn in flight."""
        failed = self._pipeline.settle(outcome)
        if failed is not None and isinstance(outcome, EventSourcingError):
            self._broken = self._broken or outcome
            for future, _ in failed.states:
                self._answer_when_loaded_again(future)

    def _answer_when_loaded_again(self, future: TrioFuture[Any]) -> None:
        try:
            self.actor_inbox.put(Envelope(StateQuery(), reply_to=future))
        except MailboxFull as error:
            future.fail(error)

    def _answer_error(self, request: Request, reply: Reply, error: Exception) -> None:
        if not isinstance(error, EventSourcingError):
            logger.error("handler failed: %s", self.stream, exc_info=error, extra={"stream": self.stream})
            failure = HandlerFailed(self.stream, request.command, error)
            failure.__cause__ = error
            error = failure
        if reply.to is None:
            logger.warning("a command told to %s took no effect: %s", self.stream, error, extra={"stream": self.stream})
        reply.error = error
        self._pipeline.put_in_line(reply, self._version)

    async def _answer_state(self, future: TrioFuture[Any]) -> None:
        """Answer with a copy of the state, once all of that state is stored."""
        try:
            if self._broken is not None:
                await self._recover_from(self._broken)
        except EventSourcingError as error:
            future.fail(error)
            return
        states = self._pipeline.turn_at(self._version).states
        try:
            states.append((future, self._type.copy_state(self._state)))
        except EventSourcingError as error:
            states.append((future, error))

    # --- transactions ---

    async def _stand_still(self, hold: Hold, future: TrioFuture[Any]) -> None:
        """Take part in a transaction: settle everything before it, and begin nothing until it is over."""
        try:
            await self._settle_all()
            if self._broken is not None:
                await self._recover_from(self._broken)
        except EventSourcingError as error:
            future.fail(error)
            return
        except BaseException:
            future.fail(_ended(self.stream))
            raise
        future.settle(self)
        await hold.over.wait()

    def join(self) -> Turn:
        """While standing still: hand the taken events over to the transaction's commit, and return their turn.

        Call `on_settled` with the commit's outcome.
        """
        pipeline = self._pipeline
        turn, pipeline.turn = pipeline.turn, None
        assert turn is not None, f"{self.stream} takes no part in the transaction"
        pipeline.depart(turn, None if self._broken is not None else self._state)
        return turn

    def drop(self, error: EventSourcingError) -> None:
        """While standing still: discard the taken events; the state is loaded again before its next use."""
        self._pipeline.turn = None
        self._broken = error

    def distrust(self, error: EventSourcingError) -> None:
        """Have the state loaded again before its next use; what was decided already stands."""
        self._broken = self._broken or error
        self._pipeline.drop_snapshots()

    async def until_reloaded(self) -> None:
        """Wait until nothing is decided on the distrusted state any more: a handler may be running on it."""
        while self._broken is not None and (self._busy or self.actor_inbox) and not self.actor_stopped.is_set():
            self._rested = self._rested or trio.Event()
            await self._rested.wait()

    def _tell_rested(self) -> None:
        if self._rested is not None:
            self._rested.set()
            self._rested = None

    # --- loading, and loading again ---

    async def _load(self) -> EventSourcingError | None:
        """Load the state from the log. On failure, end the actor, refuse waiting messages, and return the error."""
        # Reset before loading: a `distrust` during the load causes another one.
        self._broken = None
        try:
            host = self._host
            with_snapshots = not (host.is_forgetting and self.has_personal_data)
            recovered = await recover(
                host.store, self._type, self.stream, self._aggregate_id, with_snapshots=with_snapshots
            )
        except EventSourcingError as error:
            self._broken = error
            logger.error("activation failed: %s", error, extra={"stream": self.stream})
            self._host.failed(self.stream, error)
            self._refuse_waiting(error)
            return error
        self._state, self._version = recovered.state, recovered.version
        self._pipeline.loaded(recovered)
        return None

    async def _recover_from(self, error: EventSourcingError) -> None:
        """Drop the state and load it again. If the load or the class's code keeps failing, end the actor and raise."""
        if self._unavailable is not None:
            # The actor has ended: the rest of the message in hand must not be decided on a half-applied state.
            raise self._unavailable
        await self._settle_all()
        if isinstance(error, ApplierFailed):
            rest_seconds = self._host.failed(self.stream, error)
            if rest_seconds > 0:
                self._unavailable = AggregateUnavailable(self.stream, rest_seconds, error)
                self._refuse_waiting(self._unavailable)
                raise self._unavailable from error
        failure = await self._load()
        if failure is not None:
            rest_seconds = self._host.limits.restart_backoff_seconds
            self._unavailable = AggregateUnavailable(self.stream, rest_seconds, failure)
            raise self._unavailable from failure

    def _refuse_waiting(self, error: EventSourcingError) -> None:
        self.actor_stopped.set()
        while not self.actor_inbox.empty():
            answer_error(self.actor_inbox.get(), error)


def _ended(stream: str) -> EventSourcingError:
    return RuntimeClosed(
        f"The actor of {stream!r} was stopped before it had decided the command, which took no effect."
    )
