"""The orders demo: killed on the way, every order is all done or all undone."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from eventsrc.demos import orders


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
