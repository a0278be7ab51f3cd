"""A worker's numbers for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..storage.errors import MissingExtra, SettingsError
from .lane.reading import Reading
from .tally import YIELD_BUCKETS_S, Tally


def serve_metrics(address: str, pool: str, device: str, tally: Tally, lane: Callable[[], Reading]) -> None:
    """Answer GET /metrics at "host:port", in a thread, until the process ends.

    Raises:
        MissingExtra: prometheus-client is not installed.
        SettingsError: the address can't be used.
    """
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ModuleNotFoundError as error:
        raise MissingExtra("metrics of a worker", extra="metrics", module="prometheus_client") from error
    host, _, port = address.rpartition(":")
    registry = CollectorRegistry()
    registry.register(_Worker(pool, device, tally, lane))
    try:
        start_http_server(int(port), addr=host.strip("[]") or "127.0.0.1", registry=registry)
    except (OSError, ValueError, OverflowError) as error:
        raise SettingsError(f"metrics = {address!r} can't be listened on: {error}. Write host:port.") from error


class _Worker:
    """Reads the tally whenever Prometheus asks."""

    def __init__(self, pool: str, device: str, tally: Tally, lane: Callable[[], Reading]) -> None:
        self._labels = {"pool": pool, "device": device}
        self._tally = tally
        self._lane = lane

    def collect(self) -> Iterator[Any]:
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

        names, values = list(self._labels), list(self._labels.values())
        totals, reading = self._tally.totals, self._lane()
        counters = (
            ("holdshort_worker_rows", "Rows answered, well or not.", totals.rows),
            ("holdshort_worker_micro_batches", "Micro-batches executed.", totals.micro_batches),
            ("holdshort_worker_harvested_seconds", "Engine time that batch work got and kept.", totals.harvested_s),
            (
                "holdshort_worker_lost_rows",
                "Rows of micro-batches stopped for a hold; they run again.",
                totals.lost_rows,
            ),
            ("holdshort_worker_lost_seconds", "Engine time thrown away by stopping micro-batches.", totals.lost_s),
            ("holdshort_worker_hold_seconds", "Time for which batch work stood still for a hold.", totals.hold_s),
            ("holdshort_lane_sources_lost", "Lane sources that fell silent without goodbye.", totals.sources_lost),
        )
        for name, says, value in counters:
            counter = CounterMetricFamily(name, says, labels=names)
            counter.add_metric(values, value)
            yield counter
        gauges = (
            ("holdshort_lane_hold", "Whether the worker's lane is held.", float(reading.signal == "hold")),
            ("holdshort_lane_headroom", "Share of time that the lane leaves to batch work.", reading.headroom),
        )
        for name, says, value in gauges:
            gauge = GaugeMetricFamily(name, says, labels=names)
            gauge.add_metric(values, value)
            yield gauge
        yields = HistogramMetricFamily(
            "holdshort_worker_yield_seconds", "From a hold's beginning until batch work stood still.", labels=names
        )
        buckets: list[tuple[str, float]] = []
        seen = 0
        for edge, count in zip([*map(str, YIELD_BUCKETS_S), "+Inf"], self._tally.yield_buckets, strict=True):
            seen += count
            buckets.append((edge, seen))
        yields.add_metric(values, buckets, self._tally.yield_s)
        yield yields
