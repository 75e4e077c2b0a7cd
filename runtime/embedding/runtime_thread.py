"""The thread in which a runtime lives where the program is not on trio, and the calls that other threads make to it.

Modelled on anyio's `BlockingPortal`, with two differences: while it closes, calls go on until the runtime has drained
its mailboxes, so that every stored command is answered; and a caller that gives up on a call waits until it has ended.
"""

import contextlib
import contextvars
import functools
import inspect
import logging
import os
import threading
from collections.abc import AsyncIterable, AsyncIterator, Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Generic, TypeVar

import trio

from ...actors.errors import RuntimeClosed
from ...storage.errors import StoreForked, ThreadRefused
from ..errors import ArgumentInvalid, WrongThread
from ..runtime import Runtime
from .handover import Handover

T = TypeVar("T")

THREAD_NAME: Final = "eventsrc runtime"
INTERRUPTED_START_SECONDS: Final = 1.0
"""How long to wait for a thread that may have started."""

logger = logging.getLogger("eventsrc.embedding")


class Call(Generic[T]):
    """A function call on the runtime's thread; `future` has its outcome."""

    def __init__(self, function: Callable[[], Any], context: contextvars.Context) -> None:
        self.future: Future[T] = Future()
        # Only `RuntimeThread.cancel` cancels a call: a call that has begun ends before its future does.
        self.future.set_running_or_notify_cancel()
        self.context: Final = context
        self._function = function
        self._scope = trio.CancelScope()
        self._has_begun = self._is_closed = False

    def fail(self, error: BaseException) -> None:
        """Settle the future with an error, unless the call is done."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    # --- on the trio thread ---

    def begin(self, calls: trio.Nursery, closed: Callable[[], RuntimeClosed]) -> None:
        """Begin the call in a task of its own, unless it was cancelled before."""
        if not self.future.done():
            self._has_begun = True
            calls.start_soon(self.run, closed)

    def cancel(self) -> None:
        """Have the call end soon."""
        self._scope.cancel()
        if not self._has_begun:
            # The caller was interrupted before the call was sent.
            self.fail(CancelledError())

    def close(self) -> None:
        """Have the call end soon, since the runtime ends."""
        self._is_closed = True
        self._scope.cancel()

    async def run(self, closed: Callable[[], RuntimeClosed]) -> None:
        """Run the function and settle the future in any case; with `closed()` where the runtime ends."""
        try:
            with self._scope:
                self.future.set_result(await self._result())
                return
            self.future.set_exception(closed() if self._is_closed else CancelledError())
        except trio.Cancelled:
            self.future.set_exception(closed())
            raise
        except BaseException as error:
            # Including SystemExit, which is to end the caller's program.
            self.future.set_exception(error)

    async def _result(self) -> Any:
        result = self._function()
        return await result if inspect.isawaitable(result) else result


class Stay(Generic[T]):
    """An asynchronous context that one task of trio enters and leaves, as trio requires.

    `entered` has the context's value, or the error of entering; the outcome of `call` is whether the context swallowed
    the failure of its block.
    """

    call: Call[bool]

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self.entered: Future[T] = Future()
        self._manager = manager
        self._left = trio.Event()
        self._failure: Exception | None = None

    async def run(self) -> bool:
        """Enter the context, wait until the block ends, and leave the context."""
        try:
            async with self._manager as value:
                self.entered.set_result(value)
                await self._left.wait()
                if self._failure is not None:
                    raise self._failure
                return False
        except BaseException as error:
            if error is self._failure:
                return False
            raise
        return True

    def leave(self, failure: Exception | None) -> None:
        """Report that the block has ended, or failed. Called on the trio thread."""
        self._failure = failure
        self._left.set()

    def over(self, future: Future[bool]) -> None:
        """Take note that the context's task has ended, or never began."""
        if not self.entered.done():
            error = future.exception()
            assert error is not None, "what has not failed was entered"
            self.entered.set_exception(error)


class RuntimeThread:
    """A thread that runs trio with one runtime in it; `opening` is the return value of `Runtime.open`.

    `opened` has the runtime once it is open, or the error of opening it; `ended` is settled when the runtime is closed,
    with its error, if any. The thread is a daemon: a program that ends without closing the runtime does not wait for
    it. Then every answered command is on disk, as after a kill.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Runtime]) -> None:
        check_manager("opening", opening, "give Runtime.open(...), which is not entered yet")
        self.opened: Future[Runtime] = Future()
        self.ended: Future[None] = Future()
        self._opening = opening
        self._set_variables: Callable[[], object] = lambda: None
        self._thread: threading.Thread | None = None
        self._pid = 0
        self._inbox: Handover | None = None
        self._main_scope = trio.CancelScope()
        self._closing = trio.Event()
        self._is_given_up = self._is_over = False
        self._calls: trio.Nursery | None = None
        self._failure: BaseException | None = None
        self._unsettled: set[Call[Any]] = set()

    def start(self, variables: Callable[[], object] = lambda: None) -> None:
        """Open the runtime; may be called once. `variables` sets contextvars for the runtime and for every call.

        Raises `ThreadRefused`, or `RuntimeClosed` the second time.
        """
        if self._thread is not None:
            raise RuntimeClosed("A portal can be entered once. Make another, with another Runtime.open(...).")
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()
        self._set_variables = variables
        # The process that the thread runs in, which may be a child of the one in which the portal was made.
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ThreadRefused(str(error)) from error
        except BaseException:
            # Interrupted, perhaps when the thread had begun; nothing tells whether it has.
            self.give_up()
            with contextlib.suppress(TimeoutError):
                self.ended.exception(INTERRUPTED_START_SECONDS)
            raise

    def close(self) -> Future[None]:
        """Close the runtime in order; the future is settled when it has ended. Does nothing in a forked child."""
        if self._is_elsewhere:
            elsewhere: Future[None] = Future()
            elsewhere.set_result(None)
            return elsewhere
        self._tell(self._closing.set)
        return self.ended

    def join(self) -> None:
        """Wait for the last steps of the thread, once `ended` is settled."""
        if self._thread is not None and not self._is_elsewhere:
            self._thread.join()

    def give_up(self) -> None:
        """Close a runtime that is still being opened."""
        self._is_given_up = True
        self._tell(self._main_scope.cancel)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call[Any]:
        """A call of a function, async or not, in a task of its own and in the caller's context; start it with `begin`.

        Raises `RuntimeClosed`, `WrongThread` on the trio thread itself, `StoreForked`, `ArgumentInvalid`.
        """
        self._check_entered()
        if self._is_elsewhere:
            raise StoreForked(self.opened.result()._store.path)
        if threading.current_thread() is self._thread:
            raise WrongThread("A portal", is_for_others=True, instead="the function itself")
        if not callable(function):
            if inspect.iscoroutine(function):
                function.close()
            advice = "give the function, and after it what to call it with: portal.call(ref.ask, command)"
            raise ArgumentInvalid("function", function, advice)
        context = contextvars.copy_context()
        context.run(self._set_variables)
        call: Call[Any] = Call(functools.partial(function, *args, **kwargs), context)
        call.future.add_done_callback(lambda _: self._unsettled.discard(call))
        return call

    def begin(self, call: Call[Any]) -> None:
        """Begin a call. A caller that is interrupted meanwhile must cancel the call."""
        if self._is_over:
            call.fail(self._not_begun())
        else:
            self._send(call, functools.partial(call.context.run, self._begin, call))

    def cancel(self, call: Call[Any]) -> None:
        """Have a call end soon, begun or not; the caller then waits for its future. From any thread."""
        if self._is_elsewhere:
            # In a forked child no thread is left to settle the future.
            call.fail(CancelledError())
        else:
            self._send(call, call.cancel)

    def enter(self, manager: AbstractAsyncContextManager[T]) -> Stay[T]:
        """A stay in an asynchronous context; begin its call. Raises the errors of `call`."""
        check_manager("manager", manager, 'give an asynchronous one: portal.enter(runtime.consume("mailer"))')
        stay = Stay(manager)
        stay.call = self.call(stay.run)
        stay.call.future.add_done_callback(stay.over)
        return stay

    def leave(self, stay: Stay[Any], failure: Exception | None) -> None:
        """End a stay; its call ends when the context was left. In a forked child only the block ends."""
        if not self._is_elsewhere:
            self._send(stay.call, functools.partial(stay.leave, failure))
        elif not stay.call.future.done():
            stay.call.future.set_result(False)

    @property
    def runtime(self) -> Runtime:
        """The runtime, even after its end. Raises `RuntimeClosed` before it is open, or the error of opening it."""
        self._check_entered()
        return self.opened.result()

    def _check_entered(self) -> None:
        if not self.opened.done():
            raise RuntimeClosed("The portal was not entered yet: write `with portal:`, or `async with portal:`.")

    @property
    def _is_elsewhere(self) -> bool:
        return os.getpid() != self._pid

    def _send(self, call: Call[Any], function: Callable[[], object]) -> None:
        """Have the trio thread call a function for a call, which ends with the runtime at the latest."""
        self._unsettled.add(call)
        self._tell(function)
        if self._is_over:
            call.fail(self._closed())
        if call.future.done():
            self._unsettled.discard(call)

    def _begin(self, call: Call[Any]) -> None:
        if self._calls is None:
            call.fail(self._not_begun())
        else:
            call.begin(self._calls, self._closed)

    def _tell(self, function: Callable[[], object]) -> None:
        if self._inbox is not None:
            try:
                self._inbox.put(function)
            except trio.RunFinishedError:
                logger.debug("the runtime had ended before")

    # --- in the thread ---

    def _run(self) -> None:
        failure: BaseException | None = None
        try:
            self._set_variables()
            trio.run(self._main)
        except BaseException as error:
            failure = error
        if not self.opened.done():
            self.opened.set_exception(failure or self._closed())
            failure = None
        self._is_over = True
        for call in list(self._unsettled):
            # Sent after trio had ended, or trio itself has failed: nothing else will settle these futures.
            call.fail(self._closed())
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)

    async def _main(self) -> None:
        self._inbox = Handover(trio.lowlevel.current_trio_token().run_sync_soon)
        if self._is_given_up:
            # `give_up` came before the inbox existed.
            self._main_scope.cancel()
        async with trio.open_nursery() as calls:
            try:
                with self._main_scope:
                    async with self._opening as runtime:
                        self._calls = calls
                        self.opened.set_result(runtime)
                        await self._closing.wait()
            except BaseException as error:
                # Raised again outside of the nursery, which would wrap the error in a group.
                self._failure = error
            self._calls = None
            # Each call is cancelled by its own scope, which catches the cancellation even where a nursery of the call
            # groups it.
            for call in list(self._unsettled):
                call.close()
        if self._failure is not None:
            raise self._failure

    def _not_begun(self) -> RuntimeClosed:
        return self._because("The runtime is closed or closes; what was called was not begun.")

    def _closed(self) -> RuntimeClosed:
        return self._because(
            "The runtime was closed before this was done. A command may have taken effect: send it again with the same "
            "idempotency key, and it takes effect once."
        )

    def _because(self, message: str) -> RuntimeClosed:
        error = RuntimeClosed(message)
        error.__cause__ = self._failure
        return error


def check_manager(argument: str, given: object, advice: str) -> None:
    """Raise `ArgumentInvalid` unless `given` is an asynchronous context manager."""
    if not isinstance(given, AbstractAsyncContextManager):
        raise ArgumentInvalid(argument, given, advice)


def checked_items(given: AsyncIterable[T]) -> AsyncIterator[T]:
    """An iterator of what a portal iterates over. Raises `ArgumentInvalid` unless it is asynchronous."""
    if not isinstance(given, AsyncIterable):
        raise ArgumentInvalid("items", given, "give what is iterated over: portal.iterate(runtime.events())")
    return aiter(given)


def log_failure(ended: Future[None]) -> None:
    """Log a runtime's error where the closing caller was interrupted, and raises the interrupt instead."""
    failure = ended.exception()
    if failure is not None:
        logger.error("the runtime ended with an error", exc_info=failure)
