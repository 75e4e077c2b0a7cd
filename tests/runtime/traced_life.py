"""The life of a program whose calls are traced: it tells what was answered, in a file outside of its folder."""

import json
import os
import sys
from pathlib import Path

import trio
from people_domain import Directory, Names, Person, Register, Say

from eventsrc import Limits, Runtime
from eventsrc.actors.views.sql import SqlViews
from eventsrc.runtime.command_line import main

LIMITS = Limits(snapshot_every_events=3, compaction_events_min=4)


class Life:
    """`told` is the file; the store is in a folder that is new as well."""

    def __init__(self, root: Path, told: Path) -> None:
        self.root, self.path = root, root / "of" / "people.db"
        self._told = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def tell(self, *words: object) -> None:
        os.write(self._told, (json.dumps(words) + "\n").encode())

    async def live(self) -> None:
        views = SqlViews(f"sqlite:///{self.root / 'views.db'}")
        async with Runtime.open(
            self.path, aggregates=[Person], projections=[Names, Directory], limits=LIMITS, views={Directory: views}
        ) as runtime:
            self.tell("opened")
            async with trio.open_nursery() as nursery:
                for name in ("ann", "bob"):
                    nursery.start_soon(self.speak, runtime, name)
            await self.take(runtime, "mailer", 5)
            for name in ("ann", "bob"):
                await runtime.maintenance.compact(Person, name)
                self.tell("compacted", name, "moved")
            self.tell("forgets", "ann")
            self.tell("compacted", "ann", None)
            forgotten = await runtime.forget("ann", wait_for=[Names])
            self.tell("forgot", "ann", forgotten.position)
            self.tell("compacted", "bob", None)
            await runtime.maintenance.uncompact(Person, "bob")
            self.tell("compacted", "bob", "")
            await runtime.projections.rebuild(Directory)
            await runtime.backup(self.root / "backup")
            self.tell("made", "backup", runtime.last_position)
            await runtime.fork(7, self.root / "fork")
            self.tell("made", "fork", 7)
            await self.speak(runtime, "cid")
        views.close()

    async def speak(self, runtime: Runtime, name: str) -> None:
        person = runtime.actor(Person, name)
        receipt = await person.ask(Register(f"secret {name}"), idempotency_key=name)
        self.tell("answered", name, receipt.position, f"secret {name}")
        for count in range(5):
            receipt = await person.ask(Say(f"{name} says {count}"), idempotency_key=f"{name} {count}")
            self.tell("answered", name, receipt.position, f"{name} says {count}")

    async def read(self) -> None:
        """The reader has a folder of its own."""
        async with Runtime.open(self.path, role="reader", projections=[Names], views=self.root / "a" / "b") as runtime:
            await self.take(runtime, "far", 3)

    async def take(self, runtime: Runtime, name: str, count: int) -> None:
        async with runtime.consume(name) as consumer:
            for _ in range(count):
                message = await anext(consumer)
                await message.ack()
                self.tell("acknowledged", name, message.event.position)

    def copy(self) -> None:
        path, export = str(self.path), str(self.root / "export.jsonl.gz")
        for name, words in {
            "export.jsonl.gz": ("export", path, export),
            "imported": ("import", str(self.root / "imported"), export),
            "restored": ("restore", str(self.root / "backup"), str(self.root / "restored")),
            "signing.pem": ("checkpoint", path, "--key", str(self.root / "signing.pem"), "--new-key"),
            "safe.keys": ("keys", path, str(self.root / "safe.keys")),
        }.items():
            assert main(words) == 0
            self.tell("made", name, 0)


if __name__ == "__main__":
    life = Life(Path(sys.argv[1]), Path(sys.argv[2]))
    trio.run(life.live)
    trio.run(life.read)
    life.copy()
