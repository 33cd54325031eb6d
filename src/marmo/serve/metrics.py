"""The server's own numbers, beside the queue's, in Prometheus' text format (exposition format 0.0.4)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate

BUCKETS = (0.005, 0.025, 0.1, 0.5, 2.5, 10.0)
"""Seconds up to which answers are counted."""


@dataclass
class Metrics:
    """Counted by routes' patterns, never by addresses, so that no caller can make the list long."""

    requests: Counter[tuple[str, str, int]] = field(default_factory=Counter[tuple[str, str, int]])
    """(method, route, status) -> answers."""
    times: Counter[float] = field(default_factory=Counter[float])
    """Bucket -> answers whose first byte took no longer."""
    seconds: float = 0.0
    listeners: int = 0
    """Streams of events that are open."""

    def count(self, method: str, route: str, status: int, seconds: float) -> None:
        """One answer has begun."""
        self.requests[method, route, status] += 1
        self.times[next((top for top in BUCKETS if seconds <= top), float("inf"))] += 1
        self.seconds += seconds

    def text(self, queue: Mapping[str, float]) -> str:
        """All of it; `queue` are the queue's numbers by name."""
        lines = [*self._requests(), *self._times(), "# TYPE marmo_event_listeners gauge"]
        lines.append(f"marmo_event_listeners {self.listeners}")
        for name, value in queue.items():
            full = name if name.startswith("marmo_") else f"marmo_{name}"
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {full} {kind}", f"{full} {value:.15g}"]
        return "\n".join([*lines, ""])

    def _requests(self) -> list[str]:
        rows = sorted(self.requests.items())
        counted = [
            f'marmo_http_requests_total{{method="{method}",route="{route}",status="{status}"}} {count}'
            for (method, route, status), count in rows
        ]
        return ["# TYPE marmo_http_requests_total counter", *counted]

    def _times(self) -> list[str]:
        tops = (*BUCKETS, float("inf"))
        name = "marmo_http_request_duration_seconds"
        sums = list(accumulate(self.times[top] for top in tops))
        labels = [f"{top:g}" if top != float("inf") else "+Inf" for top in tops]
        counted = [f'{name}_bucket{{le="{label}"}} {count}' for label, count in zip(labels, sums, strict=True)]
        return [f"# TYPE {name} histogram", *counted, f"{name}_sum {self.seconds:.6f}", f"{name}_count {sums[-1]}"]
