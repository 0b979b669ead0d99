"""Counters of a server, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest


class Measures:
    """Requests by route and status, how long they took, and the memory of the process.

    Args:
        photos: Returns the size of the index.
    """

    def __init__(self, photos: Callable[[], float]) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter("zsbir_requests", "Answers", ("route", "status"), registry=self._registry)
        self._seconds = Histogram("zsbir_request_seconds", "Time to an answer", ("route",), registry=self._registry)
        Gauge("zsbir_photos", "Photos in the index", registry=self._registry).set_function(photos)
        ProcessCollector(registry=self._registry)

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)
