"""What the README shows is true."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
EXAMPLES = ("commands", "views", "sagas")


def run_example(number: int, folder: Path) -> str:
    examples = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) == len(EXAMPLES), "every example is run"
    script = folder / "example.py"
    script.write_text(examples[number], encoding="utf-8")
    command = [sys.executable, "-W", "error", script]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
    assert result.stderr == ""
    return result.stdout


def test_the_first_example_runs_as_it_stands(tmp_path: Path) -> None:
    for run in (1, 2):
        assert run_example(0, tmp_path) == f"{run} {run} {run * 100}\n"


def test_the_example_of_views_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example(1, tmp_path).splitlines() == [
        "Balance(account='ann', amount=100)",
        "['ann']",
        "[1, 2]",
        "account-ann Deposited(amount=100, branch='main')",
        "account-bob Deposited(amount=50, branch='main')",
    ]


def test_the_example_of_sagas_runs_as_it_stands(tmp_path: Path) -> None:
    assert run_example(2, tmp_path).splitlines() == ["completed paid 200", "Rejected: no seats left 1"]


def test_the_examples_may_be_run_again_and_one_after_another_in_the_same_folder(tmp_path: Path) -> None:
    first, again = ([run_example(number, tmp_path) for number in range(len(EXAMPLES))] for _ in range(2))
    assert again[-1] == first[-1] == "completed paid 200\nRejected: no seats left 1\n", "sagas are known by their keys"


def test_every_file_of_the_reading_order_exists() -> None:
    text = README.read_text(encoding="utf-8")
    reading_order = text[text.index("## Reading order") : text.index("## What is promised")]
    folder = ""
    names = re.findall(r"`([a-z_]+/)?([a-z_]+\.py)`", reading_order)
    assert len(names) >= 15
    for given_folder, name in names:
        folder = given_folder or folder
        assert (README.parent / folder / name).is_file(), folder + name


def test_there_are_exactly_two_set_up_commands() -> None:
    assert len(re.findall(r"```sh\n.+?\n```", README.read_text(encoding="utf-8"))) == 2
