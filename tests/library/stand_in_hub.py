"""A hub on 127.0.0.1: the calls of the Hugging Face hub's API that fetching a model makes, and nothing else."""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/models/([^/]+/[^/]+)/(revision|tree)/([^/]+)")
_FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")


@dataclass
class StandInHub:
    """One repository."""

    repo: str
    files: dict[str, bytes]
    url: str = ""
    asked: list[tuple[str, str, str | None]] = field(default_factory=list[tuple[str, str, str | None]])
    """Method, path and range of every request."""
    cut: int | None = None
    """After so many bytes of a file's body the next answer breaks off, once."""

    def fetched(self) -> set[str]:
        """The files whose bytes were asked for."""
        return {found[3] for method, path, _ in self.asked if method == "GET" and (found := _FILE.fullmatch(path))}


@contextmanager
def serving(repo: str, folder: Path) -> Iterator[StandInHub]:
    """The files of a folder as a repository."""
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub = StandInHub(repo, files)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: StandInHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.asked.append((self.command, path, self.headers.get("Range")))
            if (call := _API.fullmatch(path)) and call[1] == hub.repo and call[3] in ("main", COMMIT):
                self.send(200, json.dumps(info() if call[2] == "revision" else tree()).encode(), {}, body)
            elif (file := _FILE.fullmatch(path)) and file[1] == hub.repo and file[3] in hub.files:
                self.file(hub.files[file[3]], body)
            else:
                code = "RevisionNotFound" if call and call[1] == hub.repo else "RepoNotFound"
                self.send(404, b"{}", {"X-Error-Code": code, "X-Error-Message": "not here"}, body)

        def file(self, data: bytes, body: bool) -> None:
            headers = {
                "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                "X-Repo-Commit": COMMIT,
                "Accept-Ranges": "bytes",
            }
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted is None:
                self.send(200, data, headers, body)
                return
            first, last = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self.send(206, data[first : last + 1], headers, body)

        def send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {
                "Content-Length": str(len(data)),
                "Content-Type": "application/json",
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            if not body:
                return
            if hub.cut is not None and len(data) > hub.cut:
                self.wfile.write(data[: hub.cut])
                hub.cut, self.close_connection = None, True
            else:
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            pass

    def info() -> object:
        return {"id": hub.repo, "sha": COMMIT, "siblings": [{"rfilename": name} for name in hub.files]}

    def tree() -> object:
        folders = {name.rpartition("/")[0] for name in hub.files} - {""}
        return [
            *({"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in sorted(folders)),
            *({"type": "file", "path": name, "oid": "0" * 40, "size": len(data)} for name, data in hub.files.items()),
        ]

    return Handler
