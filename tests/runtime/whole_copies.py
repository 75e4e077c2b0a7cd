"""Ways in which a store goes on: opened again, killed, forked, restored, exported and imported. See `test_whole.py`."""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import trio
from projection_cases import tidied
from whole_model import Model

from eventsrc import Runtime
from eventsrc.runtime.command_line import main


class Copies:
    """The folder of the store, which changes with each copy, and the backups made so far."""

    def __init__(self, folder: Path, model: Model, chance: random.Random) -> None:
        self._folder = folder
        self._model = model
        self._chance = chance
        self._backups: list[tuple[Path, int]] = []
        self._numbers: Iterator[int] = iter(range(1_000))
        self.path = self._new("store")
        self.handed_out: set[int] = set()
        """The positions of the events that the store's durable subscription has handed out."""

    def _new(self, name: str) -> Path:
        return self._folder / f"{name}-{next(self._numbers)}"

    async def back_up(self, runtime: Runtime) -> None:
        backup = self._new("backup")
        await runtime.backup(backup)
        self._backups.append((backup, len(self._model.events)))

    async def killed(self, runtime: Runtime) -> Path:
        """What the disk has at this moment is what a killed process leaves."""
        for projection in self._model.generation.projections:
            await tidied(runtime, projection)
        left = self._new("killed")

        def copy() -> None:
            shutil.copytree(self.path, left, ignore=shutil.ignore_patterns("lock.mdb"))
            for file in self._folder.glob(f"{self.path.name}.*"):
                shutil.copy(file, left.with_name(file.name.replace(self.path.name, left.name)))

        # On the thread that writes, and so not in the middle of a commit.
        assert runtime._journal is not None
        await runtime._journal.run(copy)
        return left

    async def go_on(self) -> str:
        """Leave the closed store as it is, or go over to a copy; returns what was done."""
        ways = [self._stay, self._stay, self._fork, self._export, self._restore]
        way = self._chance.choice(ways) if self._model.events else self._stay
        await way()
        return way.__name__

    async def _stay(self) -> None:
        pass

    async def _fork(self) -> None:
        position, fork = self._chance.randint(1, len(self._model.events)), self._new("fork")
        await _eventsrc("fork", self.path, fork, "--at", position)
        await self._go_over(fork, position)

    async def _export(self) -> None:
        """Into a new store, or into an older copy, which gets what it lacks."""
        file, imported = self._new("export.jsonl"), self._new("imported")
        if self._backups and self._chance.random() < 0.5:
            backup, _ = self._chance.choice(self._backups)
            shutil.copytree(backup, imported, ignore=shutil.ignore_patterns("lock.mdb"))
        await _eventsrc("export", self.path, file)
        await _eventsrc("import", imported, file)
        await self._go_over(imported, len(self._model.events))

    async def _restore(self) -> None:
        if not self._backups:
            return
        backup, begin = self._chance.choice(self._backups)
        end, restored, increment = len(self._model.events), self._new("restored"), self._new("increment.jsonl")
        await _eventsrc("backup", self.path, increment, "--since", begin)
        position = self._chance.randint(1, end)
        await _eventsrc("restore", backup, restored, increment, "--to-position", position)
        await self._go_over(restored, position)

    async def _go_over(self, copy: Path, position: int) -> None:
        if self.path.with_name(f"{self.path.name}.keys").exists():
            await _eventsrc("keys", self.path, f"{copy}.keys")
        self.path = copy
        self.handed_out.clear()
        self._model.go_back_to(position)
        self._backups = [(backup, end) for backup, end in self._backups if end <= position]


async def _eventsrc(*arguments: object) -> None:
    """A command, on a thread of its own, since some of them run trio."""
    assert await trio.to_thread.run_sync(main, [*map(str, arguments), "--json"]) == 0
