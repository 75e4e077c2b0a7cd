"""The benchmark runs and prints what it promises; no figure is judged here, machines are shared and noisy."""

import json
import subprocess
import sys
from pathlib import Path

ROWS = {
    "raw_lmdb_1",
    "ask_1_client",
    "pykka_100_thread_actors",
    "ask_100_clients",
    "ask_1000_clients",
    "ask_many",
    "hydrate_100_with_snapshots",
    "hydrate_1000_with_snapshots",
    "hydrate_1000_without_snapshots",
    "resident_actor",
    "activate_without_history",
}


def test_the_quick_benchmark_prints_one_object_with_its_rows(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "eventsrc", "bench", "--quick", "--json", "--path", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert set(report) == {"machine", "rows"}
    assert {"cores", "python", "fdatasync_us", "versions"} <= set(report["machine"])
    names = [row["name"] for row in report["rows"]]
    assert len(names) == len(set(names))
    assert set(names) >= ROWS
    for row in report["rows"]:
        assert (
            {"name", "value", "unit"}
            <= set(row)
            <= {"name", "value", "unit", "ratio", "ratio_to", "goal", "met", "limited_by"}
        )
        assert row["value"] > 0
        assert ("ratio" in row) == ("ratio_to" in row)
        assert ("goal" in row) == ("met" in row)
        if "ratio_to" in row:
            assert row["ratio_to"] in names
    assert not list(tmp_path.iterdir()), "the benchmark cleans up after itself"
