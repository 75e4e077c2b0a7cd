"""The bank demo shows what it says."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from eventsrc.demos import bank


def test_a_retry_counts_once_and_the_state_is_there_after_reopening(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bank.run(["--store", str(tmp_path / "bank.db")]) == 0
    printed = capsys.readouterr().out
    assert "the same withdrawal      version 2, duplicate: True" in printed
    assert "refused   the balance is 70, which is less than 1000" in printed
    assert "bob, at least as of his deposit: Balance(account='bob', amount=50)" in printed
    assert "who has 60 or more: cleo 500, ann 70" in printed
    assert "reopened, the balance is 70" in printed
    assert [line.split()[:2] for line in printed.splitlines()[-2:]] == [
        ["1", "account.deposited"],
        ["2", "account.withdrawn"],
    ]


def test_on_the_same_store_again_the_withdrawal_is_said_to_be_a_duplicate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for duplicate in (False, True):
        assert bank.run(["--store", str(tmp_path / "bank.db")]) == 0
        assert f"withdrew 30              version 2, duplicate: {duplicate}" in capsys.readouterr().out


def test_the_demo_runs_from_the_command_line_and_prints_nothing_but_its_story(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "eventsrc", "demo", "bank"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "reopened, the balance is 70" in ran.stdout
    assert list(tmp_path.iterdir()) == [], "the store was a temporary one"


def test_as_json_it_is_one_object_and_the_story_is_beside_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert bank.run(["--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out) == {
        "balance": 70,
        "events": [["account.deposited", {"amount": 100}], ["account.withdrawn", {"amount": 30}]],
    }
    assert "reopened, the balance is 70" in printed.err
