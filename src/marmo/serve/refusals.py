"""What the queue refuses, and jobs that came to nothing, as answers to a caller."""

from marmo.serve.job import DiskFull, Job, KeyConflict, QueueFull, Refusal, Unknown, Unready
from marmo.serve.problems import Problem, busy

SECONDS_TO_START = 5.0
"""When to ask again while no model is ready or the server closes."""

FAILURES = {"request": 422, "model": 422, "memory": 422, "internal": 500, "crash": 500}
"""Why a job failed -> the status of who waited for it."""


def problem_of(refusal: Refusal) -> Problem:
    """The answer to a caller whose wish the queue refused."""
    said = str(refusal)
    match refusal:
        case QueueFull():
            code = "queue_full" if refusal.whose == "server" else "user_queue_full"
            return busy(429, code, said, refusal.retry_after, limit=refusal.limit, waiting=refusal.waiting)
        case DiskFull():
            return Problem(507, "disk_full", said, facts={"bytes_needed": refusal.bytes_needed})
        case Unready():
            return busy(503, "unready", said, SECONDS_TO_START)
        case KeyConflict():
            return Problem(409, "key_conflict", said, {"x-should-retry": "false"}, {"job": refusal.job})
        case Unknown():
            return Problem(404, "unknown", said)
        case _:
            return Problem(422, "refused", said)


def draining() -> Problem:
    """The server ends before the caller's job does."""
    return busy(503, "unready", "the server is closing; the job was cancelled", SECONDS_TO_START)


def failed(job: Job) -> Problem:
    """How a job ended that its caller waited for; trying again would not help."""
    if job.state == "cancelled":
        return Problem(410, "cancelled", "the job was cancelled", facts={"job": job.id})
    said = job.message or "the job came to nothing"
    status = FAILURES.get(job.code or "internal", 500)
    return Problem(status, job.code or "internal", said, {"x-should-retry": "false"}, {"job": job.id})
