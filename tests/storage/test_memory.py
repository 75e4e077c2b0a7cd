"""The store in memory fulfils the contract."""

from eventsrc import Limits, MemoryLog
from eventsrc.storage.contract_reading import ReadingContract
from eventsrc.storage.contract_writing import WritingContract
from eventsrc.storage.store import EventStore


class TestMemoryLog(WritingContract, ReadingContract):
    def open_store(self, limits: Limits | None = None) -> EventStore:
        return MemoryLog(limits=limits)
