"""A runtime in a program on asyncio: the runtime lives on trio in its own thread, and calls are awaited on asyncio."""

import asyncio
import contextvars
import functools
import logging
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, overload
from weakref import WeakKeyDictionary

import trio

from ..errors import ArgumentInvalid
from ..runtime import Runtime
from .errors import AsyncioTaskCancelled, NoAsyncioLoop, NotInAsyncio
from .handover import Handover
from .item_arrivals import END, NOTHING_YET, ItemArrivals, Kept
from .runtime_thread import Call, RuntimeThread, Stay, checked_items, log_failure

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

TASK_CANCEL_SECONDS: Final = 10.0
"""How long a cancelled caller on trio waits for its task on asyncio to end."""
SCOPE_SAYS: Final = ("Cancelled via cancel scope ", "Cancelled by cancel scope ")
"""The beginnings of the messages of anyio's scope cancellations, today and in older versions."""
_loop: Final = contextvars.ContextVar[asyncio.AbstractEventLoop | None]("eventsrc asyncio loop", default=None)
"""The loop of the program that embeds this context's runtime."""

logger = logging.getLogger("eventsrc.embedding")


class AsyncioPortal:
    """Opens a runtime in its own thread; any number of tasks on asyncio may call it.

            async with AsyncioPortal(Runtime.open("bank.db", aggregates=[Account])) as portal:
                ann = portal.runtime.actor(Account, "ann")
                receipt = await portal.call(ann.ask, Deposit(100))

    Members that do not wait (`runtime.actor`, `view`, `events`, `decode`, `last_position`) may be used directly.
    Leaving the block closes the runtime in order. Domain code runs on trio: wrap the asyncio functions that it awaits
    in `on_asyncio`.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Runtime]) -> None:
        self._thread = RuntimeThread(opening)
        self._kept: Kept = WeakKeyDictionary()
        self._loop: asyncio.AbstractEventLoop
        self._answers: Handover

    async def __aenter__(self) -> Self:
        """Open the runtime. Raises the errors of `Runtime.open`, `ThreadRefused`, `NotInAsyncio`."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError as error:
            raise NotInAsyncio from error
        self._thread.start(functools.partial(_loop.set, loop))
        self._loop, self._answers = loop, Handover(loop.call_soon_threadsafe)
        try:
            await self._end_of(self._thread.opened)
            self._thread.opened.result()
        except BaseException as error:
            self._thread.give_up()
            await self._end_of(self._thread.ended, error)
            self._thread.join()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Close the runtime in order. Raises the error that ended the runtime or kept it from closing in order.

        After a first cancellation of this task, before or during the closing, the runtime still closes in order; a
        second one, as by a second Ctrl-C, leaves the closing to the thread.
        """
        ended = self._thread.close()
        try:
            await self._end_of(ended, error)
        except asyncio.CancelledError as cancelled:
            if not isinstance(error, asyncio.CancelledError):
                await self._end_of(ended, cancelled)
                self._thread.join()
                log_failure(ended)
            if isinstance(error, Exception) and _is_of_anyio(cancelled):
                # The block's error would be lost; anyio's scope cancels again whatever goes on within it.
                return
            raise
        self._thread.join()
        ended.result()

    @property
    def runtime(self) -> Runtime:
        """The runtime, from the beginning of the block on. Raises `RuntimeClosed` before that."""
        return self._thread.runtime

    @overload
    async def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, async or not, on the runtime's thread, and await its result.

        `await portal.call(ann.ask, Deposit(100), idempotency_key="d-1")`. The function runs on trio, in the caller's
        context, and sees the caller's contextvars. Cancelling the calling task cancels the function and waits until it
        has ended.

        Raises the function's errors, `RuntimeClosed`, `WrongThread` on the runtime's own thread, and `StoreForked`.
        """
        call = self._thread.call(function, *args, **kwargs)
        return await self._outcome(call.future, call, functools.partial(self._thread.begin, call))

    def iterate(self, items: AsyncIterable[T]) -> AsyncIterator[T]:
        """Iterate over an iterator of trio, one call an item: `async for batch in portal.iterate(runtime.subscribe())`.

        An item that arrived while the task was being cancelled comes next, also from a second `iterate` of the same
        iterator. Raises the errors of `call`.
        """
        return _Items(self, checked_items(items))

    @asynccontextmanager
    async def enter(self, manager: AbstractAsyncContextManager[T]) -> AsyncIterator[T]:
        """Enter a context manager of trio: `async with portal.enter(runtime.consume("mailer")) as consumer:`.

        An error of the block is passed to the manager. Raises the manager's errors, and those of `call`.
        """
        stay = self._thread.enter(manager)
        value = await self._outcome(stay.entered, stay.call, functools.partial(self._thread.begin, stay.call))
        try:
            yield value
        except Exception as failure:
            try:
                is_swallowed = await self._left(stay, failure)
            except asyncio.CancelledError as cancelled:
                if _is_of_anyio(cancelled):
                    raise failure from None
                raise
            if not is_swallowed:
                raise
        except BaseException as error:
            self._thread.cancel(stay.call)
            await self._end_of(stay.call.future, error)
            raise
        else:
            await self._left(stay, None)

    async def _left(self, stay: Stay[Any], failure: Exception | None) -> bool:
        leave = functools.partial(self._thread.leave, stay, failure)
        return await self._outcome(stay.call.future, stay.call, leave)

    async def _outcome(self, future: Future[R], call: Call[Any], begin: Callable[[], object]) -> R:
        """Begin a call, and await a future of it. Cancelling this task cancels the call and waits for its end."""
        # This comes first: off asyncio it raises, and nothing is done.
        asyncio.get_running_loop()
        begin()
        try:
            await self._end_of(future)
        except asyncio.CancelledError as cancelled:
            self._thread.cancel(call)
            await self._end_of(call.future, cancelled)
            raise
        return future.result()

    async def _end_of(self, future: Future[Any], after: BaseException | None = None) -> None:
        """Wait for a future. A cancellation ends the wait, except a repeat of `after`, which started it."""
        ended = asyncio.Event()
        loop = asyncio.get_running_loop()
        # Calls may come from any loop, and each caller is woken on its own loop.
        answers = self._answers if loop is self._loop else Handover(loop.call_soon_threadsafe)

        def tell(_: Future[Any]) -> None:
            try:
                answers.put(ended.set)
            except RuntimeError:
                logger.debug("asyncio had ended before a call")

        future.add_done_callback(tell)
        while not ended.is_set():
            try:
                await ended.wait()
            except asyncio.CancelledError as error:
                if not _is_again(error, after):
                    raise


def _is_again(error: asyncio.CancelledError, earlier: BaseException | None) -> bool:
    """Whether both are anyio's cancellations: anyio cancels a task again until the task has left the scope.

    A repeat may carry the message of another scope: an outer one, or that of an inner task group.
    """
    return _is_of_anyio(error) and _is_of_anyio(earlier)


def _is_of_anyio(error: BaseException | None) -> bool:
    # By the prefixes with which anyio recognises its own cancellations.
    said = error.args[0] if isinstance(error, asyncio.CancelledError) and error.args else None
    return isinstance(said, str) and said.startswith(SCOPE_SAYS)


class _Items(AsyncIterator[T], Generic[T]):
    """An iterator that may be abandoned at any time."""

    def __init__(self, portal: AsyncioPortal, items: AsyncIterator[T]) -> None:
        self._portal = portal
        self._arrivals = ItemArrivals(items, portal._kept)

    async def __anext__(self) -> T:
        while (item := self._arrivals.take()) is NOTHING_YET:
            await self._portal.call(self._arrivals.fetch)
        if item is END:
            raise StopAsyncIteration
        return item  # type: ignore[no-any-return]


def on_asyncio(function: Callable[P, Awaitable[T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Wrap an async function of asyncio, so that domain code, which runs on trio, can await it.

    `await ctx.effect("complete", on_asyncio(client.complete), prompt)` in a step of a saga, `consumer.run(on_asyncio(
    index))` for a sink, or within an async handler. The function runs as a task of the loop on which the
    `AsyncioPortal` was entered, in the context of its caller, and is cancelled with the caller. On asyncio itself the
    wrapper just awaits the function.

    Raises the function's errors, `NoAsyncioLoop` in a runtime that no `AsyncioPortal` has opened or whose loop was
    closed, and `AsyncioTaskCancelled`.
    """
    if not callable(function):
        raise ArgumentInvalid("function", function, "give it as it is, without calling it: on_asyncio(client.complete)")

    @functools.wraps(function)
    async def on_loop(*args: P.args, **kwargs: P.kwargs) -> T:
        if not trio.lowlevel.in_trio_task():
            return await function(*args, **kwargs)
        loop = _loop.get()
        if loop is None or loop.is_closed():
            raise NoAsyncioLoop(function)
        return await _Task(loop, functools.partial(function, *args, **kwargs)).outcome()

    return on_loop


class _Task(Generic[T]):
    """A task on asyncio that a task on trio awaits."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: functools.partial[Awaitable[T]]) -> None:
        self._loop = loop
        self._function = function
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._task: asyncio.Task[T] | None = None
        self._refusal: BaseException | None = None

    async def outcome(self) -> T:
        """Run the function and return its result. After a cancellation, wait for the task: its outcome still counts."""
        self._have_loop_do(self._begin)
        try:
            await self._ended.wait()
        except trio.Cancelled:
            with suppress(NoAsyncioLoop), trio.move_on_after(TASK_CANCEL_SECONDS, shield=True):
                self._have_loop_do(self._cancel)
                await self._ended.wait()
            if not self._ended.is_set():
                logger.warning("a task on asyncio was cancelled and goes on", extra={"function": self._function.func})
            if self._task is None or not self._task.done() or self._task.cancelled():
                raise
        error, is_cancelled = self._refusal, False
        if self._task is not None:
            is_cancelled = self._task.cancelled()
            error = None if is_cancelled else self._task.exception()
        if is_cancelled or not isinstance(error, Exception | None):
            # An error of its own: trio's task was not cancelled, and the error must not end the program.
            raise AsyncioTaskCancelled(self._function.func) from error
        if error is not None:
            raise error
        assert self._task is not None, "what has no task was refused"
        return self._task.result()

    def _have_loop_do(self, action: Callable[[], object]) -> None:
        try:
            self._loop.call_soon_threadsafe(action)
        except RuntimeError:
            raise NoAsyncioLoop(self._function.func) from None

    # --- on asyncio ---

    def _begin(self) -> None:
        # The loop copies the context of this hand-over; not every task factory takes a context as an argument.
        work = self._run()
        try:
            self._task = self._loop.create_task(work)
        except BaseException as error:
            # The task factory has failed, or an eager task has ended the program before it was assigned.
            work.close()
            self._refusal = error
            self._tell()
            if not isinstance(error, Exception):
                raise
        else:
            self._task.add_done_callback(self._tell)

    async def _run(self) -> T:
        return await self._function()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _tell(self, _: object = None) -> None:
        try:
            self._token.run_sync_soon(self._ended.set)
        except trio.RunFinishedError:
            logger.debug("the runtime had ended before a task on asyncio")
