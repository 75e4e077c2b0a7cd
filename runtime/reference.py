"""A reference to an aggregate: what a program sends commands to, whether or not the actor is in memory."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Final, Generic, TypeVar, cast

import trio

from ..actors.aggregates.aggregate import Aggregate
from ..actors.aggregates.aggregate_type import AggregateType
from ..actors.aggregates.receipt import Receipt
from ..actors.aggregates.request import Request, Requests, StateQuery
from ..actors.aggregates.tombstone import Delete
from ..actors.errors import CommandTimeout, MailboxFull
from ..actors.future import TrioFuture
from ..actors.projections.projection import Projection
from ..storage.commit import ExpectedVersion
from ..storage.errors import EventSourcingError
from ..storage.event_query import EventQuery
from .arguments import checked_timeout
from .deadlines import withdraw
from .errors import ArgumentInvalid
from .projections.view import wait_for_views
from .router import Router
from .trio_thread import check_on_trio

COMMANDS_PER_MESSAGE: Final = 100
"""`ask_many` sends so many commands to the actor at a time."""
MESSAGES_AHEAD: Final = 4
"""And so many such messages before the first of them is answered."""

A = TypeVar("A", bound=Aggregate)


class AggregateRef(Generic[A]):
    """Refers to one aggregate of one runtime. Cheap, and valid for as long as the runtime is open."""

    __slots__ = ("_aggregate_type", "_router", "aggregate_id", "stream")

    def __init__(self, router: Router, aggregate_type: AggregateType, aggregate_id: str) -> None:
        self._router = router
        self._aggregate_type = aggregate_type
        self.aggregate_id = aggregate_id
        self.stream = aggregate_type.stream(aggregate_id)

    def __repr__(self) -> str:
        return f"<AggregateRef {self.stream}>"

    async def ask(
        self,
        command: object,
        *,
        expected_version: ExpectedVersion | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        unless: EventQuery | None = None,
        wait_for: Sequence[type[Projection]] = (),
    ) -> Receipt:
        """Send a command and wait until its events are on disk.

        Args:
            command: an object of a @command class that the aggregate handles.
            expected_version: the stream's version that the command was decided on, or ANY, NO_STREAM, STREAM_EXISTS.
            idempotency_key: a second command with the same key takes no effect and gets the first one's receipt.
            timeout: seconds; `Limits.command_timeout_seconds` unless given.
            correlation_id: what the command is part of; by default that of the command being handled, or a new one.
            metadata: plain data stored with each event.
            unless: the command's events are stored only if no event matches this query, wherever it is in the store.
                What is stored by now is searched by the query's narrowest index (see `EventQuery`) before the command
                is sent; the journal looks only at what has come since, so other commands do not wait for it.
            wait_for: projections whose views are to hold what the command did before the receipt is returned; the time
                counts towards `timeout`.

        Raises:
            ViewTooOld, ProjectionUnavailable: a view that was waited for did not come to it; the events are on disk,
                and the error's `receipt` tells where.
            Rejected: the domain refused it.
            AggregateDeleted: it was deleted; only `Recreate` has it begin anew.
            ConditionNotMet: an event matches `unless`; its position is the error's.
            VersionConflict, UnknownCommand, NotAnEvent, HandlerFailed, ApplierFailed: it took no effect.
            CommandTimeout: no answer in time; the error says whether the command may still take effect.
            MailboxFull, AggregateUnavailable, ResidencyFull, RuntimeClosed: it was not taken.
            LimitExceeded, EncodingError, StoreError: its events could not be stored.

        A caller that is cancelled withdraws the command if the actor had not begun with it; one that is cancelled
        already when it asks sends none.
        """
        check_on_trio("ask", "portal.call(ref.ask, command)")
        router = self._router
        if wait_for:
            router.projections.check(wait_for)
        request = router.request(command, expected_version, idempotency_key, correlation_id, metadata, unless)
        seconds = checked_timeout(timeout, router.limits)
        deadline = trio.current_time() + seconds if wait_for else 0.0
        if request.unless is not None:
            with trio.move_on_after(seconds) as scope:
                request.unless = await router.narrowed(request.unless)
            if scope.cancelled_caught:
                raise CommandTimeout(self.stream, command, seconds, may_take_effect=False)
        receipt = await self.ask_request(request, seconds)
        if wait_for:
            await wait_for_views(router.projections, wait_for, receipt.position, deadline, receipt)
        return receipt

    async def ask_request(self, request: Request, timeout_seconds: float) -> Receipt:
        """`ask` for a request that was made by the router."""
        arounds = self._router.around_asks
        if not arounds:
            return await self._answer(request, timeout_seconds)
        with ExitStack() as stack:
            told = [stack.enter_context(around(self.stream, request)) for around in arounds]
            receipt = await self._answer(request, timeout_seconds)
            for answered in told:
                answered(receipt)
            return receipt

    async def _answer(self, request: Request, timeout_seconds: float) -> Receipt:
        # Before it is sent: an aggregate that is idle decides at once.
        await trio.lowlevel.checkpoint_if_cancelled()
        router = self._router
        future: TrioFuture[Receipt] = router.send(self._aggregate_type, self.stream, self.aggregate_id, request)
        router.deadlines.add(self.stream, [request], future, timeout_seconds)
        try:
            return await future
        except trio.Cancelled:
            withdraw([request])
            raise

    async def ask_many(
        self,
        commands: Sequence[object],
        *,
        idempotency_keys: Sequence[str | None] | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> list[Receipt | EventSourcingError]:
        """Send many commands in one call; the answers come in their order, an error in the place of its receipt.

        Each command is decided on its own, as by `ask`, and several share a commit. `idempotency_keys` has one key for
        each command, or None. `timeout` (seconds) bounds the wait for each hundred commands, which are sent together.

        Raises:
            ArgumentInvalid: when the commands are no list, or there are not as many keys as commands.
            CommandTimeout, RuntimeClosed, ...: as `ask`, for what concerns the call as a whole.

        """
        check_on_trio("ask_many", "portal.call(ref.ask_many, commands)")
        if isinstance(commands, str | bytes) or not isinstance(commands, Sequence):
            raise ArgumentInvalid("commands", commands, "give a list of them")
        if idempotency_keys is not None and len(idempotency_keys) != len(commands):
            advice = f"{len(commands)} commands need as many keys, not {len(idempotency_keys)}"
            raise ArgumentInvalid("idempotency_keys", idempotency_keys, advice)
        await trio.lowlevel.checkpoint_if_cancelled()
        router = self._router
        seconds = checked_timeout(timeout, router.limits)
        answers: list[Receipt | EventSourcingError] = []
        ahead: list[tuple[list[Request], TrioFuture[list[Receipt | EventSourcingError]]]] = []
        try:
            for start in range(0, len(commands), COMMANDS_PER_MESSAGE):
                end = start + COMMANDS_PER_MESSAGE
                keys = idempotency_keys[start:end] if idempotency_keys is not None else [None] * COMMANDS_PER_MESSAGE
                requests = [
                    router.request(command, None, key, correlation_id, metadata)
                    for command, key in zip(commands[start:end], keys, strict=False)
                ]
                while (future := self._sent(requests, is_alone=not ahead)) is None:
                    answers += await ahead[0][1]
                    del ahead[0]
                router.deadlines.add(self.stream, requests, future, seconds)
                ahead.append((requests, future))
                if len(ahead) == MESSAGES_AHEAD:
                    answers += await ahead[0][1]
                    del ahead[0]
            while ahead:
                answers += await ahead[0][1]
                del ahead[0]
        finally:
            for requests, _ in ahead:
                withdraw(requests)
        return answers

    def _sent(
        self, requests: list[Request], *, is_alone: bool
    ) -> TrioFuture[list[Receipt | EventSourcingError]] | None:
        """Their answers to come; None where the mailbox is full of those that were sent before."""
        try:
            future: TrioFuture[list[Receipt | EventSourcingError]] = self._router.send(
                self._aggregate_type, self.stream, self.aggregate_id, Requests(requests)
            )
        except MailboxFull:
            if is_alone:
                raise
            return None
        return future

    def tell(
        self,
        command: object,
        *,
        expected_version: ExpectedVersion | None = None,
        idempotency_key: str | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> None:
        """Send a command without waiting. From any thread; what becomes of it is logged where it fails.

        On the trio thread it raises what concerns the sending: `MailboxFull`, `RuntimeClosed`, ...
        """
        router = self._router
        request = router.request(command, expected_version, idempotency_key, correlation_id, metadata)
        router.tell(self._aggregate_type, self.stream, self.aggregate_id, request)

    def ask_from_thread(
        self,
        command: object,
        *,
        expected_version: ExpectedVersion | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        unless: EventQuery | None = None,
        wait_for: Sequence[type[Projection]] = (),
    ) -> Receipt:
        """`ask` for synchronous code in another thread: blocks that thread until the answer is there."""
        return self._router.run_from_thread(
            lambda: self.ask(
                command,
                expected_version=expected_version,
                idempotency_key=idempotency_key,
                timeout=timeout,
                correlation_id=correlation_id,
                metadata=metadata,
                unless=unless,
                wait_for=wait_for,
            )
        )

    async def delete(
        self,
        reason: str = "",
        *,
        expected_version: ExpectedVersion | None = None,
        idempotency_key: str | None = None,
        timeout: float | None = None,
    ) -> Receipt:
        """End the aggregate with a `Deleted` event: `ask` with the command `Delete`.

        Its history stays; further commands, and `state`, get `AggregateDeleted`, until it is sent `Recreate`.

        Raises `Rejected` where there is nothing to delete or the domain refuses, and what `ask` raises.
        """
        return await self.ask(
            Delete(reason), expected_version=expected_version, idempotency_key=idempotency_key, timeout=timeout
        )

    async def version(self) -> int:
        """How many events it has on disk; 0 where there is none. Ask before `state`, to name it in `transact`."""
        check_on_trio("ref.version", "portal.call(ref.version)")
        await trio.lowlevel.checkpoint()
        return self._router.version(self.stream)

    async def state(
        self,
        *,
        at_version: int | None = None,
        at_position: int | None = None,
        at_time: datetime | None = None,
        timeout: float | None = None,
    ) -> A:
        """A copy of the aggregate's state as it is on disk, all commands sent before included.

        A reader makes it from the log as far as it has followed that. With one of `at_version`, `at_position` and
        `at_time` it is the state of then: from the nearest snapshot before, and the events in between.

        Raises `CommandTimeout` after `timeout` seconds, `EncodingError` when the state is not data, `AggregateDeleted`
        for one that is deleted, or was then, `NotInHistory` for a moment that the log does not reach.
        """
        check_on_trio("state", "portal.call(ref.state)")
        router = self._router
        if at_version is not None or at_position is not None or at_time is not None:
            return cast(
                A,
                await router.state_at(
                    self._aggregate_type, self.aggregate_id, version=at_version, position=at_position, time=at_time
                ),
            )
        if router.is_reader:
            return cast(A, await router.recover(self._aggregate_type, self.stream, self.aggregate_id))
        seconds = checked_timeout(timeout, router.limits)
        future: TrioFuture[Aggregate] = router.send(self._aggregate_type, self.stream, self.aggregate_id, StateQuery())
        router.deadlines.add(self.stream, [], future, seconds)
        return cast(A, await future)
