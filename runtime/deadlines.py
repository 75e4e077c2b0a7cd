"""Times out many answers with one timer, which is far cheaper than a cancel scope for each command."""

import math
from collections import deque
from typing import Any, Final

import msgspec
import trio

from ..actors.aggregates.request import Request
from ..actors.errors import CommandTimeout
from ..actors.future import TrioFuture

ANSWERED_KEPT_MIN: Final = 1_000
"""The least number of settled answers that may stay in the queues before a clearing removes them."""


class Pending(msgspec.Struct):
    """An answer that a caller waits for until `deadline` (trio's clock).

    The garbage collector must see it: the traceback of an error that is the answer refers to frames that hold it.
    """

    deadline: float
    timeout_seconds: float
    stream: str
    requests: list[Request]
    """Empty for a query of the state."""
    future: TrioFuture[Any]


class Deadlines:
    """Fails each answer that is late with `CommandTimeout`.

    Answers with the same timeout expire in the order in which they began, so one queue for each timeout is enough. A
    settled answer leaves its queue once every answer before it is settled, or when all queues are cleared, which
    happens whenever they have grown to about twice the size that the last clearing left.
    """

    def __init__(self) -> None:
        self._queues: dict[float, deque[Pending]] = {}
        self._count = 0
        self._count_max = ANSWERED_KEPT_MIN
        self._timer = trio.CancelScope()
        self._next = math.inf

    def __len__(self) -> int:
        """How many answers are in the queues, settled ones included."""
        return self._count

    def add(self, stream: str, requests: list[Request], future: TrioFuture[Any], timeout_seconds: float) -> None:
        """Fail `future` after `timeout_seconds`, unless it is settled by then."""
        deadline = trio.current_time() + timeout_seconds
        queue = self._queues.get(timeout_seconds)
        if queue is None:
            queue = self._queues[timeout_seconds] = deque()
        while queue and queue[0].future.is_settled():
            queue.popleft()
            self._count -= 1
        queue.append(Pending(deadline, timeout_seconds, stream, requests, future))
        self._count += 1
        if self._count > self._count_max:
            self._drop_answered()
        if deadline < self._next:
            self._next = deadline
            self._timer.deadline = deadline

    @trio.lowlevel.enable_ki_protection
    async def run(self) -> None:
        """Watch the clock until cancelled."""
        while True:
            self._expire(trio.current_time())
            self._next = min((queue[0].deadline for queue in self._queues.values()), default=math.inf)
            with trio.CancelScope(deadline=self._next) as self._timer:
                await trio.sleep_forever()

    def _expire(self, now: float) -> None:
        for timeout_seconds, queue in list(self._queues.items()):
            while queue and (queue[0].deadline <= now or queue[0].future.is_settled()):
                _time_out(queue.popleft())
                self._count -= 1
            if not queue:
                del self._queues[timeout_seconds]

    def _drop_answered(self) -> None:
        waiting = {
            timeout_seconds: deque(pending for pending in queue if not pending.future.is_settled())
            for timeout_seconds, queue in self._queues.items()
        }
        self._queues = {timeout_seconds: queue for timeout_seconds, queue in waiting.items() if queue}
        self._count = sum(map(len, self._queues.values()))
        self._count_max = 2 * self._count + ANSWERED_KEPT_MIN


def _time_out(pending: Pending) -> None:
    if pending.future.is_settled():
        return
    withdraw(pending.requests)
    may_take_effect = any(request.started for request in pending.requests)
    commands = [request.command for request in sorted(pending.requests, key=lambda request: not request.started)]
    command = commands[0] if commands else None
    pending.future.fail(CommandTimeout(pending.stream, command, pending.timeout_seconds, may_take_effect))


def withdraw(requests: list[Request]) -> None:
    """Withdraw requests that no caller waits for any more: those that have not begun never will."""
    for request in requests:
        request.withdrawn = not request.started
