"""The commands for evidence: verify a store, sign a statement of its contents, prove that it holds an event."""

import argparse
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import rich.console
import rich.progress
from msgspec import structs

from ...storage.evidence.errors import CheckpointInvalid, EvidenceUnavailable
from ...storage.evidence.proof import prove
from ...storage.keys.errors import no_keys_at
from ...storage.reader import LogReader
from ...storage.verification.apart import FINDINGS_MAX, Report, verify_apart
from ...storage.verification.keys import KEYS, check_keys, key_tags_in
from .argument_types import AddCommand, count
from .domain_modules import add_keys, keys_in
from .exit_codes import EXIT_DAMAGED, EXIT_ERROR
from .output import print_json

if TYPE_CHECKING:
    from ...storage.evidence.signed_checkpoint import SignedCheckpoint


def print_verification(options: argparse.Namespace) -> int:
    """`eventsrc verify PATH [--checkpoint FILE] [--keys FILE]`: 0 when all is sound, 2 when something is damaged.

    The code is 1 when no damage was found but the system refused access to some of the data.
    """
    statements = [_checkpoint(file, options.public_key) for file in options.checkpoints or ()]
    if options.keys is not None:
        with closing(keys_in(options, options.keys)) as keys:
            if keys.is_empty:
                # Without keys nothing would be checked.
                raise no_keys_at(keys.path)
    with rich.progress.Progress(
        console=rich.console.Console(stderr=True), transient=True, disable=not sys.stderr.isatty()
    ) as progress:
        task = progress.add_task("verifying")
        report = verify_apart(
            options.path,
            statements=statements,
            progress=lambda done, total: progress.update(task, completed=done, total=total),
        )
    report, missing_keys = _with_keys(report, options)
    if options.json:
        print_json({**_data(report), "missing_keys": missing_keys})
    else:
        _print_report(report, statements)
        if missing_keys is not None:
            print(f"its personal data cannot be read: there are no keys at {missing_keys}")
    for finding in report.findings:
        if not finding.is_damage:
            print(f"eventsrc: {finding}", file=sys.stderr)
    if report.is_damaged:
        return EXIT_DAMAGED
    return EXIT_ERROR if report.findings else 0


def _with_keys(report: Report, options: argparse.Namespace) -> tuple[Report, str | None]:
    """The report of a sound store with the findings about its keys, and the path at which needed keys are missing."""
    if report.is_damaged or report.summary is None:
        return report, None
    with closing(LogReader.open(options.path)) as log, closing(keys_in(options, options.keys)) as keys:
        if keys.is_empty:
            return report, keys.path if key_tags_in(log) else None
        found = list(islice(check_keys(log, keys), FINDINGS_MAX))
    return structs.replace(report, findings=[*report.findings, *found]), None


def _data(report: Report) -> dict[str, object]:
    """The report as JSON data: the figures of the store, if they are known, and the findings."""
    walked = {"events": None} if report.summary is None else structs.asdict(report.summary)
    findings = [structs.asdict(finding) for finding in report.findings]
    return {**walked, "findings": findings, "is_complete": report.is_complete}


def _print_report(report: Report, statements: "Sequence[SignedCheckpoint]") -> None:
    for finding in report.findings:
        if finding.is_damage:
            print(finding)
    summary = report.summary
    if summary is None:
        # The rest cannot be examined: LMDB may end the process on a damaged page.
        print("DAMAGED: restore it from a backup")
        return
    if not report.is_complete:
        print(f"... stopped after {len(report.findings):,} findings")
    for statement in () if report.findings else statements:
        print(f"only added to since the checkpoint of {statement.size:,} events at {statement.time}")
    print(
        f"{summary.events:,} events in {summary.streams:,} streams, {summary.snapshots:,} snapshots, "
        f"{summary.idempotency_keys:,} idempotency keys, {summary.size_bytes:,} bytes: "
        f"{_verdict(report)}"
    )


def _verdict(report: Report) -> str:
    if not report.findings:
        return "all sound"
    if not report.is_damaged:
        return "sound as far as it could be looked at, but NOT all of it could"
    tables = {finding.table for finding in report.findings}
    if report.is_complete and tables == {"checkpoint"}:
        return "sound in itself, but NOT what was stated of it"
    if report.is_complete and tables == {KEYS}:
        return "sound in itself, but NOT the keys of its personal data"
    return "DAMAGED"


def print_checkpoint(options: argparse.Namespace) -> int:
    """`eventsrc checkpoint PATH --key FILE`: prints a signed statement as one line of JSON, to be kept elsewhere."""
    try:
        from ...storage.evidence import signed_checkpoint as signing  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EvidenceUnavailable from error
    with closing(LogReader.open(options.path)) as log:
        key = signing.new_signing_key(options.key) if options.new_key else signing.load_signing_key(options.key)
        print(signing.make_checkpoint(log, key, time_ns=time.time_ns()).text)
    return 0


def print_proof(options: argparse.Namespace) -> int:
    """`eventsrc prove PATH POSITION [--checkpoint FILE]`: prints an inclusion proof as JSON."""
    checkpoint = None if options.checkpoint is None else _checkpoint(options.checkpoint, options.public_key)
    with closing(LogReader.open(options.path)) as log:
        proof = prove(log, options.position, size=None if checkpoint is None else checkpoint.size)
    if checkpoint is not None and proof.root != checkpoint.root:
        raise CheckpointInvalid(
            f"{options.path} is not the log that the checkpoint of {checkpoint.size:,} events was made of, or its "
            "history was changed: the roots differ. eventsrc verify --checkpoint tells more."
        )
    print_json(proof.data)
    return 0


def _checkpoint(file: Path, public_key: bytes | None) -> "SignedCheckpoint":
    try:
        from ...storage.evidence.signed_checkpoint import read_checkpoint  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise EvidenceUnavailable from error
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointInvalid(f"{file} cannot be read: {error}") from error
    try:
        return read_checkpoint(text, public_key=public_key)
    except CheckpointInvalid as error:
        raise CheckpointInvalid(f"{file}: {error}") from error


def _public_key(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise argparse.ArgumentTypeError("write the public key as hexadecimal digits") from None


def add_commands(add: AddCommand) -> None:
    """Add these commands to the command line."""
    verifying = add("verify", "walk every hash chain, the Merkle tree and every index, and say what is wrong where")
    verifying.add_argument(
        "--checkpoint",
        type=Path,
        action="append",
        dest="checkpoints",
        metavar="FILE",
        help="check that history was only added to since; may be repeated",
    )
    add_keys(verifying)
    verifying.set_defaults(run=print_verification)

    stating = add("checkpoint", "a small signed statement of what the store holds, to be kept elsewhere")
    stating.add_argument("--key", type=Path, required=True, metavar="FILE", help="the Ed25519 key that signs (PEM)")
    stating.add_argument("--new-key", action="store_true", help="make the key, in a new file")
    stating.set_defaults(run=print_checkpoint)

    proving = add("prove", "prove that an event is in the store, by a path in the Merkle tree (RFC 9162)")
    proving.add_argument("position", type=count, metavar="POSITION")
    proving.add_argument("--checkpoint", type=Path, metavar="FILE", help="among the events that this one states")
    proving.set_defaults(run=print_proof)

    for parser in (verifying, proving):
        parser.add_argument("--public-key", type=_public_key, metavar="HEX", help="who must have signed the checkpoint")
