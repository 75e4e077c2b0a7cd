"""Sagas from the command line: listed, their timelines, and steered."""

import re
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from bank_domain import Account, Deposit
from bank_views import Balances
from command_cases import eventsrc, one, rows

from eventsrc import Limits, Retry, Runtime, Saga, SagaContext, step

QUICK = Limits(restart_backoff_seconds=0.001, restart_backoff_seconds_max=0.002)
open_store = partial(Runtime.open, aggregates=[Account], projections=[Balances], limits=QUICK)


class Stubborn(Saga, signals=["go"]):
    """Waits for a signal, and cannot be undone as long as it is broken."""

    note: str = ""
    is_broken = True

    @step(compensation="undo", compensation_retry=Retry(attempts=1))
    async def take(self, ctx: SagaContext) -> None:
        await ctx.ask(Account, ctx.key, Deposit(1))

    @step()
    async def wait(self, ctx: SagaContext) -> None:
        self.note = await ctx.approval("go")
        if self.note == "fail":
            raise ValueError("told to fail")

    async def undo(self, ctx: SagaContext) -> None:
        if Stubborn.is_broken:
            raise OSError("no route")


class Patient(Saga, signals=["go"]):
    """Remembers what came with its signal."""

    heard: list[Any] = attrs.field(factory=list)

    @step
    async def wait(self, ctx: SagaContext) -> None:
        self.heard.append(await ctx.approval("go"))


@pytest.mark.parametrize(
    ("arguments", "payload"),
    [(["NaN"], "NaN"), (["3"], 3), (['"\\ud800"'], '"\\ud800"'), (["{"], "{"), ([], None)],
)
async def test_what_comes_with_a_signal_is_json_or_a_text(tmp_path: Path, arguments: list[str], payload: Any) -> None:
    async with Runtime.open(tmp_path, sagas=[Patient], limits=QUICK) as runtime:
        saga = await runtime.start_saga(Patient(), key="a")
        assert (await one("sagas", tmp_path, saga.id, "signal", "go", *arguments))["ok"]
        assert (await saga.wait(timeout=10)).saga.heard == [payload]


async def test_what_is_no_unicode_is_refused_before_it_is_asked(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, sagas=[Patient], limits=QUICK) as runtime:
        saga = await runtime.start_saga(Patient(), key="a")
        for arguments in (["signal", "\udcff"], ["signal", "go", "\udcff"], ["abandon", "--reason", "\udcff"]):
            code, out, err = await eventsrc("sagas", tmp_path, saga.id, *arguments)
            assert (code, out) == (1, "")
            assert "it is not valid Unicode" in err
        await saga.signal("go")
        assert (await saga.wait(timeout=10)).state == "completed"


async def test_sagas_are_listed_and_steered(tmp_path: Path) -> None:
    open_it = partial(Runtime.open, tmp_path, aggregates=[Account], sagas=[Stubborn], limits=QUICK)
    async with open_it() as runtime:
        for key in ("a", "b", "c", "d"):
            await runtime.start_saga(Stubborn(), key=key)
        with trio.fail_after(10):
            while await runtime.sagas(state="waiting").count() < 4:
                await trio.lowlevel.checkpoint()
        listed = await rows("sagas", tmp_path)
        assert [(row["id"], row["state"], row["step"]) for row in listed] == [
            (f"saga_stubborn-{key}", "waiting", "wait") for key in "abcd"
        ]
        assert (await one("sagas", tmp_path, "saga_stubborn-a", "signal", "go", '"fine"'))["ok"]
        assert (await runtime.saga(Stubborn, "a").wait(timeout=10)).saga.note == "fine"
        code, out, _ = await eventsrc("sagas", tmp_path, "saga_stubborn-a", "signal", "go", "again")
        assert (code, "is completed: what was asked of it comes too late" in out) == (1, True)
        for key in "bcd":
            assert (await one("sagas", tmp_path, f"saga_stubborn-{key}", "signal", "go", "fail"))["ok"]
            assert (await runtime.saga(Stubborn, key).wait(timeout=10)).state == "parked"
        assert [row["id"][-1] for row in await rows("sagas", tmp_path, "--state", "parked")] == ["b", "c", "d"]
        Stubborn.is_broken = False
        for key, action, state in (("b", "retry", "compensated"), ("c", "skip", "compensated")):
            asked = await one("sagas", tmp_path, f"saga_stubborn-{key}", action, "--reason", "repaired")
            assert asked["ok"]
            assert (await runtime.saga(Stubborn, key).wait(timeout=10)).state == state
        code, out, _ = await eventsrc("sagas", tmp_path, "saga_stubborn-b", "retry", "--reason", "more")
        assert (code, "is compensated, not parked" in out) == (1, True)
    answer = await one("sagas", tmp_path, "saga_stubborn-d", "abandon", "--reason", "lost")
    assert answer["answer"].endswith("abandon of saga_stubborn-d will be done when a runtime opens the store")
    async with open_it() as runtime:
        assert (await runtime.saga(Stubborn, "d").wait(timeout=10)).state in ("parked", "abandoned")
        with trio.fail_after(60):
            while (await runtime.saga(Stubborn, "d").status()).state != "abandoned":
                await trio.sleep(0.01)


async def test_the_timeline_of_a_saga_tells_what_it_did(tmp_path: Path) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], sagas=[Stubborn]) as runtime:
        saga = await runtime.start_saga(Stubborn(), key="t")
        with trio.fail_after(10):
            while (await saga.status()).state != "waiting":
                await trio.lowlevel.checkpoint()
        await saga.signal("go", "fine")
        await saga.wait(timeout=10)
    shown = await one("sagas", tmp_path, "saga_stubborn-t")
    assert (shown["id"], shown["state"]) == ("saga_stubborn-t", "completed")
    assert [line["what"] for line in shown["timeline"] if line["what"] != "signalled"] == [
        "started",
        *("step begun", "step done"),
        *("step begun", "wait begun", "wait over", "step done"),
        "completed",
    ]
    done = next(line for line in shown["timeline"] if line["what"] == "step done")
    assert (done["of"], done["seconds"] >= 0) == ("take", True)
    code, out, _ = await eventsrc("sagas", tmp_path, "saga_stubborn-t")
    assert code == 0
    assert "saga_stubborn-t: completed" in out
    assert "signal go, payload" in out
    code, _, error = await eventsrc("sagas", tmp_path, "saga_stubborn-none")
    assert (code, "There is no saga 'saga_stubborn-none'" in error) == (1, True)
    code, _, error = await eventsrc("sagas", tmp_path, "saga_stubborn-t", "abandon")
    assert (code, error) == (2, "eventsrc: say why: abandon --reason TEXT; it is recorded\n")
    code, _, error = await eventsrc("sagas", tmp_path, "saga_stubborn-t", "skip", "--reason", " ")
    assert (code, error) == (2, "eventsrc: say why: skip --reason TEXT; it is recorded\n")
    assert await eventsrc("sagas", tmp_path, "--state", "parked") == (0, "none\n", "")
    code, _, error = await eventsrc("sagas", tmp_path, "--state", "praked")
    assert (code, "invalid choice: 'praked'" in error, "parked" in error) == (2, True, True)


class Eventful(Saga):
    """Does what a timeline can show: an effect that fails at first, a wait, and a step that fails for good."""

    @step(compensation="undo", retry=Retry(attempts=2, backoff_seconds=0.001))
    async def charge(self, ctx: SagaContext) -> None:
        async def gateway() -> str:
            if ctx.attempt == 1:
                raise OSError("no route")
            return "payment-7"

        await ctx.effect("pay", gateway)

    @step()
    async def rest(self, ctx: SagaContext) -> None:
        await ctx.sleep(seconds=0.01)
        raise ValueError("told to fail")

    async def undo(self, ctx: SagaContext) -> None:
        await ctx.effect("refund", str)


async def test_the_timeline_of_a_saga_has_attempts_effects_waits_durations_and_errors(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with Runtime.open(tmp_path, aggregates=[Account], sagas=[Eventful]) as runtime:
        await (await runtime.start_saga(Eventful(), key="t")).wait(timeout=10)
    shown = await one("sagas", tmp_path, "saga_eventful-t")
    assert (shown["state"], shown["error"]) == ("compensated", "ValueError: told to fail")
    assert "step rest of saga_eventful-t failed: ValueError: told to fail" in caplog.messages
    details = [re.sub(r", retry_at [^,]*", "", line["details"]) for line in shown["timeline"]]
    lines = [(line["what"], line["of"], text) for line, text in zip(shown["timeline"], details, strict=True)][1:]
    failed = ("effect failed", "charge/pay", "error OSError: no route")
    assert lines == [
        *(("step begun", "charge", "attempt 1"), ("effect begun", "charge/pay", ""), failed),
        ("step failed", "charge", "attempt 1, error OSError: no route, took_effect true"),
        *(("step begun", "charge", "attempt 2"), ("effect begun", "charge/pay", "")),
        *(("effect done", "charge/pay", "result payment-7"), ("step done", "charge", "")),
        *(("step begun", "rest", "attempt 1"), shown_wait(shown), ("wait over", "rest/sleep", "")),
        ("step failed", "rest", "attempt 1, error ValueError: told to fail"),
        *(("compensation begun", "charge", "attempt 1"), ("effect begun", "undo:charge/refund", "")),
        *(("effect done", "undo:charge/refund", ""), ("compensation done", "charge", "")),
        ("compensated", "", ""),
    ]
    for line in shown["timeline"]:
        assert (line["seconds"] is not None) == (line["what"].split()[-1] in ("failed", "done", "over")), line
    begun, over = [line for line in shown["timeline"] if line["of"] == "rest/sleep"]
    # Not what was asked for: the wait is counted from when the step asked, and its record is a moment younger.
    between = datetime.fromisoformat(over["time"]) - datetime.fromisoformat(begun["time"])
    assert over["seconds"] == pytest.approx(between.total_seconds(), abs=2e-6)


def shown_wait(shown: dict[str, Any]) -> tuple[str, str, str]:
    (wait,) = [line for line in shown["timeline"] if line["what"] == "wait begun"]
    assert wait["details"].startswith("until 2")
    return "wait begun", "rest/sleep", wait["details"]
