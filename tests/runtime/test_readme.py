"""What the README shows is true."""

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    script = tmp_path / "example.py"
    script.write_text(example, encoding="utf-8")
    for run in (1, 2):
        result = subprocess.run(
            [sys.executable, "-W", "error", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert (result.stdout, result.stderr) == (f"{run} {run} {run * 100}\n", "")


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
