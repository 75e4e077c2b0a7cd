"""A verification in a process of its own, since LMDB may end the process that reads a damaged page.

Pages are checked first, by code that cannot be ended so; but not those of a store that is being written, and not
everything that may be wrong with one. What the other process finds comes as lines of JSON; that a page ended it is a
finding like others. What the system refuses is not damage: nothing is known of what could not be looked at.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from itertools import islice
from typing import Final

import lmdb
import msgspec
from msgspec import structs

from ..environment.environment import Environment
from ..environment.folder import IF_SYSTEM_REFUSES, path_problem
from ..environment.refusals import is_refusal
from ..errors import EventSourcingError, StoreError, StoreReplaced, VerificationImpossible, described
from .finding import Finding
from .tree import Statement
from .verify import STORE_PAGES, ReportEvents, VerificationSummary, verify, verify_pages

STORE: Final = "store"
"""What a finding about all that was not looked at any more names as its table."""
FINDINGS_MAX: Final = 1_000
"""A verification ends after so many."""
STDERR_BYTES_MAX: Final = 4_000
ENDED_BY_DAMAGE: Final = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)
"""What a page that LMDB cannot make sense of ends the process by; any other signal comes from outside."""


class Report(msgspec.Struct, frozen=True):
    """What a verification has found."""

    findings: list[Finding]
    summary: VerificationSummary | None
    """None where the walk did not come to its end: what it went through is not known then."""
    is_complete: bool
    """Whether these are all: not where it ended after `FINDINGS_MAX`, or before its end."""

    @property
    def is_damaged(self) -> bool:
        """Whether anything is wrong, and not only unknown."""
        return any(finding.is_damage for finding in self.findings)


class _Kept(msgspec.Struct, frozen=True):
    """A statement, on its way to the other process."""

    size: int
    root: bytes
    first: bytes


class _Task(msgspec.Struct, frozen=True):
    path_bytes: bytes
    """As the system has it: what is not UTF-8 cannot be text in JSON."""
    statements: list[_Kept]
    archive_pages: Finding | None
    findings_max: int

    @property
    def path(self) -> str:
        """As Python has it."""
        return os.fsdecode(self.path_bytes)


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the other process says: one of these at a time."""

    finding: Finding | None = None
    progress: tuple[int, int] | None = None
    looking_at: str = ""
    refused: str = ""
    is_gone: bool = False
    """Whether the store was moved away meanwhile: nothing that was found is about what is at its path."""
    summary: VerificationSummary | None = None


_line_of: Final = msgspec.json.Decoder(_Line).decode
_to_json: Final = msgspec.json.Encoder().encode


def verify_apart(
    path: str | os.PathLike[str],
    *,
    statements: Sequence[Statement] = (),
    progress: ReportEvents | None = None,
    findings_max: int = FINDINGS_MAX,
) -> Report:
    """Check the pages of a store, and then all that they hold; it may be in use, and is not changed.

    Args:
        path: the folder.
        statements: checkpoints kept elsewhere; that history was only added to since is checked, too.
        progress: told now and then how many events are done, of how many.
        findings_max: it ends after so many.

    Raises:
        VerificationImpossible: there is no store at `path`, it is one of another format, or the system refused to let
            it be read to its end before any damage was found.

    """
    unusable = path_problem(path)
    if unusable:
        raise VerificationImpossible(os.fspath(path), f"There is no store at {os.fspath(path)!r}: {unusable}.")
    try:
        findings = verify_pages(path)
    except PermissionError as error:
        said = f"The store {os.fspath(path)} cannot be read ({error.strerror}). Verify it as a user who may read it."
        raise VerificationImpossible(os.fspath(path), said) from error
    except (OSError, MemoryError) as error:
        raise VerificationImpossible(os.fspath(path), _cut_short(os.fspath(path), error)) from error
    if any(finding.table == STORE_PAGES for finding in findings):
        return Report(findings, None, is_complete=False)
    archive_pages = findings[0] if findings else None
    kept = [_Kept(each.size, each.root, each.first) for each in statements]
    task = _Task(os.fsencode(path), kept, archive_pages, findings_max)
    heard = _Heard(findings, progress)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-P", "-m", __name__]
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    except OSError:
        # No second interpreter can be started, as where this one is embedded: verify in this process.
        _work(task, heard.take)
        return heard.report(task, Finding(STORE_PAGES, ""))
    with process:
        try:
            return _listen(process, task, heard)
        except BaseException:
            process.kill()
            raise


class _Heard:
    """What the other process has said so far."""

    def __init__(self, findings: list[Finding], progress: ReportEvents | None) -> None:
        self._findings = findings
        self._progress = progress
        self._summary: VerificationSummary | None = None
        self._refused = ""
        self._is_gone = False
        self.looking_at = ""
        """Empty until the other process has begun."""

    def take(self, line: _Line) -> None:
        """Take in one line."""
        self.looking_at = line.looking_at or self.looking_at
        self._summary = line.summary or self._summary
        self._refused = line.refused or self._refused
        self._is_gone = line.is_gone or self._is_gone
        if line.finding is not None:
            self._findings.append(line.finding)
        if line.progress is not None and self._progress is not None:
            self._progress(*line.progress)

    def report(self, task: _Task, end: Finding) -> Report:
        """All of it, once nothing more is to come; `end` is how that came, where it was before its time.

        Raises `VerificationImpossible`.
        """
        findings = self._findings
        if self._is_gone:
            raise VerificationImpossible(task.path, self._refused)
        if self._summary is not None:
            return Report(findings, self._summary, is_complete=len(findings) < task.findings_max)
        if self._refused:
            end = Finding(STORE, self._refused, is_damage=False)
        if not any(finding.is_damage for finding in (*findings, end)):
            raise VerificationImpossible(task.path, end.problem)
        return Report([*findings, end], None, is_complete=False)


def _listen(process: "subprocess.Popen[bytes]", task: _Task, heard: _Heard) -> Report:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    with suppress(BrokenPipeError):  # how it ended is looked at below
        process.stdin.write(_to_json(task))
        process.stdin.close()
    for text in process.stdout:
        heard.take(_line_of(text))
    said = process.stderr.read(STDERR_BYTES_MAX).decode(errors="replace").strip()
    return heard.report(task, _how_it_ended(process.wait(), task.path, heard.looking_at, said))


def _how_it_ended(code: int, path: str, looking_at: str, said: str) -> Finding:
    last = said.splitlines()[-1] if said else "it said nothing"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    if looking_at and (code >= 0 or -code in ENDED_BY_DAMAGE):
        return Finding(STORE_PAGES, f"the process that read {looking_at} {how} ({last}): a page of it is damaged")
    did = f"reads {looking_at} of" if looking_at else "is to read"
    problem = f"{path} is not verified: the process that {did} it {how} ({last}). {IF_SYSTEM_REFUSES}."
    return Finding(STORE, problem, is_damage=False)


def _cut_short(path: str, error: BaseException) -> str:
    return f"{path} cannot be read to its end: {str(error) or described(error)}. {IF_SYSTEM_REFUSES}."


# --- in the other process ---


def main() -> None:
    """Do the task that comes on the standard input."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    task = msgspec.json.decode(sys.stdin.buffer.read(), type=_Task)

    def say(line: _Line) -> None:
        sys.stdout.buffer.write(_to_json(line) + b"\n")
        sys.stdout.buffer.flush()

    _work(task, say)


def _work(task: _Task, say: Callable[[_Line], None]) -> None:
    say(_Line(looking_at="its beginning"))
    try:
        environment = Environment(task.path, read_only=True, leaves_no_trace=True)
    except EventSourcingError as error:
        say(_Line(refused=_encodable(str(error))))
        return
    with closing(environment):
        try:
            try:
                _verify(environment, task, say)
            finally:
                # What is not there any more is not damaged, and its archive would be that of another.
                environment.check_in_place()
        except StoreReplaced as error:
            say(_Line(refused=_encodable(str(error)), is_gone=True))
        except (OSError, MemoryError, lmdb.Error, StoreError) as error:
            # There may be no descriptors left, no memory, or no right to a folder.
            if not is_refusal(error):
                raise
            say(_Line(refused=_encodable(_cut_short(task.path, error))))


def _verify(environment: Environment, task: _Task, say: Callable[[_Line], None]) -> None:
    verification = verify(
        environment,
        statements=task.statements,
        progress=lambda done, total: say(_Line(progress=(done, total))),
        archive_pages=task.archive_pages,
        looking_at=lambda what: say(_Line(looking_at=what)),
    )
    for finding in islice(verification, task.findings_max):
        table, problem = _encodable(finding.table), _encodable(finding.problem)
        say(_Line(finding=structs.replace(finding, table=table, problem=problem)))
    say(_Line(summary=verification.summary))


def _encodable(text: str) -> str:
    """A text with what JSON has no place for, as in the name of a file, escaped."""
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    main()
