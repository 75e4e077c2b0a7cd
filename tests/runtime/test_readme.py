"""What the README shows is true."""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from eventsrc.runtime import command_line

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = ("commands", "tests", "fields", "portals", "views", "sagas", "changes", "forgetting", "telemetry")


def run_example(name: str, folder: Path) -> str:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == len(EXAMPLES), "every example is run"
    script = folder / "example.py"
    script.write_text(examples[EXAMPLES.index(name)], encoding="utf-8")
    # What the example of tests imports: the first one, without running it.
    definitions, _, _ = examples[0].partition("async def main")
    (folder / "bank.py").write_text(definitions, encoding="utf-8")
    command = [sys.executable, "-W", "error", script]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert result.stderr == ""
    return result.stdout


def test_the_first_example_runs_as_it_stands(tmp_path: Path) -> None:
    for run in (1, 2):
        assert run_example("commands", tmp_path) == f"{run} {run} {run * 100}\n"


def test_the_example_of_tests_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("tests", tmp_path) == ""


def test_the_example_of_fields_runs_as_it_stands(tmp_path: Path) -> None:
    for _ in range(2):
        assert run_example("fields", tmp_path) == "{'limit': 10}\n"


def test_the_example_of_portals_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("portals", tmp_path).splitlines() == ["10 10", "1 Deposited(amount=1)", "11"]


def test_the_example_of_views_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("views", tmp_path).splitlines() == [
        "Balance(account='ann', amount=100)",
        "['ann']",
        "[1, 2]",
        "account-ann Deposited(amount=100, branch='main')",
        "account-bob Deposited(amount=50, branch='main')",
    ]


def test_the_example_of_sagas_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("sagas", tmp_path).splitlines() == ["completed paid 200", "Rejected: no seats left 1"]


def test_the_example_of_changes_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("changes", tmp_path) == "Deposited(price=2.5, currency='EUR')\n"


def test_the_example_of_forgetting_runs_as_it_stands(tmp_path: Path) -> None:
    for position in (2, 4):
        forgotten = f"Forgotten(subject='c-17', events=1, streams=['customer-c-17'], position={position})"
        assert run_example("forgetting", tmp_path).splitlines() == ["['Ann']", forgotten, "somebody"]


def test_the_example_of_telemetry_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example("telemetry", tmp_path) == ""


def test_the_examples_may_be_run_again_and_one_after_another_in_the_same_folder(tmp_path: Path) -> None:
    first, again = ({name: run_example(name, tmp_path) for name in EXAMPLES} for _ in range(2))
    assert again["sagas"] == first["sagas"] == "completed paid 200\nRejected: no seats left 1\n"


def test_every_file_of_the_reading_order_exists() -> None:
    text = README.read_text(encoding="utf-8")
    reading_order = text[text.index(" Reading order") : text.index(" What is promised")]
    folder = ""
    names = re.findall(r"`([a-z_/]+/)?([a-z_]+\.py)`", reading_order)
    assert len(names) >= 15
    for given_folder, name in names:
        folder = given_folder or folder
        assert (README.parent / folder / name).is_file(), folder + name


def test_there_are_exactly_two_set_up_commands() -> None:
    text = README.read_text(encoding="utf-8")
    assert text.count("```sh\n") == 2
    run, test = re.findall(r"<!-- set-up: \w+ -->\n```sh\n(.+)\n```\n<!-- end -->", text)
    venv = "python3 -m venv .venv"
    assert run.endswith(f"{venv} && .venv/bin/pip install . && .venv/bin/eventsrc demo flights")
    assert test.endswith(f"{venv} && .venv/bin/pip install -e '.[test]' && .venv/bin/pytest")


def test_every_command_of_the_command_line_is_told() -> None:
    parser = command_line._parser()
    commands = next(action for action in parser._actions if isinstance(action, argparse._SubParsersAction)).choices
    text = README.read_text(encoding="utf-8")
    told = text[text.index(" Command line") : text.index(" Reading order")]
    names = {name for line in re.findall(r"^    eventsrc (\S+)", told, re.MULTILINE) for name in line.split("|")}
    assert names == set(commands)
    for name, command in commands.items():
        assert name in ("demo", "bench") or "--json" in command._option_string_actions, name
