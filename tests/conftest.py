"""What tests in several folders share."""

import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from postgres_server import PostgresServer, find_binaries
from small_disk import mounted_at

_numbers = itertools.count(1)

# How long an example takes says how busy the machine is, and nothing of us.
settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL server that runs as long as the tests do."""
    binaries = find_binaries()
    if binaries is None:
        reason = "no PostgreSQL server in /usr/lib/postgresql or on the PATH: apt-get install postgresql"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)
    server = PostgresServer(binaries)
    try:
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def strace() -> None:
    """The program that traces the calls of another."""
    if shutil.which("strace") is None:
        reason = "no strace on the PATH: apt-get install strace"
        assert not os.environ.get("CI"), reason
        pytest.skip(reason)


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> str:
    """The URL of an empty database."""
    return postgres_server.create_database(f"test_{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'views.db'}"
    found: str = request.getfixturevalue("postgres_url")
    return found


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A small file system in memory, mounted with these options; needs root and a kernel that lets it."""
    yield from mounted_at(tmp_path / "disk")
