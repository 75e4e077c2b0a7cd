"""A person asks to be forgotten, and what an agent has stored of them cannot be read any more, in a backup neither."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import attrs
import trio

from eventsrc import (
    Aggregate,
    EventMeta,
    Personal,
    Projection,
    Runtime,
    Table,
    applies,
    command,
    event,
    handles,
    on,
)

from .story import tell

SECRET = "my card ends in 4242"


@command
class Say:
    speaker: str
    text: str


@event("conversation.said")
class Said:
    speaker: str  # an id that says nothing of itself
    text: Annotated[str, Personal("speaker", forgotten="(forgotten)")]


@attrs.frozen
class Line:
    speaker: str
    text: Annotated[str, Personal("speaker", forgotten="(forgotten)")]


class Conversation(Aggregate):
    """Several people speak to an agent; each line is about the one who said it."""

    lines: list[Line] = attrs.field(factory=list)

    @handles
    def say(self, command: Say) -> Said:
        return Said(command.speaker, command.text)

    @applies
    def said(self, event: Said) -> None:
        self.lines.append(Line(event.speaker, event.text))


@attrs.frozen
class Spoken:
    position: int
    speaker: str
    text: str


class Transcript(Projection):
    """Shows the text as it was said: the view is rebuilt when a speaker is forgotten."""

    rows = Table(Spoken, key="position", indexes=["speaker"])

    @on(Said)
    def said(self, event: Said, meta: EventMeta) -> None:
        self.rows.put(Spoken(meta.position, event.speaker, event.text))


async def main(store: Path) -> dict[str, Any]:
    """Run the demo on the store in this folder; returns the store's final contents."""
    backup, keys = store.with_name(f"{store.name}.backup"), store.with_name(f"{store.name}.keys")
    async with Runtime.open(store, aggregates=[Conversation], projections=[Transcript]) as runtime:
        chat = runtime.actor(Conversation, "42")
        if not runtime.last_position:
            await chat.ask(Say("person-1", f"refund me, {SECRET}"))
            await chat.ask(Say("agent", "done, anything else?"))
            await chat.ask(Say("person-2", "I am here, too"), wait_for=[Transcript])
            await runtime.backup(backup)

            held = [stored async for stored in runtime.events(subject="person-1")]
            print(f"of person-1 is stored, sealed: {runtime.decode(held[0]).text!r}")
            found = await trio.to_thread.run_sync(_files_with, SECRET, store)
            print(f"files with it as it was said: {', '.join(sorted(found))} (a view, nothing else)")

            forgotten = await runtime.forget("person-1", metadata={"principal": "dpo"}, wait_for=[Transcript])
            print(f"\nforgotten: {forgotten.events} event in {', '.join(forgotten.streams)}")

        lines = (await chat.state()).lines
        print("the conversation now:")
        for line in lines:
            print(f"  {line.speaker}: {line.text}")
        rows = await runtime.view(Transcript.rows).where(speaker="person-1").rows()
        print(f"its view: {', '.join(row.text for row in rows)}")
        found = await trio.to_thread.run_sync(_files_with, SECRET, store)
        print(f"files with it as it was said: {', '.join(sorted(found)) or 'none'}")

    async with Runtime.open(backup, aggregates=[Conversation], keys=keys) as copy:
        before = (await copy.actor(Conversation, "42").state()).lines
    print(f"the backup from before: {before[0].text!r}, and still {before[2].text!r}")
    return {"lines": [line.text for line in lines], "backup": [line.text for line in before], "files": sorted(found)}


def _files_with(text: str, folder: Path) -> set[str]:
    """Which files below a folder hold this text, as paths within it."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {str(file.relative_to(folder)) for file in files if text.encode() in file.read_bytes()}


def run(argv: Sequence[str]) -> int:
    """Run the demo with these arguments and return the exit code."""
    return tell("forget", __doc__, main, argv)
