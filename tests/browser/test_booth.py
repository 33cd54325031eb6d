"""The voting booth in a real browser: keys and clicks, the end, and prompts that want to be more than text."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from marmo.data.folder import Folder
from marmo.evaluate.booth import Booth
from marmo.evaluate.voting import Contest, Session, read_votes

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")

pytestmark = [pytest.mark.long, pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")]

PROMPT = "<img src=x onerror=\"document.title='taken'\"> 狐狸"


@pytest.fixture
def booth(tmp_path: Path) -> Iterator[Booth]:
    for name, colour in (("before", "red"), ("after", "blue")):
        (tmp_path / name).mkdir()
        for key in ("cat", "fox", "owl"):
            Image.new("RGB", (64, 48), colour).save(tmp_path / name / f"{key}.png")
            (tmp_path / name / f"{key}.txt").write_text(PROMPT, "utf-8")
    contest = Contest({name: Folder(tmp_path / name) for name in ("before", "after")})
    with Booth(Session(contest, tmp_path / "votes.jsonl")) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_voter_answers_with_keys_and_clicks_and_comes_back(booth):
    complaints: list[str] = []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        ready = "main:not(.busy)"
        page.goto(booth.address)
        page.wait_for_selector(ready)
        assert page.inner_text("h1") == PROMPT
        assert page.title() == "Which is better?"
        page.keyboard.press("ArrowLeft")
        page.wait_for_selector("progress[value='1']")
        page.reload()
        page.wait_for_selector(ready)
        page.keyboard.press("Space")
        page.wait_for_selector("progress[value='2']")
        page.wait_for_selector(ready)
        assert page.evaluate("document.getElementById('left').naturalWidth") == 64
        page.click("#right")
        page.wait_for_selector("#end:visible")
        assert not page.is_visible("main")
        browser.close()
    assert [vote.choice for vote in read_votes(booth.session.path)] == ["left", "tie", "right"]
    assert complaints == []
