"""The orders demo: killed on the way, every order is all done or all undone."""

from pathlib import Path

from rich.console import Console

from eventsrc.demos import orders


def test_every_order_is_shipped_and_paid_once_or_cancelled_and_refunded_once(tmp_path: Path) -> None:
    findings = orders.main(tmp_path / "orders.db", 150, Console(quiet=True))
    assert findings.wrong == []
    assert findings.shipped + findings.cancelled == 150
    assert findings.shipped > 100
    assert findings.refunded > 5
    assert findings.kills == 2
