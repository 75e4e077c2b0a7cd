"""What a runtime does, as OpenTelemetry's metrics and spans; needs the extra `telemetry`.

    async with Runtime.open("bank.db", aggregates=[Account]) as runtime:
        with telemetry(runtime):
            ...

The program chooses where they go, as for all of OpenTelemetry; without an SDK nothing is collected. What is observed is
read when the SDK collects. Each `ask` is measured, and is a span within that of whoever asks.
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
from .runtime import Runtime

NAME: Final = "eventsrc"
SECONDS_BOUNDARIES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@contextmanager
def telemetry(
    runtime: Runtime, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Iterator[None]:
    """Tell OpenTelemetry what a runtime does, until the block ends; by default the program's own providers.

    Several runtimes may be told of at once, and one to several providers.

    Metrics, each with the store's path as `eventsrc.store`:

    - `eventsrc.command.duration` (s): of each `ask`, by `eventsrc.category`, `eventsrc.command` (its class) and
      `eventsrc.outcome`: "stored", "duplicate", "cancelled" or the code of its error, such as "rejected"
    - `eventsrc.events`, `eventsrc.commits`, `eventsrc.group_commits`: the newest position; since it was opened
    - `eventsrc.disk.duration` (s): what the disk takes for a group commit, of late
    - `eventsrc.aggregates.resident`; `eventsrc.sagas` by `eventsrc.state`: "running", "ready", "waiting"
    - `eventsrc.projection.lag` and `.lag.duration` (s), `eventsrc.projection.failed` (0 or 1), by
      `eventsrc.projection`

    Spans: `ask Deposit`, with stream, command id, correlation id, and of an answered one version and position.

    Measured is from sending to the answer, without what `unless=` and `wait_for=` take; so are commands of handlers and
    of steps, `delete` and `ask_from_thread`. `tell`, `ask_many` and transactions are counted as commits alone.
    """
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
        """What is told the receipt of a request, if there is one."""
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
                # A refusal is an answer, and who is cancelled wants none.
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
    """The metrics of one meter provider: made once, since an SDK asks the first callbacks of a metric, and no others.

    What is observed is read of each runtime when the SDK collects, in a thread of its own.
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
        """Observe a runtime, too."""
        with _lock:
            self._runtimes = (*self._runtimes, runtime)

    def let_go(self, runtime: Runtime) -> None:
        """Observe it no more, once for each time that it was to be."""
        with _lock:
            index = self._runtimes.index(runtime)
            self._runtimes = self._runtimes[:index] + self._runtimes[index + 1 :]

    def _register(self, meter: Meter) -> None:
        """Say what there is to observe."""
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
                with suppress(StoreClosed):  # it was closed before the block has ended
                    found += of(runtime)
            return found

        return observed


_lock: Final = threading.Lock()
_meters: Final[WeakKeyDictionary[object, _Meters]] = WeakKeyDictionary()
"""By their providers, as the metrics themselves are in the SDK: nothing else lasts as long as they."""


def _meters_of(provider: MeterProvider | None) -> _Meters:
    own = get_meter_provider()
    # The program's own one is another object as soon as it is set; what was made before goes over to it.
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
