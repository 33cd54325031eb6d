"""The voting booth: a page on this machine that shows two pictures and takes the answer.

    marmo evaluate vote before/ after/ --votes votes.jsonl

It listens on 127.0.0.1 alone, below an address with a random token.  The page learns a ballot's number, its prompt and
its two pictures, and nothing of where they are from: pictures are asked for by number and side, are written anew
without their texts, and have no names.  No address leads to a file.
"""

import hmac
import json
import secrets
import webbrowser
from collections.abc import Sequence
from functools import lru_cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from io import BytesIO
from pathlib import Path
from typing import cast, get_args

from marmo.data.pictures import open_items
from marmo.evaluate.voting import Ballot, Choice, Contest, Session, Side, read_votes, tally
from marmo.files.pictures import decode_image

MAX_BODY = 1000
"""Bytes of a vote; the longest has under a hundred."""


class Booth(ThreadingHTTPServer):
    """A server for one session; `serve_forever` runs it, `address` is where."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.session, self.token = session, secrets.token_urlsafe(16)
        self.prompt = lru_cache(maxsize=16)(session.contest.prompt)
        self.picture = lru_cache(maxsize=16)(self._picture)

    @property
    def address(self) -> str:
        """Where the page is; who knows it may vote."""
        return f"http://127.0.0.1:{self.server_port}/{self.token}/"

    def _picture(self, number: int, side: Side) -> bytes:
        """A picture as PNG, whatever it was: neither its format nor its texts tell where it is from."""
        ballot = self.session.ballots[number]
        data = self.session.contest.picture(ballot.left if side == "left" else ballot.right, ballot.key)
        stream = BytesIO()
        decode_image(data).save(stream, "PNG", compress_level=1)
        return stream.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """Four addresses below the token: the page, `ballot`, `picture/NUMBER/SIDE`, and `vote` to post to."""

    timeout = 60
    server_version, sys_version = "marmo", ""

    def do_GET(self) -> None:
        match self._path():
            case [""]:
                self._page()
            case ["ballot"]:
                self._ballot(HTTPStatus.OK)
            case ["picture", number, ("left" | "right") as side] if number.isascii() and number.isdecimal():
                self._picture(int(number[:9]), side)
            case _:
                self._refuse(HTTPStatus.NOT_FOUND)

    def do_POST(self) -> None:
        if self._path() != ["vote"]:
            return self._refuse(HTTPStatus.NOT_FOUND)
        match self._body():
            case {"number": int(number), "choice": str(choice), "seconds": int() | float() as seconds} if (
                choice in get_args(Choice) and 0 <= seconds < 1e9
            ):
                voted = self._booth.session.vote(number, cast(Choice, choice), round(seconds, 3))
                self._ballot(HTTPStatus.OK if voted else HTTPStatus.CONFLICT)
            case _:
                self._refuse(HTTPStatus.BAD_REQUEST)

    def log_message(self, format: str, *args: object) -> None:
        """Silent: the lines would show the token."""

    @property
    def _booth(self) -> Booth:
        return cast(Booth, self.server)

    def _path(self) -> list[str] | None:
        """What was asked for below the token; `None` for a stranger, or a page elsewhere that names this machine."""
        port = self._booth.server_port
        if self.headers.get("Host") not in (f"127.0.0.1:{port}", f"localhost:{port}"):
            return None
        _, _, rest = self.path.partition("/")
        token, slash, below = rest.partition("/")
        if not slash or not hmac.compare_digest(token.encode("latin-1", "replace"), self._booth.token.encode()):
            return None
        return below.split("/")

    def _body(self) -> object:
        length = self.headers.get("Content-Length", "")
        is_json = self.headers.get("Content-Type", "").partition(";")[0].strip() == "application/json"
        if not is_json or not length.isdecimal() or int(length) > MAX_BODY:
            return None
        try:
            return json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError):
            return None

    def _page(self) -> None:
        nonce = secrets.token_urlsafe(16)
        page = resources.files("marmo.evaluate").joinpath("booth.html").read_text("utf-8").replace("NONCE", nonce)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src 'self' data:; "
            "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        self._send(HTTPStatus.OK, "text/html; charset=utf-8", page.encode(), policy=policy)

    def _ballot(self, status: HTTPStatus) -> None:
        session = self._booth.session
        ballot: Ballot | None = session.now
        answer = {
            "number": ballot.number if ballot else None,
            "prompt": self._booth.prompt(ballot.key) if ballot else "",
            "done": session.done,
            "total": len(session.ballots),
        }
        self._send(status, "application/json", json.dumps(answer).encode())

    def _picture(self, number: int, side: Side) -> None:
        if number >= len(self._booth.session.ballots):
            return self._refuse(HTTPStatus.NOT_FOUND)
        try:
            data = self._booth.picture(number, side)
        except ValueError:
            return self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR)
        self._send(HTTPStatus.OK, "image/png", data, cache="private, max-age=600")

    def _refuse(self, status: HTTPStatus) -> None:
        self.close_connection = True  # what was sent along has not been read
        self._send(status, "text/plain; charset=utf-8", status.phrase.encode())

    def _send(
        self, status: HTTPStatus, kind: str, data: bytes, cache: str = "no-store", policy: str = "default-src 'none'"
    ) -> None:
        self.send_response(status)
        for name, value in (
            ("Content-Type", kind),
            ("Content-Length", str(len(data))),
            ("Cache-Control", cache),
            ("Content-Security-Policy", policy),
            ("Referrer-Policy", "no-referrer"),
            ("X-Content-Type-Options", "nosniff"),
        ):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def open_booth(
    folders: Sequence[Path], votes: Path, voter: str = "", seed: int = 0, port: int = 0, browser: bool = True
) -> None:
    """Compare folders of pictures without knowing whose is which; ends with Ctrl-C, and goes on next time.

    Args:
        folders: two or more, with pictures of the same names; tars are fine too.
        votes: where the answers go; several voters may share it.
        seed: of order and sides.
        port: 0 takes a free one.
        browser: whether to open the page.
    """
    if len({folder.resolve().name for folder in folders}) < len(folders):
        raise ValueError("the folders need different names: votes are counted by them")
    contest = Contest({folder.resolve().name: open_items(folder) for folder in folders})
    session = Session(contest, votes, voter, seed)
    with Booth(session, port) as booth:
        print(f"{len(session.ballots) - session.done} ballots: {booth.address}  (Ctrl-C ends it)", flush=True)
        if browser:
            webbrowser.open(booth.address)
        try:
            booth.serve_forever()
        except KeyboardInterrupt:
            print()
    if counted := read_votes(votes):
        print(tally(counted).verdict)
