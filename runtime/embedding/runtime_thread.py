"""The thread that a runtime lives in where the program does not run on trio, and what other threads have it do.

Modelled on anyio's `BlockingPortal`, with two differences: while it closes, calls go on until the runtime has drained
its mailboxes, so that what is stored is answered; and whoever gives up on a call waits until it has ended.
"""

import contextlib
import contextvars
import functools
import inspect
import logging
import os
import threading
from collections.abc import Callable
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
"""How long a thread that may have started is waited for."""

logger = logging.getLogger("eventsrc.embedding")


class Call(Generic[T]):
    """A function on its way through the runtime's thread; its outcome is that of `future`."""

    def __init__(self, function: Callable[[], Any], context: contextvars.Context) -> None:
        self.future: Future[T] = Future()
        # Nobody cancels it but `RuntimeThread.cancel`: what has begun ends before its future does.
        self.future.set_running_or_notify_cancel()
        self.context: Final = context
        self._function = function
        self._scope = trio.CancelScope()
        self._has_begun = self._is_closed = False

    def fail(self, error: BaseException) -> None:
        """It is not to be done, or can no longer be; does nothing where it is done."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    # --- on the trio thread ---

    def begin(self, calls: trio.Nursery, closed: Callable[[], RuntimeClosed]) -> None:
        """Begin it in a task of its own; does nothing where it was cancelled before."""
        if not self.future.done():
            self._has_begun = True
            calls.start_soon(self.run, closed)

    def cancel(self) -> None:
        """Have it end soon."""
        self._scope.cancel()
        if not self._has_begun:
            # Whoever calls was interrupted before it was sent.
            self.fail(CancelledError())

    def close(self) -> None:
        """The same, since the runtime ends."""
        self._is_closed = True
        self._scope.cancel()

    async def run(self, closed: Callable[[], RuntimeClosed]) -> None:
        """Do it, and settle the future, whatever becomes of it; with `closed()` where the runtime ends."""
        try:
            with self._scope:
                self.future.set_result(await self._result())
                return
            self.future.set_exception(closed() if self._is_closed else CancelledError())
        except trio.Cancelled:
            self.future.set_exception(closed())
            raise
        except BaseException as error:
            # Also SystemExit: what it ends is the program of whoever called.
            self.future.set_exception(error)

    async def _result(self) -> Any:
        result = self._function()
        return await result if inspect.isawaitable(result) else result


class Stay(Generic[T]):
    """An asynchronous context that is entered and left by one task of trio, as trio asks for.

    `entered` has what it gives, or the error that it could not be entered for; the outcome of `call` is whether it
    swallowed the failure of its block.
    """

    call: Call[bool]

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self.entered: Future[T] = Future()
        self._manager = manager
        self._left = trio.Event()
        self._failure: Exception | None = None

    async def run(self) -> bool:
        """Enter it, stay until told to leave, and leave it."""
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
        """Tell it that its block has ended, or failed. On the trio thread."""
        self._failure = failure
        self._left.set()

    def over(self, future: Future[bool]) -> None:
        """Its task has ended, or never began."""
        if not self.entered.done():
            error = future.exception()
            assert error is not None, "what has not failed was entered"
            self.entered.set_exception(error)


class RuntimeThread:
    """Runs trio with one runtime in it; `opening` is what `Runtime.open` returns.

    `opened` has the runtime once it is there, or the error that it could not be opened for; `ended` is settled when the
    runtime is closed, with the error that it ended with, if any. It is a daemon: a program that ends without closing it
    does not wait. Then what was answered is on disk, as after a kill.
    """

    def __init__(self, opening: AbstractAsyncContextManager[Runtime]) -> None:
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
        """Open the runtime; may be called once. `variables` sets contextvars that hold for it and for every call.

        Raises `ThreadRefused`, `RuntimeClosed` the second time.
        """
        if self._thread is not None:
            raise RuntimeClosed("A portal can be entered once. Make another, with another Runtime.open(...).")
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()
        self._set_variables = variables
        # The process that it lives in, which may be a child of the one that the portal was made in.
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise ThreadRefused(str(error)) from error
        except BaseException:
            # Interrupted, maybe when it had begun; nothing tells whether it has.
            self.give_up()
            with contextlib.suppress(TimeoutError):
                self.ended.exception(INTERRUPTED_START_SECONDS)
            raise

    def close(self) -> Future[None]:
        """Close the runtime in order, and say when it has ended. Does nothing in a forked child."""
        if self._is_elsewhere:
            elsewhere: Future[None] = Future()
            elsewhere.set_result(None)
            return elsewhere
        self._tell(self._closing.set)
        return self.ended

    def join(self) -> None:
        """Wait for the last steps of the thread, once it has `ended`."""
        if self._thread is not None and not self._is_elsewhere:
            self._thread.join()

    def give_up(self) -> None:
        """Close one that is still being opened."""
        self._is_given_up = True
        self._tell(self._main_scope.cancel)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call[Any]:
        """A call of a function, async or not, in a task of its own and in the context of whoever calls; `begin` it.

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
        """Begin it. Whoever is interrupted meanwhile cancels it."""
        if self._is_over:
            call.fail(self._not_begun())
        else:
            self._send(call, functools.partial(call.context.run, self._begin, call))

    def cancel(self, call: Call[Any]) -> None:
        """Have it end soon, begun or not; wait for its future then. From any thread."""
        if self._is_elsewhere:
            # Nobody else would ever tell.
            call.fail(CancelledError())
        else:
            self._send(call, call.cancel)

    def enter(self, manager: AbstractAsyncContextManager[T]) -> Stay[T]:
        """A stay in an asynchronous context; begin its call. Raises what `call` does."""
        stay = Stay(manager)
        stay.call = self.call(stay.run)
        stay.call.future.add_done_callback(stay.over)
        return stay

    def leave(self, stay: Stay[Any], failure: Exception | None) -> None:
        """End a stay; its call ends when it was left. In a forked child only the block ends."""
        if not self._is_elsewhere:
            self._send(stay.call, functools.partial(stay.leave, failure))
        elif not stay.call.future.done():
            stay.call.future.set_result(False)

    @property
    def runtime(self) -> Runtime:
        """Also when it is closed. Raises `RuntimeClosed` before it is opened, or why it could not be."""
        self._check_entered()
        return self.opened.result()

    def _check_entered(self) -> None:
        if not self.opened.done():
            raise RuntimeClosed("The portal was not entered yet: write `with portal:`, or `async with portal:`.")

    @property
    def _is_elsewhere(self) -> bool:
        return os.getpid() != self._pid

    def _send(self, call: Call[Any], function: Callable[[], object]) -> None:
        """Have the trio thread do something for a call, which ends with the runtime at the latest."""
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
            # Sent when trio had ended, or trio itself has failed: nobody else will tell those who wait.
            call.fail(self._closed())
        if failure is None:
            self.ended.set_result(None)
        else:
            self.ended.set_exception(failure)

    async def _main(self) -> None:
        self._inbox = Handover(trio.lowlevel.current_trio_token().run_sync_soon)
        if self._is_given_up:
            # Before it could be told.
            self._main_scope.cancel()
        async with trio.open_nursery() as calls:
            try:
                with self._main_scope:
                    async with self._opening as runtime:
                        self._calls = calls
                        self.opened.set_result(runtime)
                        await self._closing.wait()
            except BaseException as error:
                # Raised again outside of the nursery, which would wrap it in a group.
                self._failure = error
            self._calls = None
            # Each by its own scope, which takes all that it ends out of what a nursery of its raises.
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


def log_failure(ended: Future[None]) -> None:
    """What a runtime ended with, where whoever closed it was interrupted, and raises that."""
    failure = ended.exception()
    if failure is not None:
        logger.error("the runtime ended with an error", exc_info=failure)
