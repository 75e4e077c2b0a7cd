"""OpenTelemetry metrics and spans of a runtime; needs the extra `telemetry`.

    async with Runtime.open("bank.db", aggregates=[Account]) as runtime:
        with telemetry(runtime):
            ...

The program chooses the exporters, as for all of OpenTelemetry; without an SDK nothing is collected. Observed values are
read when the SDK collects. Each `ask` is measured, and is a span within the caller's span.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final
from weakref import WeakKeyDictionary

import trio

try:
    from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider
    from opentelemetry.trace import Status, StatusCode, Tracer, TracerProvider, get_tracer_provider
except ImportError as missing:
    raise ImportError("Telemetry needs OpenTelemetry: pip install 'eventsrc[telemetry]'") from missing

from ..actors.aggregates.receipt import Receipt
from ..actors.aggregates.request import Request
from ..actors.errors import Rejected
from ..storage.errors import EventSourcingError, StoreClosed
from ..storage.names import category_of
from .errors import ArgumentInvalid
from .runtime import Runtime

NAME: Final = "eventsrc"
SECONDS_BOUNDARIES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@contextmanager
def telemetry(
    runtime: Runtime, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Iterator[None]:
    """Report a runtime to OpenTelemetry until the block ends; by default to the program's own providers.

    Several runtimes may report at once, and one runtime to several providers.

    Metrics, each with the store's path as `eventsrc.store`:

    - `eventsrc.command.duration` (s): the duration of each `ask`, by `eventsrc.category`, `eventsrc.command` (its
      class) and `eventsrc.outcome`: "stored", "duplicate", "cancelled" or the code of its error, such as "rejected"
    - `eventsrc.events`: the newest position; `eventsrc.commits`, `eventsrc.group_commits`: counts since the runtime
      opened
    - `eventsrc.disk.duration` (s): how long a recent group commit takes on the disk
    - `eventsrc.aggregates.resident`; `eventsrc.sagas` by `eventsrc.state`: "running", "ready", "waiting"
    - `eventsrc.projection.lag` and `.lag.duration` (s), `eventsrc.projection.failed` (0 or 1), by `eventsrc.projection`

    Spans: `ask Deposit`, with stream, command id and correlation id, and, if answered, version and position.

    The duration is from sending to the answer, without the time that `unless=` and `wait_for=` take. Commands that
    handlers and steps send, `delete` and `ask_from_thread` are measured as well. `tell`, `ask_many` and transactions
    count only as commits.
    """
    if not isinstance(runtime, Runtime):
        raise ArgumentInvalid(
            "runtime", runtime, "give the runtime that was opened; that of a portal is portal.runtime"
        )
    meters = _meters_of(meter_provider)
    tracer = (tracer_provider or get_tracer_provider()).get_tracer(NAME)
    around = _Commands(meters.durations, tracer, _store(runtime)).around
    router = runtime._router
    meters.observe(runtime)
    router.around_asks = (*router.around_asks, around)
    try:
        yield
    finally:
        router.around_asks = tuple(each for each in router.around_asks if each != around)
        meters.let_go(runtime)


def _store(runtime: Runtime) -> dict[str, str]:
    return {"eventsrc.store": runtime._store.path}


class _Commands:
    """Measures each `ask`, and puts a span around it."""

    def __init__(self, durations: Histogram, tracer: Tracer, attributes: Mapping[str, str]) -> None:
        self._durations = durations
        self._tracer = tracer
        self._attributes = attributes

    @contextmanager
    def around(self, stream: str, request: Request) -> Iterator[Callable[[Receipt], None]]:
        """Surround one request; yields a function to call with the receipt."""
        command = type(request.command).__name__
        facts = {
            **self._attributes,
            "eventsrc.stream": stream,
            "eventsrc.command_id": request.command_id,
            "eventsrc.correlation_id": request.correlation_id,
        }
        outcome = "stored"
        started = time.perf_counter()
        with self._tracer.start_as_current_span(
            f"ask {command}", attributes=facts, record_exception=False, set_status_on_exception=False
        ) as span:

            def answered(receipt: Receipt) -> None:
                nonlocal outcome
                outcome = "duplicate" if receipt.duplicate else "stored"
                span.set_attributes({"eventsrc.version": receipt.version, "eventsrc.position": receipt.position})

            try:
                yield answered
            except BaseException as error:
                outcome = _outcome(error)
                span.set_attribute("error.type", outcome)
                # A refusal is an answer, and a cancelled caller wants none.
                if not isinstance(error, Rejected | trio.Cancelled):
                    span.record_exception(error)
                    span.set_status(Status(StatusCode.ERROR, str(error)))
                raise
            finally:
                seconds = time.perf_counter() - started
                by = {"category": category_of(stream), "command": command, "outcome": outcome}
                named = {f"eventsrc.{name}": value for name, value in by.items()}
                self._durations.record(seconds, {**self._attributes, **named})


class _Meters:
    """The metrics of one meter provider, made once: an SDK asks only the first callbacks of a metric.

    Values are read from each runtime when the SDK collects, in a thread of the SDK's.
    """

    def __init__(self, provider: MeterProvider) -> None:
        self._runtimes: tuple[Runtime, ...] = ()
        meter = provider.get_meter(NAME)
        self.durations = meter.create_histogram(
            "eventsrc.command.duration",
            unit="s",
            description="How long a command took to be answered",
            explicit_bucket_boundaries_advisory=SECONDS_BOUNDARIES,
        )
        self._register(meter)

    def observe(self, runtime: Runtime) -> None:
        """Add a runtime to the observed ones."""
        with _lock:
            self._runtimes = (*self._runtimes, runtime)

    def let_go(self, runtime: Runtime) -> None:
        """Stop observing a runtime; each call undoes one call of `observe`."""
        with _lock:
            index = self._runtimes.index(runtime)
            self._runtimes = self._runtimes[:index] + self._runtimes[index + 1 :]

    def _register(self, meter: Meter) -> None:
        """Register the observed metrics."""
        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        counter("eventsrc.events", [self._one(lambda of: of.last_position)], "{event}", "Events in the store")
        counter("eventsrc.commits", [self._one(lambda of: of.journal_counts[1])], "{commit}", "Commits stored")
        groups = "Transactions that commits were stored in"
        counter("eventsrc.group_commits", [self._one(lambda of: of.journal_counts[0])], "{transaction}", groups)
        disk = "What the disk takes for a transaction, of late"
        gauge("eventsrc.disk.duration", [self._one(lambda of: of.disk_seconds)], "s", disk)
        resident = [self._one(lambda of: of.resident_actors)]
        up_down = meter.create_observable_up_down_counter
        up_down("eventsrc.aggregates.resident", resident, "{aggregate}", "Aggregates in memory")
        up_down("eventsrc.sagas", [self._each("state", _sagas)], "{saga}", "Sagas that have not ended")
        gauge("eventsrc.projection.lag", [self._lag(lambda lag: lag.events)], "{event}", "Events it has not seen")
        waited = "How long the oldest of them has waited"
        gauge("eventsrc.projection.lag.duration", [self._lag(lambda lag: lag.seconds)], "s", waited)
        failed = "Whether it has failed and waits to be resumed"
        gauge("eventsrc.projection.failed", [self._lag(lambda lag: lag.state == "failed")], "1", failed)

    def _one(self, value: Callable[[Runtime], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return self._observed(lambda runtime: [Observation(value(runtime), _store(runtime))])

    def _lag(self, of: Callable[[Any], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return self._each("projection", lambda runtime: {name: of(lag) for name, lag in runtime.lag().items()})

    def _each(
        self, name: str, values: Callable[[Runtime], Mapping[str, float]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return self._observed(
            lambda runtime: [
                Observation(value, {**_store(runtime), f"eventsrc.{name}": key})
                for key, value in values(runtime).items()
            ]
        )

    def _observed(
        self, of: Callable[[Runtime], list[Observation]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def observed(_: CallbackOptions) -> Iterable[Observation]:
            found: list[Observation] = []
            for runtime in dict.fromkeys(self._runtimes):
                with suppress(StoreClosed):  # the runtime closed before the block ended
                    found += of(runtime)
            return found

        return observed


_lock: Final = threading.Lock()
_meters: Final[WeakKeyDictionary[object, _Meters]] = WeakKeyDictionary()
"""By provider, as the SDK keeps the metrics themselves: metrics live exactly as long as their provider."""


def _meters_of(provider: MeterProvider | None) -> _Meters:
    own = get_meter_provider()
    # The program's own provider becomes another object once it is set; metrics made before go over to it.
    key = get_meter_provider if provider is None or provider is own else provider
    with _lock:
        if key not in _meters:
            _meters[key] = _Meters(provider or own)
        return _meters[key]


def _sagas(runtime: Runtime) -> Mapping[str, int]:
    return {} if runtime._sagas is None else runtime.saga_counts


def _outcome(error: BaseException) -> str:
    if isinstance(error, trio.Cancelled):
        return "cancelled"
    return error.code if isinstance(error, EventSourcingError) else type(error).__name__
