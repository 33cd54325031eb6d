"""One worker process, seen from the server: messages go in, messages come out, and at some time it is gone."""

import signal
import subprocess
import sys
from collections.abc import Callable
from threading import Thread

from marmo.serve.messages import FROM_WORKER, TO_WORKER, Setup
from marmo.serve.outbox import Outbox

COMMAND = (sys.executable, "-P", "-m", "marmo.serve.worker")
"""-P: what lies in the current folder is not imported."""


class Process:
    """A worker, started.

    Args:
        heard: called with every message of the worker, and
        gone: called with why it ended, once and last; both from a thread of this object.
    """

    def __init__(self, setup: Setup, heard: Callable[[object], None], gone: Callable[[str], None]) -> None:
        self._heard, self._gone = heard, gone
        self._child = subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        assert self._child.stdin is not None and self._child.stdout is not None
        self._outbox = Outbox(self._child.stdin, TO_WORKER)
        self._source = self._child.stdout
        self.send(setup)
        Thread(target=self._listen, name="worker", daemon=True).start()

    @property
    def pid(self) -> int:
        return self._child.pid

    def send(self, message: object) -> None:
        """Returns at once; a worker that is gone hears nothing."""
        self._outbox.put(message)

    def kill(self) -> None:
        """End it without a word; `gone` follows."""
        self._child.kill()

    def _listen(self) -> None:
        reason = None
        try:
            while True:
                self._heard(FROM_WORKER.read(self._source))
        except EOFError:
            pass
        except ValueError as error:
            reason = f"the worker wrote what nobody understands: {error}"
            self._child.kill()
        self._source.close()
        self._outbox.close(0)
        self._gone(reason or _reason(self._child.wait()))


def _reason(status: int) -> str:
    if status >= 0:
        return f"the worker ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = str(-status)
    hint = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the worker was ended by {name}{hint}"
