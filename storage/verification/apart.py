"""Runs a verification in a separate process, since LMDB may abort a process that reads a damaged page.

The pages are first checked in this process by code that LMDB cannot abort. That check skips a store that is being
written, and does not detect every fault. The other process reports its findings as lines of JSON; if a damaged page
aborts it, that is a finding as well. A refusal by the system is not damage: the content that could not be read is
unknown.
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
"""The `table` of a finding that the rest of the store could not be verified."""
FINDINGS_MAX: Final = 1_000
"""A verification ends after this number of findings."""
STDERR_BYTES_MAX: Final = 4_000
ENDED_BY_DAMAGE: Final = (signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV, signal.SIGILL, signal.SIGFPE)
"""The signals that a damaged page may raise in LMDB; any other signal was sent by another process."""


class Report(msgspec.Struct, frozen=True):
    """The result of a verification."""

    findings: list[Finding]
    summary: VerificationSummary | None
    """None if the verification did not reach its end."""
    is_complete: bool
    """Whether these are all findings: False if it ended at the maximum of findings, or before its end."""

    @property
    def is_damaged(self) -> bool:
        """Whether any finding is damage, and not only a refusal by the system."""
        return any(finding.is_damage for finding in self.findings)


class _Kept(msgspec.Struct, frozen=True):
    """A `Statement` that is sent to the other process."""

    size: int
    root: bytes
    first: bytes


class _Task(msgspec.Struct, frozen=True):
    path_bytes: bytes
    """The path as bytes of the file system, since a path that is not UTF-8 cannot be text in JSON."""
    statements: list[_Kept]
    archive_pages: Finding | None
    findings_max: int

    @property
    def path(self) -> str:
        """The path as Python represents it."""
        return os.fsdecode(self.path_bytes)


class _Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """One message of the other process."""

    finding: Finding | None = None
    progress: tuple[int, int] | None = None
    looking_at: str = ""
    refused: str = ""
    is_gone: bool = False
    """Whether the store was moved away meanwhile, so that the findings are not about the store at the path."""
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
    """Check the pages of a store, and then its whole content. The store may be in use, and is not changed.

    Args:
        path: the folder of the store.
        statements: checkpoints kept elsewhere; it is checked that their history was only appended to.
        progress: called now and then with the number of events done and the number of all events.
        findings_max: the verification ends after this number of findings.

    Raises:
        VerificationImpossible: there is no store at `path`, its format is unknown, it was moved away meanwhile, or the
            system refused to read it to its end and no damage had been found.

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
        # A second interpreter cannot be started (this one may be embedded): verify in this process.
        _work(task, heard.take)
        return heard.report(task, Finding(STORE_PAGES, ""))
    with process:
        try:
            return _listen(process, task, heard)
        except BaseException:
            process.kill()
            raise


class _Heard:
    """Collects the messages of the other process."""

    def __init__(self, findings: list[Finding], progress: ReportEvents | None) -> None:
        self._findings = findings
        self._progress = progress
        self._summary: VerificationSummary | None = None
        self._refused = ""
        self._is_gone = False
        self.looking_at = ""
        """The part that is being verified; empty until the other process has begun."""

    def take(self, line: _Line) -> None:
        """Add one message."""
        self.looking_at = line.looking_at or self.looking_at
        self._summary = line.summary or self._summary
        self._refused = line.refused or self._refused
        self._is_gone = line.is_gone or self._is_gone
        if line.finding is not None:
            self._findings.append(line.finding)
        if line.progress is not None and self._progress is not None:
            self._progress(*line.progress)

    def report(self, task: _Task, end: Finding) -> Report:
        """The report, after the last message; `end` is the finding for a process that ended too early.

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
    with suppress(BrokenPipeError):  # the exit status is examined below
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
    """Run the task that is read from standard input, in the other process."""
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
                # A store that was moved away is not damaged, and the archive at its path may be another store's.
                environment.check_in_place()
        except StoreReplaced as error:
            say(_Line(refused=_encodable(str(error)), is_gone=True))
        except (OSError, MemoryError, lmdb.Error, StoreError) as error:
            # The process may lack descriptors, memory, or the permission for a folder.
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
    """A text with the characters escaped that JSON cannot encode, as in the name of a file."""
    return text.encode(errors="backslashreplace").decode()


if __name__ == "__main__":
    main()
