"""The orders demo: killed on the way, every order is all done or all undone."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from eventsrc import Rejected
from eventsrc.demos import orders, orders_gateway
from eventsrc.demos.orders_gateway import Gateway, GatewayDown, Ledger
from eventsrc.storage.environment.locks import is_open_for_writing


def test_every_order_is_shipped_and_paid_once_or_cancelled_and_refunded_once(tmp_path: Path) -> None:
    findings = orders.main(tmp_path / "orders.db", 150, Console(quiet=True))
    assert findings.wrong == []
    assert findings.shipped + findings.cancelled == 150
    assert findings.shipped > 100
    assert findings.refunded > 5
    assert findings.kills == 2


def test_as_json_it_is_one_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert orders.run(["--count", "3", "--store", str(tmp_path / "orders.db"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["shipped"] + found["cancelled"], found["wrong"]) == (3, [])


def test_told_to_end_it_leaves_no_process_behind(tmp_path: Path) -> None:
    store = tmp_path / "orders.db"
    # The tests may be a job in the background, which ignores interrupts.
    command = ["env", "--default-signal=INT", sys.executable, "-m", "eventsrc", "demo", "orders", "--store", str(store)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while not is_open_for_writing(store) and process.poll() is None:
            time.sleep(0.01)
        process.terminate()
        # The worker would have the other end, too.
        _, told = process.communicate(timeout=60)
    assert (process.returncode, told, is_open_for_writing(store)) == (130, "", False)


def test_a_store_that_exists_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another gateway's ledger would not agree with it."""
    with pytest.raises(SystemExit):
        orders.run(["--count", "3", "--store", str(tmp_path)])
    assert f"--store: {tmp_path} exists already; name a folder that does not" in capsys.readouterr().err


@pytest.fixture
def port() -> Iterator[int]:
    command = [sys.executable, "-m", "eventsrc.demos.orders_gateway"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


def key_with(trouble: str) -> str:
    """An idempotency key whose first attempt meets this trouble."""
    return next(key for key in map(str, range(1_000)) if Ledger().trouble(key) == trouble)


def test_the_gateway_refuses_fails_times_out_and_answers_twice_and_charges_once(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway = Gateway(port)
    monkeypatch.setattr(orders_gateway, "ANSWER_SECONDS_MAX", 60)
    with pytest.raises(Rejected, match="the card is refused"):
        for number in range(1_000):
            gateway.charge(f"order-{number}", 5, idempotency_key=f"{key_with('')}")
    assert len({entry["order"] for entry in gateway.ledger()}) == len(gateway.ledger()) == 1
    for trouble, words in (("fail", "HTTP 503"), ("fail late", "HTTP 500")):
        with pytest.raises(GatewayDown, match=words):
            gateway.charge(trouble, 5, idempotency_key=key_with(trouble))
        assert sum(entry["order"] == trouble for entry in gateway.ledger()) == (trouble != "fail")
    with monkeypatch.context() as hasty, pytest.raises(GatewayDown, match="timed out"):
        hasty.setattr(orders_gateway, "ANSWER_SECONDS_MAX", 0.1)
        gateway.charge("silent", 5, idempotency_key=key_with("silent"))
    # Nobody was told, and it is done, or will be.
    while not any(entry["order"] == "silent" for entry in gateway.ledger()):
        pass
    body = json.dumps({"order": "twice", "amount": 5, "key": key_with("twice")})
    with socket.create_connection(("127.0.0.1", port)) as connection, connection.makefile("rb") as answers:
        connection.sendall(f"POST /charge HTTP/1.0\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        assert answers.read().count(b" 200 OK") == 2
    assert sum(entry["order"] == "twice" for entry in gateway.ledger()) == 1
