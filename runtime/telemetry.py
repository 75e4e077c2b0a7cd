"""What a runtime does, as OpenTelemetry's metrics and spans; needs the extra `telemetry`.

    async with Runtime.open("bank.db", aggregates=[Account]) as runtime:
        with telemetry(runtime):
            ...

The program chooses where they go, as for all of OpenTelemetry; without an SDK nothing is collected. What is observed is
read when the SDK collects. Each `ask` is measured, and is a span within that of whoever asks.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import trio
from opentelemetry.metrics import CallbackOptions, Meter, MeterProvider, Observation, get_meter_provider
from opentelemetry.trace import Status, StatusCode, Tracer, TracerProvider, get_tracer_provider

from ..actors.aggregates.receipt import Receipt
from ..actors.aggregates.request import Request
from ..actors.errors import Rejected
from ..storage.errors import EventSourcingError
from ..storage.names import category_of
from .runtime import Runtime

NAME: Final = "eventsrc"
SECONDS_BOUNDARIES: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@contextmanager
def telemetry(
    runtime: Runtime, *, meter_provider: MeterProvider | None = None, tracer_provider: TracerProvider | None = None
) -> Iterator[None]:
    """Tell OpenTelemetry what a runtime does, until the block ends; by default the program's own providers.

    Metrics, each with the store's path as `eventsrc.store`:

    - `eventsrc.command.duration` (s): of each `ask`, by `eventsrc.category`, `eventsrc.command` (its class) and
      `eventsrc.outcome`: "stored", "duplicate", "cancelled" or the code of its error, such as "rejected"
    - `eventsrc.events`, `eventsrc.commits`, `eventsrc.group_commits`: the newest position; since it was opened
    - `eventsrc.disk.duration` (s): what the disk takes for a group commit, of late
    - `eventsrc.aggregates.resident`; `eventsrc.sagas` by `eventsrc.state`: "running", "ready", "waiting"
    - `eventsrc.projection.lag` and `.lag.duration` (s), `eventsrc.projection.failed` (0 or 1), by
      `eventsrc.projection`

    Spans: `ask Deposit`, with stream, command id, correlation id, and of an answered one version and position.
    """
    store = {"eventsrc.store": runtime._store.path}
    meter = (meter_provider or get_meter_provider()).get_meter(NAME)
    tracer = (tracer_provider or get_tracer_provider()).get_tracer(NAME)
    observed = _Observed(runtime, store)
    observed.register(meter)
    commands = _Commands(meter, tracer, store)
    router = runtime._router
    before, router.around_ask = router.around_ask, commands.around
    try:
        yield
    finally:
        router.around_ask = before
        observed.is_over = True


class _Commands:
    """Measures each `ask`, and puts a span around it."""

    def __init__(self, meter: Meter, tracer: Tracer, attributes: Mapping[str, str]) -> None:
        self._tracer = tracer
        self._attributes = attributes
        self._durations = meter.create_histogram(
            "eventsrc.command.duration",
            unit="s",
            description="How long a command took to be answered",
            explicit_bucket_boundaries_advisory=SECONDS_BOUNDARIES,
        )

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


class _Observed:
    """What is read of a runtime when the SDK collects, in a thread of its own; nothing once it is over."""

    def __init__(self, runtime: Runtime, attributes: Mapping[str, str]) -> None:
        self.is_over = False
        self._runtime = runtime
        self._attributes = attributes

    def register(self, meter: Meter) -> None:
        """Say what there is to observe."""
        runtime = self._runtime
        counter, gauge = meter.create_observable_counter, meter.create_observable_gauge
        counter("eventsrc.events", [self._one(lambda: runtime.last_position)], "{event}", "Events in the store")
        counter("eventsrc.commits", [self._one(lambda: runtime.journal_counts[1])], "{commit}", "Commits stored")
        groups = "Transactions that commits were stored in"
        counter("eventsrc.group_commits", [self._one(lambda: runtime.journal_counts[0])], "{transaction}", groups)
        disk = "What the disk takes for a transaction, of late"
        gauge("eventsrc.disk.duration", [self._one(lambda: runtime.disk_seconds)], "s", disk)
        resident = [self._one(lambda: runtime.resident_actors)]
        up_down = meter.create_observable_up_down_counter
        up_down("eventsrc.aggregates.resident", resident, "{aggregate}", "Aggregates in memory")
        up_down("eventsrc.sagas", [self._each("state", self._sagas)], "{saga}", "Sagas that have not ended")
        gauge("eventsrc.projection.lag", [self._lag(lambda lag: lag.events)], "{event}", "Events it has not seen")
        waited = "How long the oldest of them has waited"
        gauge("eventsrc.projection.lag.duration", [self._lag(lambda lag: lag.seconds)], "s", waited)
        failed = "Whether it has failed and waits to be resumed"
        gauge("eventsrc.projection.failed", [self._lag(lambda lag: lag.state == "failed")], "1", failed)

    def _one(self, value: Callable[[], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: () if self.is_over else (Observation(value(), self._attributes),)

    def _lag(self, of: Callable[[Any], float]) -> Callable[[CallbackOptions], Iterable[Observation]]:
        lags = self._runtime.lag
        return self._each("projection", lambda: {name: of(lag) for name, lag in lags().items()})

    def _each(
        self, name: str, values: Callable[[], Mapping[str, float]]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        return lambda _: [
            Observation(value, {**self._attributes, f"eventsrc.{name}": key})
            for key, value in ({} if self.is_over else values()).items()
        ]

    def _sagas(self) -> Mapping[str, int]:
        return {} if self._runtime._sagas is None else self._runtime.saga_counts


def _outcome(error: BaseException) -> str:
    if isinstance(error, trio.Cancelled):
        return "cancelled"
    return error.code if isinstance(error, EventSourcingError) else type(error).__name__
