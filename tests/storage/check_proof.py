"""Check that an event is in a log, with nothing but a proof, a checkpoint kept elsewhere, and Python's own library.

eventsrc prove PATH POSITION --checkpoint FILE | python check_proof.py FILE   (the steps: RFC 9162, section 2.1.3.2)
"""

import hashlib
import json
import pathlib
import sys


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


def need(condition: object, otherwise: str) -> None:
    if not condition:
        sys.exit(f"NOT PROVED: {otherwise}")


proof = json.load(sys.stdin)
checkpoint = json.loads(pathlib.Path(sys.argv[1]).read_text())
record, before = bytes.fromhex(proof["record"]), bytes.fromhex(proof["previous_hash"])
need(sha256(before + record[:-32]) == record[-32:], "the event's hash does not match its content")
index, last = proof["position"] - 1, checkpoint["size"] - 1
need(0 <= index <= last, "the checkpoint was made before the event")
root = sha256(b"\0" + record[-32:])
for beside in map(bytes.fromhex, proof["path"]):
    need(last, "the path is too long")
    if index & 1 or index == last:
        root = sha256(b"\1" + beside + root)
        while index and not index & 1:
            index, last = index >> 1, last >> 1
    else:
        root = sha256(b"\1" + root + beside)
    index, last = index >> 1, last >> 1
need(not last and root.hex() == checkpoint["root"], "the event is not in the log that the checkpoint was made of")
print(f"event {proof['position']} is among the {checkpoint['size']}: {record[:-32]!r}")
