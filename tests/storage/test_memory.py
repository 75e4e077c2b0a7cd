"""The store in memory fulfils the contract."""

from eventsrc import Limits, MemoryLog
from eventsrc.storage.contract import ReadingContract, WritingContract
from eventsrc.storage.store import EventStore


class TestMemoryLog(WritingContract, ReadingContract):
    def open_store(self, limits: Limits | None = None) -> EventStore:
        return MemoryLog(limits=limits)
