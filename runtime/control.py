"""The runtime's side of the control board: carries out requests from outside and publishes the runtime's status."""

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, get_args

import msgspec
import trio

from ..actors.background import in_background
from ..actors.sagas.errors import UnknownSaga
from ..storage.control.board import (
    PROJECTION_PREFIX,
    SAGA_PREFIX,
    Action,
    ControlBoard,
    ControlRequest,
    MaintenanceAction,
    PrivacyAction,
    ProjectionAction,
    SagaAction,
    SubscriptionAction,
)
from ..storage.errors import EventSourcingError, described
from .errors import SignalKnown, UnknownSubscription
from .forgetting import Forgetting
from .maintenance.maintenance import Maintenance
from .on_board import on_board
from .projections.projections import Projections
from .sagas.sagas import Sagas
from .subscriptions.subscriptions import Subscriptions

PERIOD_SECONDS: Final = 0.5
"""How often the runtime reads the board and publishes its status."""
SUBJECTS_MAX: Final = 100
"""The most subjects (projections, subscriptions, streams, sagas) whose requests run at once; others wait."""
_KINDS: Final[dict[str, Any]] = {
    action: kind
    for kind in (ProjectionAction, SubscriptionAction, MaintenanceAction, SagaAction, PrivacyAction)
    for action in get_args(kind)
}

logger = logging.getLogger("eventsrc.control")


class Control:
    """Carries out the control board's requests for as long as the runtime is open."""

    def __init__(
        self,
        board: ControlBoard,
        *,
        projections: Projections,
        subscriptions: Subscriptions,
        numbers: Callable[[], dict[str, Any]],
        sagas: Sagas | None,
        maintenance: Maintenance | None,
        forgetting: Forgetting | None,
    ) -> None:
        self._board = board
        self._projections = projections
        self._subscriptions = subscriptions
        self._numbers = numbers
        self._sagas = sagas
        self._maintenance = maintenance
        self._forgetting = forgetting
        self._busy: set[tuple[Any, str]] = set()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._published: dict[str, Any] = {}
        self._publishing = trio.Lock()
        """One at a time: an older status must not overwrite a newer one."""

    async def run(self) -> None:
        """Run until stopped. Errors are logged and the work is tried again: no error here may end the runtime."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Take no more requests, and cancel those under way, before the parts that they act on close."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    self._begin(self._board.requests(), nursery)
                except Exception as error:
                    _report(error)
                await self._publish_if_possible()
                await trio.sleep(PERIOD_SECONDS)

    def _begin(self, requests: Sequence[ControlRequest], nursery: trio.Nursery) -> None:
        """Carry out each subject's requests in order; a subject that hangs holds up no other."""
        of_subject: dict[tuple[Any, str], list[ControlRequest]] = {}
        for request in requests:
            of_subject.setdefault((_KINDS.get(request.action), request.subject), []).append(request)
        for subject, asked in of_subject.items():
            if subject not in self._busy and len(self._busy) < SUBJECTS_MAX:
                self._busy.add(subject)
                nursery.start_soon(in_background, self._take, subject, asked)

    async def _take(self, subject: tuple[Any, str], requests: Sequence[ControlRequest]) -> None:
        try:
            for request in requests:
                answer = await self._answer(request)
                if answer is not None:
                    # The requester must find the outcome published once the answer is there.
                    await self._publish_if_possible()
                    await on_board(self._board, partial(self._board.done, request, answer))
        except Exception as error:
            _report(error)
        finally:
            self._busy.discard(subject)

    async def close(self) -> None:
        """Publish the final status."""
        await self._publish_if_possible()

    async def _answer(self, request: ControlRequest) -> str | None:
        """Carry out the request; returns an error text, empty on success, or None when the request has to wait."""
        try:
            action = request.known_action
            if action is None:
                return f"This version cannot {request.action!r}."
            if action != "retry":  # a waiting retry is looked at again and again
                logger.info("asked from outside", extra={"action": action, "subject": request.subject})
            return await self._do(action, request)
        except EventSourcingError as error:
            logger.warning("asked for what cannot be done: %s", error)
            return str(error)
        except Exception as error:
            # The requester is another process: its mistakes must not end the runtime.
            logger.exception("what was asked from outside has failed", extra={"action": request.action})
            return f"{request.action} {request.subject} has failed: {described(error)}"

    async def _do(self, action: Action, request: ControlRequest) -> str | None:
        """Like `_answer`, but raises the errors."""
        match action:
            case "retry":
                return await self._retry(request)
            case "delete":
                if not await self._subscriptions.delete(request.subject):
                    raise UnknownSubscription(request.subject, list(self._board.subscriptions()))
            case "pause":
                await self._projections.pause(self._projections.named(request.subject))
            case "resume":
                await self._projections.resume(self._projections.named(request.subject))
            case "rebuild":
                await self._projections.rebuild(self._projections.named(request.subject))
            case "compact" | "uncompact":
                return await self._maintain(action, request.subject)
            case "forget":
                if self._forgetting is None:
                    return "This runtime only reads, or its store has no place for keys."
                await self._forgetting.forget(request.subject, {}, even_in_sagas=bool(request.argument))
            case _:
                await self._steer_saga(action, request)
        return ""

    async def _steer_saga(self, action: SagaAction, request: ControlRequest) -> None:
        sagas = self._sagas
        if sagas is None:
            raise UnknownSaga("The runtime that has the store open was opened without sagas.")
        argument = msgspec.json.decode(request.argument)
        if action == "saga signal":
            if not await sagas.signal(request.subject, argument["signal"], argument["payload"]):
                raise SignalKnown(request.subject, argument["signal"])
        else:
            await sagas.decide(request.subject, action.removeprefix(SAGA_PREFIX), argument["reason"])

    async def _maintain(self, action: MaintenanceAction, stream: str) -> str:
        maintenance = self._maintenance
        if maintenance is None:
            return "This runtime only reads."
        if action == "uncompact":
            await maintenance.uncompact_stream(stream)
        elif stream:
            await maintenance.compact_stream(stream)
        else:
            return "; ".join((await maintenance.retain()).refused.values())
        return ""

    async def _retry(self, request: ControlRequest) -> str | None:
        if not self._subscriptions.is_consumed(request.subject):
            known = list(self._board.subscriptions())
            # The subscription's next consumer will find the request.
            return None if request.subject in known else str(UnknownSubscription(request.subject, known))
        await self._subscriptions.retry(request.subject, request.argument or None)
        return ""

    async def _publish_if_possible(self) -> None:
        try:
            async with self._publishing:
                await self._publish()
        except Exception as error:
            _report(error)

    async def _publish(self) -> None:
        """Put the status on the board if it has changed."""
        status: dict[str, Any] = {
            PROJECTION_PREFIX + name: msgspec.to_builtins(lag) for name, lag in self._projections.lags().items()
        }
        status["runtime"] = {**self._numbers(), "projections": list(self._projections.lags())}
        if status != self._published:
            await on_board(self._board, partial(self._board.set_status, status | {"published": time.time()}))
            self._published = status


def _report(error: Exception) -> None:
    is_expected = isinstance(error, EventSourcingError)
    logger.warning("the control board cannot be used: %r", error, exc_info=None if is_expected else error)
