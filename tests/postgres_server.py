"""A PostgreSQL server of the tests' own, made by the binaries of Debian's `postgresql` package."""

import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

START_SECONDS_MAX = 60


def find_binaries() -> Path | None:
    """The folder with the newest `initdb` and `pg_ctl`; None where there are none."""
    folders = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    folders.sort(key=lambda folder: int(re.sub(r"\D", "", folder.parent.name) or 0))
    on_path = shutil.which("initdb")
    return folders[-1] if folders else Path(on_path).parent if on_path else None


class PostgresServer:
    """Listens on a socket in a temporary folder only, so that no port is taken."""

    def __init__(self, binaries: Path) -> None:
        self._binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="eventsrc-pg-", dir="/tmp"))
        # It refuses to run as root.
        self._user = _someone() if os.geteuid() == 0 else None
        if self._user is not None:
            os.chown(self.folder, self._user.pw_uid, self._user.pw_gid)
        self._data = self.folder / "data"
        # A collation for people, so that it shows where the order of bytes is taken for granted.
        with_icu = ["--locale-provider=icu", "--icu-locale=en-US"]
        made = self._run("initdb", *self._initdb(), *with_icu, check=False)
        if made.returncode:
            self._run("initdb", *self._initdb())
        self.start()

    def _initdb(self) -> list[str]:
        return ["-D", str(self._data), "-U", "eventsrc", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N"]

    def start(self) -> None:
        options = f"-c listen_addresses='' -c unix_socket_directories='{self.folder}' -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self._data), "-l", log, "-o", options, "-w", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "-D", str(self._data), "-m", mode, "-w", "stop")

    def suspend(self) -> None:
        """Have it do nothing: its side of the connections is kept up by the system."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        postmaster = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for process in (postmaster, *map(int, children)):
            os.kill(process, number)

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    def create_database(self, name: str) -> str:
        """Make a database and give its URL."""
        self._run("createdb", "-h", str(self.folder), "-U", "eventsrc", name)
        return f"postgresql://eventsrc@/{name}?host={self.folder}"

    def _run(self, program: str, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        who = {} if self._user is None else {"user": self._user.pw_uid, "group": self._user.pw_gid, "extra_groups": []}
        # A file and no pipe: the server would keep the pipe open.
        with tempfile.TemporaryFile("w+") as said:
            done = subprocess.run(
                [str(self._binaries / program), *arguments],
                stdout=said,
                stderr=said,
                stdin=subprocess.DEVNULL,
                text=True,
                cwd=self.folder,
                timeout=START_SECONDS_MAX,
                check=False,
                **who,
            )
            said.seek(0)
            assert not check or done.returncode == 0, f"{program} failed: {said.read()}"
        return done


def _someone() -> pwd.struct_passwd:
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise AssertionError("PostgreSQL does not run as root, and there is no user postgres or nobody")
