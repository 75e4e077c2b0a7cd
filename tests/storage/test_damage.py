"""Whatever is changed, removed, reordered or inserted in the pages of a store is found, and ends no process."""

import json
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from damage_store import make_store

from eventsrc import EventLog
from eventsrc.runtime.command_line import main
from eventsrc.storage.copies.backup import backup
from eventsrc.storage.reader import LogReader
from eventsrc.storage.verification.verify import verify_pages

CASES = 120
SCRIPT = Path(__file__).parent / "damage_cases.py"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    make_store(tmp_path / "made")
    # A backup has no freed pages, whose bytes are nobody's.
    with closing(LogReader.open(tmp_path / "made")) as log:
        backup(log, tmp_path / "store")
    return tmp_path / "store"


@pytest.mark.parametrize("seed", [1, 2])
def test_damage_all_over_the_pages_is_found(store: Path, tmp_path: Path, seed: int) -> None:
    command = [sys.executable, SCRIPT, store, tmp_path, str(CASES), str(seed)]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr
    cases = [json.loads(line) for line in result.stdout.splitlines()]
    assert len(cases) == CASES
    unfound = [case for case in cases if case["found"] in ("MISSED", "the check itself failed")]
    assert not unfound
    assert not [case for case in cases if "signal" in case["found"]]
    found = Counter(case["kind"] for case in cases if case["found"] != "nothing was changed")
    assert min(found[kind] for kind in ("change", "remove", "reorder", "insert")) > CASES // 4 // 3, found


def test_the_command_finds_a_damaged_page(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert verify_pages(store) == []
    data = bytearray((store / "data.mdb").read_bytes())
    data[5 * 4_096 :] = data[: len(data) - 5 * 4_096]
    (store / "data.mdb").write_bytes(data)
    assert main(["verify", str(store)]) == 2
    assert "DAMAGED" in capsys.readouterr().out
    assert main(["verify", str(store), "--json"]) == 2
    (finding,) = json.loads(capsys.readouterr().out)["findings"]
    assert finding["table"] == "pages"


def test_pages_that_are_being_written_are_not_judged(store: Path) -> None:
    with closing(EventLog(store)):
        data = (store / "data.mdb").read_bytes()
        (store / "data.mdb").with_name("other").write_bytes(data)
        assert verify_pages(store) == []
