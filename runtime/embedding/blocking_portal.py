"""A runtime in a synchronous program: each call blocks its thread, while the runtime runs in a thread of its own."""

import contextlib
import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from ..runtime import Runtime
from .item_arrivals import END, NOTHING_YET, ItemArrivals, Kept
from .runtime_thread import Call, RuntimeThread, Stay, checked_items, log_failure

T = TypeVar("T")
P = ParamSpec("P")

SIGNALS_SECONDS: Final = 0.2
"""The longest delay of Ctrl-C."""


class BlockingPortal:
    """Opens a runtime in its own thread; any number of other threads may call it.

            with BlockingPortal(Runtime.open("bank.db", aggregates=[Account])) as portal:
                ann = portal.runtime.actor(Account, "ann")
                receipt = portal.call(ann.ask, Deposit(100))

    Members that do not wait (`runtime.actor`, `view`, `events`, `decode`, `last_position`) may be used directly.
    Leaving the block closes the runtime in order.
    """

    def __init__(self, opening: contextlib.AbstractAsyncContextManager[Runtime]) -> None:
        self._thread = RuntimeThread(opening)
        self._kept: Kept = WeakKeyDictionary()

    def __enter__(self) -> Self:
        """Open the runtime. Raises the errors of `Runtime.open`, and `ThreadRefused`."""
        self._thread.start()
        try:
            _settled(self._thread.opened).result()
        except BaseException:
            self._thread.give_up()
            _settled(self._thread.ended)
            self._thread.join()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """Close the runtime in order. Raises the error that ended the runtime or kept it from closing in order.

        After a first Ctrl-C, before or during the closing, the runtime still closes in order; a second one leaves the
        closing to the thread.
        """
        try:
            ended = _settled(self._thread.close())
        except BaseException:
            # The interrupt may have come before the thread was told.
            ended = self._thread.close()
            if not isinstance(error, KeyboardInterrupt):
                _settled(ended)
                self._thread.join()
                log_failure(ended)
            raise
        self._thread.join()
        ended.result()

    @property
    def runtime(self) -> Runtime:
        """The runtime, from the beginning of the block on. Raises `RuntimeClosed` before that."""
        return self._thread.runtime

    @overload
    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, async or not, on the runtime's thread, and wait for its result.

        `portal.call(ann.ask, Deposit(100), idempotency_key="d-1")`. The function runs in the caller's context and sees
        the caller's contextvars. Interrupting the caller cancels the function and waits until it has ended.

        Raises the function's errors, `RuntimeClosed`, `WrongThread` on the runtime's own thread, and `StoreForked`.
        """
        call = self._thread.call(function, *args, **kwargs)
        return self._outcome(call.future, call, functools.partial(self._thread.begin, call))

    def iterate(self, items: AsyncIterable[T]) -> Iterator[T]:
        """Iterate over an asynchronous iterator, one call an item: `for batch in portal.iterate(runtime.subscribe())`.

        An item that arrived while the thread was being interrupted comes next, also from a second `iterate` of the same
        iterator. Raises the errors of `call`.
        """
        return _Items(self, checked_items(items))

    @contextlib.contextmanager
    def enter(self, manager: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """Enter an asynchronous context manager: `with portal.enter(runtime.consume("mailer")) as consumer:`.

        An error of the block is passed to the manager. Raises the manager's errors, and those of `call`.
        """
        stay = self._thread.enter(manager)
        value = self._outcome(stay.entered, stay.call, functools.partial(self._thread.begin, stay.call))
        try:
            yield value
        except Exception as failure:
            if not self._left(stay, failure):
                raise
        except BaseException:
            self._thread.cancel(stay.call)
            _settled(stay.call.future)
            raise
        else:
            self._left(stay, None)

    def _left(self, stay: Stay[Any], failure: Exception | None) -> bool:
        return self._outcome(stay.call.future, stay.call, functools.partial(self._thread.leave, stay, failure))

    def _outcome(self, future: Future[T], call: Call[Any], begin: Callable[[], object]) -> T:
        """Begin a call, and wait for a future of it.

        An interrupt of the caller, at any moment, cancels the call and waits until it has ended.
        """
        try:
            begin()
            return _settled(future).result()
        except BaseException:
            if not call.future.done():
                self._thread.cancel(call)
                _settled(call.future)
            raise


class _Items(Iterator[T], Generic[T]):
    """An iterator that may be abandoned at any time."""

    def __init__(self, portal: BlockingPortal, items: AsyncIterator[T]) -> None:
        self._portal = portal
        self._arrivals = ItemArrivals(items, portal._kept)

    def __next__(self) -> T:
        while (item := self._arrivals.take()) is NOTHING_YET:
            self._portal.call(self._arrivals.fetch)
        if item is END:
            raise StopIteration
        return item  # type: ignore[no-any-return]


def _settled(future: Future[T]) -> Future[T]:
    """Wait for a future, in short waits: a signal just before a wait is handled only after that wait."""
    while not future.done():
        with contextlib.suppress(TimeoutError):
            future.exception(SIGNALS_SECONDS)
    return future
