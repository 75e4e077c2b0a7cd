"""The core needs none of the extras."""

import subprocess
import sys

import pytest

CORE_ALONE = """
import sys

for extra in ("sqlalchemy", "psycopg", "cryptography", "opentelemetry"):
    sys.modules[extra] = None  # an import of it is an ImportError

import eventsrc.runtime.testing
from eventsrc.runtime.command_line import main

sys.exit(main(["demo", "bank"]))
"""


def test_a_program_runs_where_no_extra_is_installed() -> None:
    ended = subprocess.run([sys.executable, "-c", CORE_ALONE], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


@pytest.mark.parametrize(
    ("extra", "module", "advice"),
    [
        ("opentelemetry", "eventsrc.runtime.telemetry", "OpenTelemetry: pip install 'eventsrc[telemetry]'"),
        ("sqlalchemy", "eventsrc.actors.views.sql", "SQLAlchemy: pip install 'eventsrc[sql]'"),
    ],
)
def test_an_extra_that_is_missing_is_named(extra: str, module: str, advice: str) -> None:
    program = f"import sys; sys.modules[{extra!r}] = None; import {module}"
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert advice in ended.stderr.splitlines()[-1]
