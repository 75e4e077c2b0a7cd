"""Who follows a store while it changes: a subscription, and a consumer that remembers. See `test_whole.py`."""

from waiting import until
from whole_model import Model

from eventsrc import Runtime, StoredEvent


class Followers:
    """Of one open runtime. `handed_out` has the positions that the consumer got, in this runtime or before."""

    def __init__(self, runtime: Runtime, model: Model, handed_out: set[int]) -> None:
        self._runtime = runtime
        self._model = model
        self._handed_out = handed_out
        self._followed: list[StoredEvent] = []
        self._consumed: list[StoredEvent] = []

    async def follow(self) -> None:
        async for batch in self._runtime.subscribe(batch_size=3):
            self._followed += batch

    async def consume(self) -> None:
        async def take(event: StoredEvent) -> None:
            self._consumed.append(event)
            self._handed_out.add(event.position)

        async with self._runtime.consume("all") as consumer:
            await consumer.run(take)

    async def check(self) -> None:
        """Both get every event, and the consumer those of each stream in order, and none twice."""
        events = [event.at for event in self._model.events]
        await until(lambda: len(self._followed) >= len(events) and len(self._handed_out) >= len(events))
        assert self._followed == events
        for stream in {event.stream for event in events}:
            versions = [event.version for event in self._consumed if event.stream == stream]
            assert versions == sorted(set(versions))
