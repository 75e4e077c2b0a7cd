"""What a program may do with the durable subscriptions of its runtime."""

from typing import Protocol

from ...storage.control.board import ParkedEvent


class SubscriptionSteering(Protocol):
    """Lists and retries parked events, and deletes subscriptions."""

    async def parked(self, name: str | None = None) -> list[ParkedEvent]:
        """The parked events, of one subscription or of all. Raises `SubscriptionNameInvalid`."""

    async def retry(self, name: str, stream: str | None = None) -> int:
        """Hand out parked events again, of one stream or of all; returns how many are handed out at once.

        Without a consumer at present, the events are left for the next consumer, and 0 is returned. Raises
        `UnknownSubscription`.
        """

    async def delete(self, name: str) -> bool:
        """Delete a subscription, its progress and its parked events; returns whether there was one.

        Raises `SubscriptionNameInvalid`.
        """
