"""The voting booth over real HTTP: it shows, it counts, and it gives nothing away."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from PIL import Image, PngImagePlugin

from marmo.data.folder import Folder
from marmo.evaluate.booth import Booth
from marmo.evaluate.voting import Contest, Session, read_votes

PROMPT = 'a fox </script><script>alert(1)</script> & "quotes" 狐狸'


@pytest.fixture
def booth(tmp_path: Path) -> Iterator[Booth]:
    for name, colour in (("secret-before", "red"), ("secret-after", "blue")):
        (tmp_path / name).mkdir()
        for key in ("fox", "owl"):
            text = PngImagePlugin.PngInfo()
            text.add_text("parameters", f"painted by {name}")
            Image.new("RGB", (8, 8), colour).save(tmp_path / name / f"{key}.png", pnginfo=text)
            (tmp_path / name / f"{key}.txt").write_text(PROMPT, "utf-8")
    contest = Contest({name: Folder(tmp_path / name) for name in ("secret-before", "secret-after")})
    with Booth(Session(contest, tmp_path / "votes.jsonl")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(
    booth: Booth, path: str, body: object = None, *, kind: str = "application/json", host: str | None = None
) -> tuple[http.client.HTTPResponse, bytes]:
    """A request below the token, or of exactly the path that starts with a slash."""
    at = urlsplit(booth.address)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=10)
    connection.putrequest(
        "GET" if body is None else "POST", path if path.startswith("/") else at.path + path, skip_host=True
    )
    connection.putheader("Host", host or at.netloc)
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    if body is not None:
        connection.putheader("Content-Type", kind)
        connection.putheader("Content-Length", str(len(data)))
    connection.endheaders(data)
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer, text


def test_a_whole_session_over_http(booth):
    """Everyone prefers blue: the file says which folder that was, the page never did."""
    for number in range(2):
        answer, text = ask(booth, "ballot")
        assert json.loads(text) == {"number": number, "prompt": PROMPT, "done": number, "total": 2}
        colours = {}
        for side in ("left", "right"):
            answer, data = ask(booth, f"picture/{number}/{side}")
            assert answer.headers["Content-Type"] == "image/png"
            colours[side] = Image.open(BytesIO(data)).convert("RGB").getpixel((0, 0))
        blue = next(side for side, colour in colours.items() if colour == (0, 0, 255))
        answer, text = ask(booth, "vote", {"number": number, "choice": blue, "seconds": 2.5})
        assert answer.status == 200
    assert json.loads(text) == {"number": None, "prompt": "", "done": 2, "total": 2}
    votes = read_votes(booth.session.path)
    assert [vote.winner for vote in votes] == ["secret-after", "secret-after"]
    assert [vote.seconds for vote in votes] == [2.5, 2.5]


def test_nothing_that_is_sent_names_a_folder(booth):
    sent = [ask(booth, path) for path in ("", "ballot", "picture/0/left", "picture/0/right", "nowhere")]
    for answer, data in sent:
        assert b"secret" not in data
        assert "secret" not in str(answer.headers)
        assert b"fox.png" not in data
    assert "parameters" not in Image.open(BytesIO(sent[2][1])).info


def test_the_page_runs_no_script_but_its_own(booth):
    answer, page = ask(booth, "")
    policy = answer.headers["Content-Security-Policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    assert policy.startswith("default-src 'none'; script-src 'nonce-")
    assert page.count(f'<script nonce="{nonce}">'.encode()) == page.count(b"<script") == 1
    assert nonce not in ask(booth, "")[0].headers["Content-Security-Policy"]  # another one each time
    assert b"alert(1)" not in page  # the prompt comes as JSON and becomes text
    assert b"innerHTML" not in page
    assert b"http" not in page.replace(b"https", b"http")  # nothing from elsewhere


@pytest.mark.parametrize(
    "path",
    [
        "/", "/ballot", "/wrong/ballot", "/wrong/", "//", "/%2e%2e/ballot", "nowhere", "picture/0", "picture/2/left",
        "picture/-1/left", "picture/0/up", "picture/0/left/", "picture/../ballot",
        "picture/0/../../../../etc/passwd", "..%2f..%2fetc%2fpasswd", "votes.jsonl", "secret-after/fox.png",
        "picture/99999999999999999999999999/left", "ballot/",
    ],
)  # fmt: skip
def test_other_addresses_lead_nowhere(booth, path):
    answer, data = ask(booth, path)
    assert (answer.status, data) == (404, b"Not Found")


@pytest.mark.parametrize("path", [b"/\xc3\xa9/ballot", b"/TOKEN/picture/\xd9\xa3/left", b"/TOKEN/\xff", b"/TOKEN/\0"])
def test_bytes_that_no_browser_sends_lead_nowhere_either(booth, path):
    with socket.create_connection(("127.0.0.1", booth.server_port), timeout=10) as stream:
        host = urlsplit(booth.address).netloc.encode()
        stream.sendall(
            b"GET " + path.replace(b"TOKEN", booth.token.encode()) + b" HTTP/1.0\r\nHost: " + host + b"\r\n\r\n"
        )
        assert stream.recv(100).split()[1] in (b"400", b"404")
    assert ask(booth, "ballot")[0].status == 200


def test_a_page_elsewhere_that_calls_itself_this_machine_gets_nothing(booth):
    """DNS rebinding: the address resolves to 127.0.0.1, but the browser says which name it asked for."""
    assert ask(booth, "ballot", host="evil.example")[0].status == 404
    assert ask(booth, "ballot", host=f"localhost:{booth.server_port}")[0].status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        ({"number": 0, "choice": "up", "seconds": 1}, "application/json", 400),
        ({"number": 0, "choice": ["left"], "seconds": 1}, "application/json", 400),
        ({"number": "0", "choice": "left", "seconds": 1}, "application/json", 400),
        ({"number": 0, "choice": "left", "seconds": float("nan")}, "application/json", 400),
        ({"number": 0, "choice": "left"}, "application/json", 400),
        ({"number": 1, "choice": "left", "seconds": 1}, "application/json", 409),
        ({"number": 0, "choice": "left", "seconds": 1}, "text/plain", 400),
        (b"\xff", "application/json", 400),
        (b"[" * 900, "application/json", 400),
        (b" " * 2000, "application/json", 400),
        ([], "application/json", 400),
    ],
)
def test_what_is_no_vote_is_refused_and_nothing_is_written(booth, body, kind, status):
    answer, _ = ask(booth, "vote", body, kind=kind)
    assert answer.status == status
    assert not booth.session.path.exists()


def test_two_at_once_give_one_vote(booth):
    """A double click, or two windows."""
    found: list[int] = []

    def click() -> None:
        found.append(ask(booth, "vote", {"number": 0, "choice": "left", "seconds": 1})[0].status)

    threads = [threading.Thread(target=click) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [200] + [409] * 7
    assert len(read_votes(booth.session.path)) == 1


def test_a_picture_that_is_gone_is_an_error_and_not_the_end(booth, tmp_path):
    (tmp_path / "secret-before" / "fox.png").write_bytes(b"no picture")
    number = next(ballot.number for ballot in booth.session.ballots if ballot.key == "fox")
    statuses = {ask(booth, f"picture/{number}/{side}")[0].status for side in ("left", "right")}
    assert statuses == {200, 500}
    assert ask(booth, "ballot")[0].status == 200


def test_it_listens_on_this_machine_alone_and_behind_a_long_token(booth):
    assert booth.server_address[0] == "127.0.0.1"
    assert len(booth.token) >= 20
