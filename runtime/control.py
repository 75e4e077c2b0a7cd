"""The runtime's side of the control board: does what is asked from outside, and publishes how things are."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec
import trio

from ..storage.control import ControlBoard, ControlRequest
from ..storage.errors import EventSourcingError
from .consumers import Subscriptions, on_board
from .projections import Projections

PERIOD_SECONDS: Final = 0.5
"""How often the board is looked at and the status published."""

logger = logging.getLogger("eventsrc.control")


class Control:
    """Looks at the board for as long as the runtime is open."""

    def __init__(
        self,
        board: ControlBoard,
        projections: Projections,
        subscriptions: Subscriptions,
        numbers: Callable[[], dict[str, Any]],
    ) -> None:
        self._board = board
        self._projections = projections
        self._subscriptions = subscriptions
        self._numbers = numbers
        self._published: dict[str, Any] = {}

    async def run(self) -> None:
        """Until cancelled. A disk that refuses is logged, and tried again."""
        while True:
            try:
                for request in self._board.requests():
                    await self._do(request)
                    await on_board(self._board, partial(self._board.done, request))
                await self._publish()
            except EventSourcingError as error:
                logger.warning("the control board cannot be used: %s", error)
            await trio.sleep(PERIOD_SECONDS)

    async def _do(self, request: ControlRequest) -> None:
        logger.info("asked from outside", extra={"action": request.action, "subject": request.subject})
        projections = {projection.__eventsrc_projection__.name: projection for projection in self._projections.all()}
        match request.action:
            case "pause" | "resume" | "rebuild" if request.subject in projections:
                await getattr(self._projections, request.action)(projections[request.subject])
            case "retry":
                self._subscriptions.retry(request.subject, request.argument or None)
            case "delete":
                await self._subscriptions.delete(request.subject)
            case _:
                logger.warning("asked for what cannot be done: %s %s", request.action, request.subject)

    async def _publish(self) -> None:
        status: dict[str, Any] = {
            f"projection {name}": msgspec.to_builtins(lag) for name, lag in self._projections.lags().items()
        }
        status["runtime"] = self._numbers()
        if status != self._published:
            self._published = status
            await on_board(self._board, partial(self._board.set_status, status | {"published": time.time()}))
