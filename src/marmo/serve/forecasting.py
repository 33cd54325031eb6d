"""How long a job still takes, from the steps that were measured.

work = steps * pictures * pixels, the unit in which jobs of one model compare
"""

from marmo.request import ImageRequest

WEIGHT = 0.2
"""Of the newest step in the running mean."""


def work_of(request: ImageRequest, size: tuple[int, int]) -> float:
    """Of a resolved request for pictures of this size; a family without steps counts as one step."""
    return float((request.steps or 1) * request.num_images * size[0] * size[1])


class Forecast:
    """Seconds per unit of work, for each model: a running mean over steps, with all that ran beside them."""

    def __init__(self) -> None:
        self._paces: dict[str, float] = {}

    def learn(self, model: str, work: float, seconds: float) -> None:
        """Some work, of one job or of several side by side, took this long."""
        pace = seconds / max(work, 1.0)
        known = self._paces.get(model, pace)
        self._paces[model] = known + WEIGHT * (pace - known)

    def seconds(self, model: str, work: float) -> float | None:
        """How long the work will take; by the slowest model if this one was never seen, `None` before any was."""
        pace = self._paces.get(model, max(self._paces.values(), default=None))
        return None if pace is None else pace * work
