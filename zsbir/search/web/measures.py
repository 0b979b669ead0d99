"""Counters of a server, in the text form that Prometheus reads."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, float("inf"))


class Measures:
    """Requests by route and status, and how long they took; may be used from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: Counter[tuple[str, int]] = Counter()
        self._buckets: Counter[tuple[str, float]] = Counter()
        self._seconds: Counter[str] = Counter()

    def request(self, route: str, status: int, seconds: float) -> None:
        """Count one request."""
        with self._lock:
            self._requests[route, status] += 1
            self._seconds[route] += seconds  # type: ignore[assignment]
            for bound in _BOUNDS:
                self._buckets[route, bound] += seconds <= bound

    def text(self, photos: int) -> str:
        """Return everything in Prometheus' text format, version 0.0.4.

        Args:
            photos: Size of the index.
        """
        lines = ["# TYPE zsbir_requests_total counter"]
        with self._lock:
            for (route, status), count in sorted(self._requests.items()):
                lines.append(f'zsbir_requests_total{{route="{route}",status="{status}"}} {count}')
            lines.append("# TYPE zsbir_request_seconds histogram")
            for route in sorted(self._seconds):
                for bound in _BOUNDS:
                    name = "+Inf" if bound == float("inf") else f"{bound:g}"
                    count = self._buckets[route, bound]
                    lines.append(f'zsbir_request_seconds_bucket{{route="{route}",le="{name}"}} {count}')
                lines.append(f'zsbir_request_seconds_sum{{route="{route}"}} {self._seconds[route]:.6f}')
                count = self._buckets[route, float("inf")]
                lines.append(f'zsbir_request_seconds_count{{route="{route}"}} {count}')
        lines += ["# TYPE zsbir_photos gauge", f"zsbir_photos {photos}"]
        memory = resident()
        if memory is not None:
            lines += ["# TYPE process_resident_memory_bytes gauge", f"process_resident_memory_bytes {memory}"]
        return "\n".join(lines) + "\n"


def resident() -> int | None:
    """Return the memory of this process in bytes, or None where the system does not say."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
