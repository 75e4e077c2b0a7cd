"""Damages copies of a store, page by page and byte by byte, and prints what is found of each: run by `test_damage`.

A program of its own, since it forks for every case: a damaged page may end a process.
"""

import json
import os
import random
import shutil
import sys
from contextlib import closing
from pathlib import Path

from eventsrc.storage.archive.archive import ARCHIVE_TABLES
from eventsrc.storage.environment.environment import TABLES, Environment
from eventsrc.storage.errors import StoreError
from eventsrc.storage.verification.verify import verify, verify_pages

PAGE = 4_096
META_PAGES = 2
ARCHIVE_EVERY = 5
"""Each fifth case damages the archive."""


def contents(path: Path) -> list[tuple[bytes, bytes]]:
    found = []
    for folder, tables in ((path, TABLES), (path / "archive", ARCHIVE_TABLES)):
        with (
            closing(Environment(folder, read_only=True, tables=tables)) as environment,
            environment.read() as transaction,
        ):
            for name in tables:
                with transaction.cursor(environment.table(name)) as cursor:
                    found += [(key, value) for key, value in cursor]
    return found


def damaged(data: bytes, kind: str, chance: random.Random) -> bytes:
    content = bytearray(data)
    here, there = (chance.randrange(META_PAGES, len(data) // PAGE) * PAGE for _ in range(2))
    if kind == "change":
        content[here + chance.randrange(PAGE)] ^= 1 << chance.randrange(8)
    elif kind == "remove":
        content[here : here + PAGE] = bytes(PAGE)
    elif kind == "reorder":
        content[here : here + PAGE], content[there : there + PAGE] = (
            data[there : there + PAGE],
            data[here : here + PAGE],
        )
    else:
        at = here + chance.randrange(PAGE - 8)
        content[at : here + PAGE] = (b"inserted" + content[at : here + PAGE])[: here + PAGE - at]
    return bytes(content)


def what_is_found(path: Path, sound: list[tuple[bytes, bytes]]) -> str:
    pages = verify_pages(path)
    if pages:
        return str(pages[0])
    try:
        with closing(Environment(path, read_only=True)) as environment:
            findings = list(verify(environment))
    except StoreError as error:
        return f"refused: {error}"
    if findings:
        return str(findings[0])
    # What a page holds besides entries is nobody's.
    return "nothing was changed" if contents(path) == sound else "MISSED"


def main(store: Path, folder: Path, cases: int, seed: int) -> None:
    sound = contents(store)
    chance = random.Random(seed)
    for number in range(cases):
        copy = folder / "copy"
        shutil.copytree(store, copy)
        kind = ("change", "remove", "reorder", "insert")[number % 4]
        file = "archive/data.mdb" if number % ARCHIVE_EVERY == 0 else "data.mdb"
        (copy / file).write_bytes(damaged((store / file).read_bytes(), kind, chance))
        receiver, sender = os.pipe()
        child = os.fork()
        if not child:
            found = "the check itself failed"
            try:
                found = what_is_found(copy, sound)
            finally:
                os.write(sender, found.encode()[:4_000])
                os._exit(0)
        os.close(sender)
        _, status = os.waitpid(child, 0)
        found = os.read(receiver, 4_000).decode() if status == 0 else f"ended by signal {status}"
        os.close(receiver)
        print(json.dumps({"case": number, "kind": kind, "found": found}), flush=True)
        shutil.rmtree(copy)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
