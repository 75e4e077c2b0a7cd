"""What a runtime does is told to OpenTelemetry."""

from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from bank_domain import Account, Break, Deposit, Slow, Wait
from bank_views import Balances
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from eventsrc import BlockingPortal, HandlerFailed, Limits, MemoryLog, Rejected, Runtime, Saga, SagaContext, step
from eventsrc.runtime.telemetry import telemetry


class Sdk:
    """Collects in memory."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meters = MeterProvider(metric_readers=[self._reader])
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))

    def points(self, name: str) -> list[tuple[dict[str, Any], Any]]:
        """What was collected of a metric: (attributes but the store, point)."""
        data = self._reader.get_metrics_data()
        return [
            ({key.removeprefix("eventsrc."): each for key, each in (point.attributes or {}).items()}, point)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == f"eventsrc.{name}"
            for point in metric.data.data_points
        ]

    def values(self, name: str, by: str = "store") -> dict[str, Any]:
        """The value of each, by one of its attributes."""
        return {attributes[by]: point.value for attributes, point in self.points(name)}

    @property
    def spans(self) -> list[ReadableSpan]:
        """Those that have ended."""
        return list(self._exporter.get_finished_spans())


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    sdk = Sdk()
    yield sdk
    sdk.meters.shutdown()
    sdk.tracers.shutdown()


def tell(runtime: Runtime, sdk: Sdk) -> Any:
    return telemetry(runtime, meter_provider=sdk.meters, tracer_provider=sdk.tracers)


async def test_each_ask_is_measured_by_its_command_and_outcome(sdk: Sdk) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        with tell(runtime, sdk):
            for _ in range(2):
                await ann.ask(Deposit(1), idempotency_key="once")
            await ann.ask(Deposit(1))
            with pytest.raises(Rejected):
                await ann.ask(Deposit(0))
            with pytest.raises(HandlerFailed):
                await ann.ask(Break())
        await ann.ask(Deposit(1))
        found = sdk.points("command.duration")
        assert {(each["command"], each["outcome"]): point.count for each, point in found} == {
            ("Deposit", "stored"): 2,
            ("Deposit", "duplicate"): 1,
            ("Deposit", "rejected"): 1,
            ("Break", "handler_failed"): 1,
        }
        assert all(each["category"] == "account" and point.sum > 0 for each, point in found)


async def test_each_ask_is_a_span_within_that_of_whoever_asks(sdk: Sdk) -> None:
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        tracer = sdk.tracers.get_tracer("program")
        with tell(runtime, sdk):
            with tracer.start_as_current_span("request"):
                receipt = await ann.ask(Deposit(1), correlation_id="conversation")
            with pytest.raises(Rejected):
                await ann.ask(Deposit(0))
            with pytest.raises(HandlerFailed):
                await ann.ask(Break())
        stored = await anext(runtime.events(correlation_id="conversation"))
    answered, request, refused, failed = sdk.spans
    assert (answered.name, request.name) == ("ask Deposit", "request")
    assert answered.parent == request.context
    attributes = dict(answered.attributes or {})
    assert attributes["eventsrc.correlation_id"] == "conversation"
    assert attributes["eventsrc.command_id"] == stored.causation_id
    assert attributes["eventsrc.stream"] == "account-ann"
    assert (attributes["eventsrc.version"], attributes["eventsrc.position"]) == (receipt.version, receipt.position)
    assert answered.status.status_code is refused.status.status_code is StatusCode.UNSET, "a refusal is an answer"
    assert (refused.attributes or {})["error.type"] == "rejected"
    assert failed.status.status_code is StatusCode.ERROR
    assert [each.name for each in failed.events] == ["exception"]


async def test_who_is_cancelled_is_told_as_such(autojump_clock: trio.testing.MockClock, sdk: Sdk) -> None:
    limits = Limits(command_timeout_seconds=1_000, shutdown_seconds=1_000)
    async with Runtime.open(MemoryLog(), aggregates=[Slow], limits=limits) as runtime:
        with tell(runtime, sdk), trio.move_on_after(1):
            await runtime.actor(Slow, "s").ask(Wait())
        ((attributes, _),) = sdk.points("command.duration")
        assert attributes["outcome"] == "cancelled"
        assert sdk.spans[0].status.status_code is StatusCode.UNSET


class Patience(Saga, signals=["go"]):
    @step
    async def wait(self, ctx: SagaContext) -> None:
        await ctx.approval("go")


async def test_what_a_runtime_holds_is_observed_when_it_is_collected(tmp_path: Path, sdk: Sdk) -> None:
    path = tmp_path / "store"
    everything: dict[str, Any] = {"aggregates": [Account], "projections": [Balances], "sagas": [Patience]}
    async with Runtime.open(path, **everything) as runtime:
        with tell(runtime, sdk):
            receipt = await runtime.actor(Account, "ann").ask(Deposit(1), wait_for=[Balances])
            assert sdk.values("events") == {str(path): receipt.position}
            assert sdk.values("commits") == sdk.values("group_commits") == {str(path): 1}
            assert sdk.values("disk.duration")[str(path)] > 0
            assert sdk.values("aggregates.resident") == {str(path): 1}
            # As an SDK would, in a thread of its own.
            lag = await trio.to_thread.run_sync(sdk.values, "projection.lag", "projection")
            assert lag["balances"] == 0
            assert sdk.values("projection.failed", "projection")["balances"] == 0
            assert sdk.values("projection.lag.duration", "projection")["balances"] == 0
            await runtime.start_saga(Patience(), key="1")
            with trio.fail_after(60):
                while sdk.values("sagas", "state")["waiting"] != 1:
                    await trio.sleep(0.001)
        assert sdk.points("events") == sdk.points("projection.lag") == sdk.points("sagas") == [], "it is over"


async def test_runtimes_are_observed_each_for_itself_at_once_and_one_after_the_other(tmp_path: Path, sdk: Sdk) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    async with Runtime.open(first, aggregates=[Account]) as one, Runtime.open(second, aggregates=[Account]) as other:
        with tell(one, sdk):
            await one.actor(Account, "ann").ask(Deposit(1))
            with tell(other, sdk):
                assert sdk.values("events") == {first: 1, second: 0}
            assert sdk.values("events") == {first: 1}
        with tell(other, sdk):
            assert sdk.values("events") == {second: 0}
    async with Runtime.open(first, aggregates=[Account]) as opened_again:
        with tell(opened_again, sdk):
            assert sdk.values("events") == {first: 1}


async def test_several_providers_are_told_each_until_its_own_block_ends(sdk: Sdk) -> None:
    others = Sdk()
    async with Runtime.open(MemoryLog(), aggregates=[Account]) as runtime:
        ann = runtime.actor(Account, "ann")
        blocks = tell(runtime, sdk), tell(runtime, others)
        for block in blocks:
            block.__enter__()
        await ann.ask(Deposit(1))
        for block in blocks:  # the one that began first ends first
            block.__exit__(None, None, None)
            await ann.ask(Deposit(1))
    assert (len(sdk.spans), len(others.spans)) == (1, 2)


async def test_a_runtime_that_was_closed_before_is_observed_no_more(
    tmp_path: Path, sdk: Sdk, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "store"
    async with Runtime.open(path, aggregates=[Account]) as runtime:
        await runtime.actor(Account, "ann").ask(Deposit(1))
    async with AsyncExitStack() as stack:
        runtime = await stack.enter_async_context(Runtime.open(path, aggregates=[Account], projections=[Balances]))
        with tell(runtime, sdk):
            await runtime.projections.pause(Balances)
            await runtime.actor(Account, "ann").ask(Deposit(1))
            assert sdk.values("projection.lag", "projection")["balances"] > 0
            await stack.aclose()
            assert sdk.points("projection.lag.duration") == []
    assert not caplog.records


def test_so_it_is_through_a_portal_with_the_span_of_the_caller(sdk: Sdk) -> None:
    with BlockingPortal(Runtime.open(MemoryLog(), aggregates=[Account])) as portal, tell(portal.runtime, sdk):
        with sdk.tracers.get_tracer("program").start_as_current_span("request") as request:
            portal.call(portal.runtime.actor(Account, "ann").ask, Deposit(1))
        assert sdk.spans[0].parent == request.get_span_context()
