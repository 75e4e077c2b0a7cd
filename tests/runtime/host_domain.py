"""A domain with a field that needs hooks, and the converter that has them."""

from ipaddress import IPv4Address

import attrs

from eventsrc import Aggregate, applies, command, event, handles, make_converter

converter = make_converter()
converter.register_unstructure_hook(IPv4Address, str)
converter.register_structure_hook(IPv4Address, lambda text, _: IPv4Address(text))


@command
class Seen:
    address: IPv4Address


@event("host.seen")
class WasSeen:
    address: IPv4Address


class Host(Aggregate):
    addresses: list[IPv4Address] = attrs.Factory(list)

    @handles
    def seen(self, command: Seen) -> WasSeen:
        return WasSeen(command.address)

    @applies
    def was_seen(self, event: WasSeen) -> None:
        self.addresses = [*self.addresses, event.address]
