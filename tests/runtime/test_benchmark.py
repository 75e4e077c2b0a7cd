"""The benchmark runs and prints what it promises; no figure is judged here, machines are shared and noisy."""

import gc
import json
import signal
import subprocess
import sys
from pathlib import Path

import lmdb
import pytest

from eventsrc.runtime import command_line
from eventsrc.runtime.benchmarks.benchmark import Benchmark

ROWS = {
    "raw_lmdb_1",
    "ask_1_client",
    "pykka_100_thread_actors",
    "raw_lmdb_for_100_clients",
    "ask_100_clients",
    "ask_100_clients_to_pykka",
    "raw_lmdb_for_1000_clients",
    "ask_1000_clients",
    "ask_1000_clients_rate",
    "raw_lmdb_for_ask_many",
    "ask_many",
    "ask_beside_transactions",
    "transact_2_aggregates",
    "hydrate_100_with_snapshots",
    "hydrate_1000_with_snapshots",
    "hydrate_20000_with_snapshots",
    "hydrate_100_without_snapshots",
    "hydrate_1000_without_snapshots",
    "hydrate_20000_without_snapshots",
    "snapshot_and_events",
    "state_at_version",
    "resident_actor",
    "activate_without_history",
    "ask_at_20000_events",
    "ask_at_100000_events",
    "read_decoded",
    "bare_scan",
    "replay_typed",
    "bare_view",
    "view_catch_up",
    "view_sqlite_catch_up",
    "view_lag_p99",
    "ask_beside_a_view",
    "ask_wait_for",
    "ask_without_projections",
    "ask_with_64_projections",
    "saga_directly",
    "saga_three_steps",
    "saga_waiting",
    "saga_resume",
    "ask_without_hashes",
    "ask_with_hashes",
    "verify",
    "cp",
    "backup_copy",
    "backup_verified",
    "compaction",
    "ask_p99_usually",
    "ask_p99_in_compaction",
    "archive_size",
    "ask_many_unsealed",
    "ask_many_sealed",
    "forget",
    "ask_beside_asyncio",
    "ask_from_asyncio",
}
"""What was published: who compares figures of two versions finds them by these."""


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
    assert set(names) == ROWS
    for row in report["rows"]:
        assert (
            {"name", "value", "unit"}
            <= set(row)
            <= {"name", "value", "unit", "ratio", "ratio_to", "goal", "met", "limited_by"}
        )
        assert row["value"] > 0
        assert ("ratio" in row) == ("ratio_to" in row)
        assert ("goal" in row) == ("met" in row)
        assert "goal" not in row or row["limited_by"], row
        if "ratio_to" in row:
            assert row["ratio_to"] in names
    assert not list(tmp_path.iterdir()), "the benchmark cleans up after itself"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), lmdb.DiskError("No space left on device")])
def test_a_disk_that_cannot_be_measured_is_one_line_of_error(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: Benchmark) -> None:
        raise error

    monkeypatch.setattr(Benchmark, "run", fail)
    for module, name in ((gc, "set_threshold"), (signal, "signal")):  # of this process nothing is to change
        monkeypatch.setattr(module, name, lambda *_: None)
    assert command_line.bench_main(["--quick", "--path", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"eventsrc: The benchmark cannot write to {tmp_path} ({error}). Name a folder")
    assert len(said.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_one_that_is_ended_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    # The tests may be a job in the background, which ignores interrupts.
    command = [
        "env",
        "--default-signal=INT",
        sys.executable,
        "-m",
        "eventsrc",
        "bench",
        "--quick",
        "--path",
        str(tmp_path),
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        while not list(tmp_path.glob("*/single/data.mdb")):
            assert process.poll() is None
        process.send_signal(number)
        printed, _ = process.communicate(timeout=60)
    assert (process.returncode, printed) == (130, "")
    assert not list(tmp_path.iterdir())
