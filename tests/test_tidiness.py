"""The code stays as it can be read: what DESIGN asks of each file and each function."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("storage", "actors", "runtime", "demos", "tests")
FILE_LINES_MAX = 450
FUNCTION_LINES_MAX = 70


def files() -> Iterator[Path]:
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


@pytest.mark.parametrize("file", [pytest.param(file, id=str(file.relative_to(ROOT))) for file in sorted(files())])
def test_a_file_is_read_in_one_sitting_and_a_function_fits_on_a_screen(file: Path) -> None:
    source = file.read_text(encoding="utf-8")
    assert source.count("\n") <= FILE_LINES_MAX
    functions = [
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [
        f"{node.name}: line {node.lineno}"
        for node in functions
        if (node.end_lineno or 0) - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_each_module_says_what_it_is_for() -> None:
    silent = [file for file in files() if not ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))]
    assert silent == []
