"""A runtime in a synchronous program: calls block the thread that makes them, while the runtime goes on in its own."""

import contextlib
import functools
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Final, Generic, ParamSpec, Self, TypeVar, overload
from weakref import WeakKeyDictionary

from ..runtime import Runtime
from .item_arrivals import END, NOTHING_YET, ItemArrivals, Kept
from .runtime_thread import Call, RuntimeThread, Stay, log_failure

T = TypeVar("T")
P = ParamSpec("P")

SIGNALS_SECONDS: Final = 0.2
"""How long Ctrl-C may have to wait."""


class BlockingPortal:
    """Opens a runtime in a thread of its own; other threads, any number of them, have it do things.

        with BlockingPortal(Runtime.open("bank.db", aggregates=[Account])) as portal:
            ann = portal.runtime.actor(Account, "ann")
            receipt = portal.call(ann.ask, Deposit(100))

    What does not wait (`runtime.actor`, `view`, `events`, `decode`, `last_position`) may be used directly. Leaving the
    block closes the runtime in order.
    """

    def __init__(self, opening: contextlib.AbstractAsyncContextManager[Runtime]) -> None:
        self._thread = RuntimeThread(opening)
        self._kept: Kept = WeakKeyDictionary()

    def __enter__(self) -> Self:
        """Raises what `Runtime.open` does, and `ThreadRefused`."""
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
        """Raises what ended the runtime, if anything did, or kept it from being closed in order.

        The first Ctrl-C has it closed in order, also where it comes meanwhile; the second one leaves it to the thread.
        """
        try:
            ended = _settled(self._thread.close())
        except BaseException:
            # Interrupted, maybe before the thread was told.
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
        """There from the beginning of the block. Raises `RuntimeClosed` before."""
        return self._thread.runtime

    @overload
    def call(self, function: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T: ...

    @overload
    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T: ...

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function, async or not, on the runtime's thread, and wait for what it returns.

        `portal.call(ann.ask, Deposit(100), idempotency_key="d-1")`. It runs in the context of the caller, whose
        contextvars it sees. A caller that is interrupted cancels it, and waits until it has ended.

        Raises what it raises, `RuntimeClosed`, `WrongThread` on the runtime's own thread, and `StoreForked`.
        """
        call = self._thread.call(function, *args, **kwargs)
        return self._outcome(call.future, call, functools.partial(self._thread.begin, call))

    def iterate(self, items: AsyncIterable[T]) -> Iterator[T]:
        """What an asynchronous iterator gives, one call for each: `for batch in portal.iterate(runtime.subscribe())`.

        What came in the moment in which a thread was interrupted comes next, also where the same is iterated over once
        more. Raises what `call` does.
        """
        return _Items(self, aiter(items))

    @contextlib.contextmanager
    def enter(self, manager: contextlib.AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context: `with portal.enter(runtime.consume("mailer")) as consumer:`.

        Raises what it raises, and what `call` does. While its block fails, it is left with that error.
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
        """Begin, and wait for a future of a call.

        Whoever is interrupted meanwhile, at any moment, cancels the call, and waits until it has ended.
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
    """May be left at any time."""

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
    """Wait for it, in pieces: a signal that comes just before a wait is only handled after that."""
    while not future.done():
        with contextlib.suppress(TimeoutError):
            future.exception(SIGNALS_SECONDS)
    return future
