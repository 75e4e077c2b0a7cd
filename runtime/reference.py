"""A reference to an aggregate: programs send it commands whether or not the actor is in memory."""

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
"""How many commands `ask_many` puts into one message to the actor."""
MESSAGES_AHEAD: Final = 4
"""How many such messages `ask_many` sends before the first of them is answered."""

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
            expected_version: the stream's version that the caller decided on, or ANY, NO_STREAM, STREAM_EXISTS.
            idempotency_key: a second command with the same key takes no effect and gets the first one's receipt.
            timeout: seconds; `Limits.command_timeout_seconds` unless given.
            correlation_id: groups related commands; by default the id of the command being handled, or a new one.
            metadata: plain data stored with each event.
            unless: the command's events are stored only if no event in the store matches this query. The events stored
                so far are searched by the query's narrowest index (see `EventQuery`) before the command is sent; the
                journal searches only the events since then, so other commands do not wait for the search.
            wait_for: projections whose views must show the command's effect before the receipt is returned; the wait
                counts towards `timeout`.

        Raises:
            ViewTooOld, ProjectionUnavailable: a view of `wait_for` did not reach the command's events; the events are
                on disk, and the error's `receipt` tells where.
            Rejected: the domain refused the command.
            AggregateDeleted: the aggregate was deleted; only `Recreate` has it begin anew.
            ConditionNotMet: an event matches `unless`; the error has its position.
            VersionConflict, UnknownCommand, NotAnEvent, HandlerFailed, ApplierFailed: the command took no effect.
            CommandTimeout: no answer in time; the error says whether the command may still take effect.
            MailboxFull, AggregateUnavailable, ResidencyFull, RuntimeClosed: the command was not accepted.
            AggregateWaitsForItself: a handler asks, and the aggregate waits for that handler; nothing was sent.
            LimitExceeded, EncodingError, StoreError: its events could not be stored.

        A cancelled caller withdraws the command unless the actor has begun it; a caller that is already cancelled sends
        none.
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
        """`ask` for a request that the router has made."""
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
        # Checked before sending: an idle aggregate decides at once.
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
        """Send many commands in one call; returns a receipt or an error for each, in order.

        Each command is decided on its own, as by `ask`, and several share a commit. `idempotency_keys` has one key for
        each command, or None. `timeout` (seconds) bounds the wait for each hundred commands, which are sent together.

        Raises:
            ArgumentInvalid: `commands` is no list, or the number of keys is not that of the commands.
            CommandTimeout, RuntimeClosed, ...: as `ask`, for errors that concern the call as a whole.
        """
        check_on_trio("ask_many", "portal.call(ref.ask_many, commands)")
        if isinstance(commands, str | bytes) or not isinstance(commands, Sequence):
            raise ArgumentInvalid("commands", commands, "give a list of them")
        if isinstance(idempotency_keys, str | bytes) or not isinstance(idempotency_keys, Sequence | None):
            raise ArgumentInvalid("idempotency_keys", idempotency_keys, "give a list with one for each command")
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
        """The future of the answers; None where earlier messages of this call fill the mailbox."""
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
        """Send a command without waiting for an answer, from any thread; a failure is logged.

        On the trio thread, errors of the sending itself are raised: `MailboxFull`, `RuntimeClosed`, ...
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
        correlation_id: str | None = None,
        metadata: Mapping[str, object] | None = None,
        wait_for: Sequence[type[Projection]] = (),
    ) -> Receipt:
        """End the aggregate with a `Deleted` event: `ask` with the command `Delete`, and the same arguments.

        Its history stays; further commands and `state` raise `AggregateDeleted` until `Recreate` is sent. Raises
        `Rejected` where there is nothing to delete or the domain refuses, and the errors of `ask`.
        """
        return await self.ask(
            Delete(reason),
            expected_version=expected_version,
            idempotency_key=idempotency_key,
            timeout=timeout,
            correlation_id=correlation_id,
            metadata=metadata,
            wait_for=wait_for,
        )

    async def version(self) -> int:
        """How many events the aggregate has on disk, 0 for none. For `transact(unchanged=)`, ask before `state`."""
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
        """A copy of the aggregate's state as it is on disk, after all commands that were sent before.

        A reader's state is as new as the part of the log that it has followed. With one of `at_version`, `at_position`
        and `at_time` it is the state at that moment, made from the nearest snapshot before it and the events in
        between.

        Raises `CommandTimeout` after `timeout` seconds, `EncodingError` when the state is not data, `AggregateDeleted`
        for an aggregate that is deleted, or was at that moment, `NotInHistory` for a moment that the log does not
        reach.
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
