"""Which of several addresses is asked: of those that are up the one with the fewest requests.

Refuses to know HTTP and how an address is found to be down.
"""

from collections.abc import Iterable
from time import monotonic

from gateway.upstream.address import Address


class Balance:
    """The addresses of one mount, as one worker sees them."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self.addresses = tuple(addresses)
        self._turn = 0

    def choose(self, tried: list[Address]) -> Address | None:
        """The next to be asked, none of ``tried``; None where no other is left.

        One that could not be connected to lately comes after the others, one that failed its health
        checks never.
        """
        count = len(self.addresses)
        if count == 1:
            [address] = self.addresses
            return None if tried or not address.is_healthy else address
        now = monotonic()
        best: Address | None = None
        for i in range(count):
            address = self.addresses[(self._turn + i) % count]
            is_left = address.is_healthy and address not in tried
            if is_left and (best is None or _load(address, now) < _load(best, now)):
                best = address
        if best is not None:
            self._turn = (self.addresses.index(best) + 1) % count
        return best


def _load(address: Address, now: float) -> tuple[bool, int]:
    return address.down_until > now, address.in_flight
