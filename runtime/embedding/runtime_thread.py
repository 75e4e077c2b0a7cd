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
from ...storage.errors import StoreForked
from ..errors import WrongThread
from ..runtime import Runtime
from .handover import Handover

T = TypeVar("T")

THREAD_NAME: Final = "eventsrc runtime"

logger = logging.getLogger("eventsrc.embedding")


class Call(Generic[T]):
    """A function on its way through the runtime's thread; its outcome is that of `future`."""

    def __init__(self, function: Callable[[], Any], inbox: Handover) -> None:
        self.future: Future[T] = Future()
        # Nobody cancels it but `cancel`: what has begun ends before its future does.
        self.future.set_running_or_notify_cancel()
        self._inbox = inbox
        self._function = function
        self._scope = trio.CancelScope()

    def cancel(self) -> None:
        """Have it end soon; wait for its future then. From any thread."""
        try:
            self._inbox.put(self._scope.cancel)
        except trio.RunFinishedError:
            logger.debug("the runtime had ended before a call was cancelled")

    def fail(self, error: BaseException) -> None:
        """It is not to be done, or can no longer be; does nothing where it is done."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)

    async def run(self, closed: Callable[[], RuntimeClosed]) -> None:
        """Do it, in a task of trio, and settle the future, whatever becomes of it; with `closed()` where that ends."""
        try:
            with self._scope:
                self.future.set_result(await self._result())
                return
            self.future.set_exception(CancelledError())
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

    def __init__(
        self, opening: AbstractAsyncContextManager[Runtime], variables: Callable[[], object] = lambda: None
    ) -> None:
        self.opened: Future[Runtime] = Future()
        self.ended: Future[None] = Future()
        self._opening = opening
        self._set_variables = variables
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()
        self._inbox: Handover | None = None
        self._main_scope = trio.CancelScope()
        self._closing = trio.Event()
        self._is_given_up = self._is_over = False
        self._calls: trio.Nursery | None = None
        self._failure: BaseException | None = None
        self._unsettled: set[Call[Any]] = set()

    def start(self) -> None:
        """Open the runtime; may be called once."""
        if self._thread is not None:
            raise RuntimeClosed("A portal can be entered once. Make another, with another Runtime.open(...).")
        for future in (self.opened, self.ended):
            future.set_running_or_notify_cancel()
        self._thread = threading.Thread(target=self._run, name=THREAD_NAME, daemon=True)
        self._thread.start()

    def close(self) -> Future[None]:
        """Close the runtime in order, and say when it has ended. Does nothing in a forked child."""
        if os.getpid() != self._pid:
            elsewhere: Future[None] = Future()
            elsewhere.set_result(None)
            return elsewhere
        self._tell(self._closing.set)
        return self.ended

    def join(self) -> None:
        """Wait for the last steps of the thread, once it has `ended`."""
        if self._thread is not None and os.getpid() == self._pid:
            self._thread.join()

    def give_up(self) -> None:
        """Close one that is still being opened."""
        self._is_given_up = True
        self._tell(self._main_scope.cancel)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Call[Any]:
        """Begin a call of a function, async or not, in a task of its own and in the context of whoever calls.

        Raises `RuntimeClosed`, `WrongThread` on the trio thread itself, `StoreForked`.
        """
        if self._inbox is None:
            raise RuntimeClosed("The portal was not entered yet: write `with portal:`, or `async with portal:`.")
        if os.getpid() != self._pid:
            raise StoreForked(self.opened.result()._store.path)
        if threading.current_thread() is self._thread:
            raise WrongThread("A portal", is_for_others=True, instead="the function itself")
        call: Call[Any] = Call(functools.partial(function, *args, **kwargs), self._inbox)
        context = contextvars.copy_context()
        context.run(self._set_variables)
        self._unsettled.add(call)
        call.future.add_done_callback(lambda _: self._unsettled.discard(call))
        with contextlib.suppress(trio.RunFinishedError):
            self._inbox.put(functools.partial(context.run, self._begin, call))
        if self._is_over:
            call.fail(self._closed())
        return call

    def enter(self, manager: AbstractAsyncContextManager[T]) -> Stay[T]:
        """Begin a stay in an asynchronous context. Raises what `call` does."""
        stay = Stay(manager)
        stay.call = self.call(stay.run)
        stay.call.future.add_done_callback(stay.over)
        return stay

    def leave(self, stay: Stay[Any], failure: Exception | None) -> Call[bool]:
        """End a stay; its call ends when it was left. Raises what `call` does."""
        if not stay.call.future.done():
            self.call(stay.leave, failure)
        return stay.call

    def _begin(self, call: Call[Any]) -> None:
        if self._calls is None:
            call.fail(self._closed())
        else:
            self._calls.start_soon(call.run, self._closed)

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
            calls.cancel_scope.cancel()
        if self._failure is not None:
            raise self._failure

    def _closed(self) -> RuntimeClosed:
        error = RuntimeClosed(
            "The runtime was closed before this was done. A command may have taken effect: send it again with the same "
            "idempotency key, and it takes effect once."
        )
        error.__cause__ = self._failure
        return error
