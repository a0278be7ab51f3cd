"""The gateway's numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

CONTENT_TYPE = CONTENT_TYPE_LATEST.encode()
_FIRST_BYTE_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
_GAP_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class Metrics:
    """One gateway's numbers.

    Args:
        in_flight: how many requests are under way.
        raised_s: for how long there was at least one, in all.
    """

    def __init__(self, *, in_flight: Callable[[], int], raised_s: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        registry = self._registry
        self.requests = Counter(
            "holdshort_gateway_requests", "Requests, by what was answered.", ["status"], registry=registry
        )
        self.first_byte = Histogram(
            "holdshort_gateway_time_to_first_byte_seconds",
            "From the request's arrival to the first byte of its answer's body.",
            buckets=_FIRST_BYTE_S,
            registry=registry,
        )
        self.gap = Histogram(
            "holdshort_gateway_chunk_gap_seconds",
            "Between two chunks of an answer.",
            buckets=_GAP_S,
            registry=registry,
        )
        self.upstream_errors = Counter(
            "holdshort_gateway_upstream_errors", "Faults of the upstream.", ["reason"], registry=registry
        )
        self.disconnects = Counter(
            "holdshort_gateway_client_disconnects", "Clients that left before the end.", registry=registry
        )
        Gauge("holdshort_gateway_requests_in_flight", "Requests under way.", registry=registry).set_function(in_flight)
        self._raised = Counter(
            "holdshort_lane_raised_seconds", "For how long live requests have raised the lane.", registry=registry
        )
        self._raised_s = raised_s
        self._raised_told_s = 0.0

    def text(self) -> bytes:
        """All of them, as Prometheus reads them."""
        raised_s = self._raised_s()
        self._raised.inc(raised_s - self._raised_told_s)
        self._raised_told_s = raised_s
        return generate_latest(self._registry)
