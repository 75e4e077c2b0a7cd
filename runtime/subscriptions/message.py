"""One event in the hands of one consumer."""

from typing import TYPE_CHECKING

import attrs

from ...actors.error_text import described_with_advice, kept_text
from ...storage.record import StoredEvent
from ..trio_thread import check_on_trio
from .lane import Lane

if TYPE_CHECKING:
    from .dispatcher import Dispatcher


@attrs.define(eq=False)
class Message:
    """One event in the hands of one consumer: acknowledge it with `ack`, or report a failure with `fail`.

    A message stands for one hand-out of its event and does not affect later ones. Its methods belong on the trio
    thread, and raise `WrongThread` elsewhere: write `portal.call(message.fail, error)`.
    """

    event: StoredEvent
    attempts: int = 1
    """How often it was handed out, this time included."""
    _dispatcher: "Dispatcher | None" = None
    _lane: Lane | None = None

    @property
    def is_in_hand(self) -> bool:
        """Whether it was neither acknowledged, failed nor given back."""
        return self._dispatcher is not None

    async def ack(self) -> None:
        """Acknowledge the event, and wait until that is on disk: it is not handed out again. Idempotent.

        Raises `RuntimeClosed`.
        """
        dispatcher = self._dispatcher
        self.ack_soon()
        if dispatcher is not None:
            await dispatcher.saved()

    def ack_soon(self) -> None:
        """Acknowledge the event without waiting for the disk: an immediate crash has it handed out again."""
        dispatcher, lane = self._settle("ack", "message.ack")
        if dispatcher is not None and lane is not None:
            dispatcher.acknowledge(lane)

    def fail(self, error: BaseException | str) -> None:
        """Report a failure: the event is handed out again after a back-off, or parked after `ATTEMPTS_MAX` times."""
        dispatcher, lane = self._settle("fail", "message.fail, error")
        if dispatcher is not None and lane is not None:
            dispatcher.failed(lane, kept_text(error if isinstance(error, str) else described_with_advice(error)))

    def release(self) -> None:
        """Give the event back without a failure: it goes to the next consumer."""
        dispatcher, lane = self._settle("release", "message.release")
        if dispatcher is not None and lane is not None:
            dispatcher.released(lane)

    def _settle(self, method: str, example: str) -> "tuple[Dispatcher | None, Lane | None]":
        check_on_trio(method, f"portal.call({example})")
        dispatcher, self._dispatcher = self._dispatcher, None
        return dispatcher, self._lane
