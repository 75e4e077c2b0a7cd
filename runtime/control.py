"""The runtime's side of the control board: does what is asked from outside, and publishes how things are."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, get_args

import msgspec
import trio

from ..actors.background import in_background
from ..actors.sagas.errors import UnknownSaga
from ..storage.control import (
    PROJECTION_PREFIX,
    SAGA_PREFIX,
    Action,
    ControlBoard,
    ControlRequest,
    MaintenanceAction,
    SagaAction,
)
from ..storage.errors import EventSourcingError, described
from .errors import SignalKnown, UnknownSubscription
from .maintenance.maintenance import Maintenance
from .on_board import on_board
from .projections.projections import Projections
from .sagas.sagas import Sagas
from .subscriptions.consumers import Subscriptions

PERIOD_SECONDS: Final = 0.5
"""How often the board is looked at and the status published."""
MAINTENANCE_ACTIONS: Final = get_args(MaintenanceAction)

logger = logging.getLogger("eventsrc.control")


class Control:
    """Looks at the board for as long as the runtime is open."""

    def __init__(
        self,
        board: ControlBoard,
        projections: Projections,
        subscriptions: Subscriptions,
        numbers: Callable[[], dict[str, Any]],
        sagas: Sagas | None,
        maintenance: Maintenance | None,
    ) -> None:
        self._board = board
        self._projections = projections
        self._subscriptions = subscriptions
        self._numbers = numbers
        self._sagas = sagas
        self._maintenance = maintenance
        self._under_way: set[int] = set()
        self._scope = trio.CancelScope()
        self._ended = trio.Event()
        self._published: dict[str, Any] = {}

    async def run(self) -> None:
        """Until it is stopped. What goes wrong is logged, and tried again: nothing here may end the runtime."""
        try:
            with self._scope:
                await self._run()
        finally:
            self._ended.set()

    async def stop(self) -> None:
        """Take no more requests, and break off those under way, before what they are about closes."""
        self._scope.cancel()
        with trio.CancelScope(shield=True):
            await self._ended.wait()

    async def _run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    for request in self._board.requests():
                        if request.action not in MAINTENANCE_ACTIONS:
                            await self._take(request)
                        elif request.id not in self._under_way:
                            # These take their time; others are answered meanwhile.
                            self._under_way.add(request.id)
                            nursery.start_soon(in_background, self._take, request)
                    await self.publish()
                except Exception as error:
                    _report(error)
                await trio.sleep(PERIOD_SECONDS)

    async def _take(self, request: ControlRequest) -> None:
        answer = await self._answer(request)
        if answer is None:
            return
        try:
            await on_board(self._board, partial(self._board.done, request, answer))
        except Exception as error:
            _report(error)
            self._under_way.discard(request.id)

    async def close(self) -> None:
        """Publish how things are at the end."""
        try:
            await self.publish()
        except Exception as error:
            _report(error)

    async def _answer(self, request: ControlRequest) -> str | None:
        """Do it. What is wrong with it, empty when nothing is; None when it has to wait."""
        try:
            action = request.known_action
            if action is None:
                return f"This version cannot {request.action!r}."
            if action != "retry":  # one that waits is looked at again and again
                logger.info("asked from outside", extra={"action": action, "subject": request.subject})
            return await self._do(action, request)
        except EventSourcingError as error:
            logger.warning("asked for what cannot be done: %s", error)
            return str(error)
        except Exception as error:
            # Whoever asks is outside: what goes wrong there must not end the runtime.
            logger.exception("what was asked from outside has failed", extra={"action": request.action})
            return f"{request.action} {request.subject} has failed: {described(error)}"

    async def _do(self, action: Action, request: ControlRequest) -> str | None:
        """As `_answer`, and raises what is wrong."""
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
            # Its next consumer will find the request.
            return None if request.subject in known else str(UnknownSubscription(request.subject, known))
        await self._subscriptions.retry(request.subject, request.argument or None)
        return ""

    async def publish(self) -> None:
        """Put on the board how things are, if that has changed."""
        status: dict[str, Any] = {
            PROJECTION_PREFIX + name: msgspec.to_builtins(lag) for name, lag in self._projections.lags().items()
        }
        status["runtime"] = {**self._numbers(), "projections": list(self._projections.lags())}
        if status != self._published:
            self._published = status
            await on_board(self._board, partial(self._board.set_status, status | {"published": time.time()}))


def _report(error: Exception) -> None:
    is_expected = isinstance(error, EventSourcingError)
    logger.warning("the control board cannot be used: %r", error, exc_info=None if is_expected else error)
