"""The core needs none of the extras."""

import subprocess
import sys

CORE_ALONE = """
import sys

for extra in ("sqlalchemy", "psycopg", "cryptography", "opentelemetry"):
    sys.modules[extra] = None  # an import of it is an ImportError

import eventsrc.runtime.testing
from eventsrc.runtime.command_line import main

sys.exit(main(["demo", "bank"]))
"""

NAMED = """
import sys

sys.modules["opentelemetry"] = None

import eventsrc.runtime.telemetry
"""


def test_a_program_runs_where_no_extra_is_installed() -> None:
    ended = subprocess.run([sys.executable, "-c", CORE_ALONE], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_an_extra_that_is_missing_is_named() -> None:
    ended = subprocess.run([sys.executable, "-c", NAMED], capture_output=True, text=True, check=False)
    assert ended.stderr.endswith("Telemetry needs OpenTelemetry: pip install 'eventsrc[telemetry]'\n")
