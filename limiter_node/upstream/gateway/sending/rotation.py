"""The rotation of a service's addresses: requests go to one after the other, and failing ones are left out for a while.

An address that failed `EJECT_AFTER` times in a row gets no requests for `EJECT_S`; then one request tries it, and
others follow if that succeeds. If no other address is left, ejected ones are asked all the same: a service with one
address is never given up. A failure is no answer, a broken one, or a status of 500 and above; a refusal isn't.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from yarl import URL

from limiter_node.upstream.gateway.sending.service_address import ServiceAddress


class Rotation:
    """Order the addresses of one service for each request. `clock` is in seconds, monotonic."""

    def __init__(self, service: str, urls: Sequence[URL], clock: Callable[[], float]) -> None:
        self.addresses = tuple(ServiceAddress(service, url, clock) for url in urls)
        self._clock = clock
        self._next = 0

    @property
    def is_single(self) -> bool:
        """Whether the service has only one address."""
        return len(self.addresses) == 1

    def order(self, *, may_try: bool = True) -> Sequence[ServiceAddress]:
        """Return all addresses, in the order in which this request has to try them.

        `may_try`: the request may be the one that tries an ejected address, and notes the outcome.
        """
        addresses = self.addresses
        if len(addresses) == 1:
            return addresses
        first = self._next
        self._next = (first + 1) % len(addresses)
        turned = [*addresses[first:], *addresses[:first]]
        if not any(address.is_out for address in turned):
            return turned
        now_s = self._clock()
        due, tried = None, []
        if may_try:
            due = next((address for address in turned if address.is_out and address.out_until_s() <= now_s), None)
        if due is not None:
            due.try_again(now_s)
            tried = [due]  # first, else it might not be asked at all
        inside = [address for address in turned if not address.is_out]
        outside = [address for address in turned if address.is_out and address is not due]
        return [*tried, *inside, *sorted(outside, key=ServiceAddress.out_until_s)]
