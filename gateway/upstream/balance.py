"""Chooses the address for a request: the client's own with sticky clients, if it is up, otherwise
the one with the fewest requests in flight.

Refuses to know HTTP and how an address is found to be down.
"""

from collections.abc import Iterable
from time import monotonic

from gateway.upstream.address import Address
from gateway.upstream.sticky import Sticky
from gateway.wsgi import Environ


class Balance:
    """The addresses of one mount, in one worker."""

    def __init__(self, addresses: Iterable[Address], sticky: Sticky | None = None) -> None:
        self.addresses = tuple(addresses)
        self._sticky = sticky
        self._turn = 0

    def choose(self, tried: list[Address], environ: Environ) -> Address | None:
        """The next address that is not in ``tried``, or None if there is no other.

        An address to which connecting has failed recently comes after the others. One that fails
        its health check is never chosen.
        """
        count = len(self.addresses)
        if count == 1:
            [address] = self.addresses
            return None if tried or not address.is_healthy else address
        now = monotonic()
        if self._sticky is not None and (own := self._find_own(self._sticky, tried, environ, now)):
            return own
        best: Address | None = None
        for i in range(count):
            address = self.addresses[(self._turn + i) % count]
            is_left = address.is_healthy and address not in tried
            if is_left and (best is None or _load(address, now) < _load(best, now)):
                best = address
        if best is not None:
            self._turn = (self.addresses.index(best) + 1) % count
        return best

    def _find_own(
        self, sticky: Sticky, tried: list[Address], environ: Environ, now: float
    ) -> Address | None:
        """The client's own address, if it is up."""
        up = (a for a in self.addresses if a.is_healthy and a.down_until <= now)
        return sticky.choose(environ, [address for address in up if address not in tried])


def _load(address: Address, now: float) -> tuple[bool, int]:
    return address.down_until > now, address.in_flight
