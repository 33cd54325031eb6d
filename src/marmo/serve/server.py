"""From an application to a process: one socket, patient with nobody, and an end that loses nothing.

SIGTERM or Ctrl-C: no more jobs are taken, running ones get their time and are parked after it, streams end, exit 0.
A second signal parks at once.
"""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import sys
from collections.abc import Generator
from types import FrameType

import uvicorn

from marmo.serve.context import Context
from marmo.serve.doors import App
from marmo.serve.protocol import protocol

CONNECTIONS = 8192
"""Open at one time; more are answered 503."""
HEAD_BYTES = 32_768
"""Of a request's first line and headers."""
LAST_WORDS = 3.0
"""Seconds for answers that are still being sent when all jobs are parked."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Server(uvicorn.Server):
    """uvicorn, with our way to end."""

    def __init__(self, app: App, context: Context) -> None:
        patience = context.settings.patience
        config = uvicorn.Config(
            app,  # pyright: ignore[reportArgumentType] ASGI as we write it down is looser than uvicorn does
            http=protocol(patience.headers),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=round(patience.idle),
            timeout_graceful_shutdown=round(LAST_WORDS),
            h11_max_incomplete_event_size=HEAD_BYTES,
        )
        super().__init__(config)
        self.context = context
        self._ends: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Signals end the server in its own time; afterwards whoever had them before has them again."""
        loop = asyncio.get_running_loop()

        def told(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self.end, number)

        before = {number: signal.signal(number, told) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def end(self, number: int = 0) -> None:
        """Begin to end; a second time, at once."""
        self.context.log.write("ending", signal=number)
        patience = 0.0 if self._ends else self.context.settings.patience.drain
        self._ends = asyncio.ensure_future(self._drain(patience))

    async def _drain(self, seconds: float) -> None:
        await self.context.jobs.drain(seconds)
        self.context.closing.set()
        self.should_exit = True


async def run(app: App, context: Context, listener: socket.socket) -> None:
    """Opens the queue, answers until a signal comes, closes the queue.  `ValueError` as `Jobs.opened`."""
    server = Server(app, context)
    async with context.jobs.opened():
        context.log.write("listening", port=listener.getsockname()[1])
        await server.serve(sockets=[listener])
        if context.errands:
            await asyncio.wait(context.errands, timeout=LAST_WORDS)
    context.log.write("ended")


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; `ValueError` for an address that this machine does not have or that is taken."""
    if not 0 <= port <= 65535:
        raise ValueError(f"--port is 0 to 65535, not {port}")
    address = host.strip("[]")
    family = socket.AF_INET6 if _is_v6(address) else socket.AF_INET
    try:
        listener = socket.create_server((address, port), family=family, backlog=2048)
    except OSError as error:
        raise ValueError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    listener.setblocking(False)
    return listener


def raise_file_limit() -> None:
    """Every listener is an open file, and many systems give a program 1024 of them until it asks for more."""
    if sys.platform == "win32":
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS * 2 if most == resource.RLIM_INFINITY else min(most, CONNECTIONS * 2)
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _is_v6(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).version == 6
    except ValueError:
        return False
