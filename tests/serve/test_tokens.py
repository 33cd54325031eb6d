"""Who may come in: token files, headers, cookies, and addresses that others can reach."""

import base64
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marmo.serve.tokens import (
    SESSION_SECONDS,
    Tokens,
    User,
    check_reach,
    create_file,
    is_loopback,
)

ANA, BEN, ROOT = User("ana", "generate"), User("ben", "read"), User("root", "admin")
A, B, R = "ana-secret-0123456789", "ben-secret-0123456789", "root-secret-0123456789"


@pytest.fixture
def tokens() -> Tokens:
    return Tokens([(ANA, A), (BEN, B), (ROOT, R)])


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, "utf-8")
    path.chmod(mode)
    return path


def test_a_file_names_users_with_scopes(tmp_path: Path) -> None:
    found = Tokens.from_file(write(tmp_path / "t", f"# people\n\nana generate {A}\n  root\tadmin  {R}\n"))
    assert found.with_token(A) == ANA and found.with_token(R) == ROOT and found.with_token(B) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names nobody"),
        ("# nobody\n", "names nobody"),
        (f"ana generate {A} more", "line 1"),
        (f"ana write {A}", "line 1"),
        (f"../x generate {A}", "line 1"),
        ("ana generate short", "at least 20"),
        (f"ana generate {A}\nana read {B}", "stands twice"),
    ],
)
def test_a_file_that_is_wrong_is_refused_without_its_tokens(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said) as error:
        Tokens.from_file(write(tmp_path / "t", text))
    assert A not in str(error.value) and B not in str(error.value)


@pytest.mark.skipif(os.name != "posix", reason="modes of POSIX")
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o602])
def test_a_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ValueError, match="chmod 600"):
        Tokens.from_file(write(tmp_path / "t", f"ana generate {A}", mode))


def test_a_new_file_lets_its_token_in_and_is_never_overwritten(tmp_path: Path) -> None:
    token = create_file(tmp_path / "deep" / "t")
    user = Tokens.from_file(tmp_path / "deep" / "t").with_token(token)
    assert user == User("admin", "admin") and len(token) >= 40
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "deep" / "t")


def basic(name: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{password}".encode()).decode()


@pytest.mark.parametrize("value", [f"Bearer {A}", f"bearer  {A}", basic("", A), basic("anything", A)])
def test_headers_that_carry_a_token(tokens: Tokens, value: str) -> None:
    assert tokens.with_header(value) == ANA


@pytest.mark.parametrize(
    "value", ["", "Bearer", f"Token {A}", A, f"Bearer {A[:-1]}", f"Bearer {A}x", basic(A, ""), "Basic !", "Basic //8="]
)
def test_headers_that_carry_none(tokens: Tokens, value: str) -> None:
    assert tokens.with_header(value) is None


@given(st.text(max_size=50))
def test_no_text_opens_or_breaks_anything(text: str) -> None:
    tokens = Tokens([(ANA, A)])
    text = text.encode("latin-1", "replace").decode("latin-1")  # as a header is read
    assert tokens.with_header(text) is None
    assert tokens.with_session(text, 0) is None


def test_a_session_lasts_until_its_end_and_not_longer(tokens: Tokens) -> None:
    cookie = tokens.session(ANA, 1000)
    assert tokens.with_session(cookie, 1000 + SESSION_SECONDS) == ANA
    assert tokens.with_session(cookie, 1001 + SESSION_SECONDS) is None


def test_a_session_cannot_be_changed(tokens: Tokens) -> None:
    name, until, signature = tokens.session(ANA, 1000).split(".")
    for forged in (
        f"root.{until}.{signature}",
        f"{name}.{int(until) + 1}.{signature}",
        f"{name}.{until}.",
        f"{name}.{until}",
    ):
        assert tokens.with_session(forged, 1000) is None


def test_a_session_dies_with_its_token_and_outlives_a_restart(tokens: Tokens) -> None:
    cookie = tokens.session(ANA, 1000)
    assert Tokens([(ANA, A)]).with_session(cookie, 1000) == ANA
    assert Tokens([(ANA, "another-secret-0123456789")]).with_session(cookie, 1000) is None
    assert Tokens([(BEN, A)]).with_session(cookie, 1000) is None


def test_scopes_include_one_another() -> None:
    assert [BEN.may(s) for s in ("read", "generate", "admin")] == [True, False, False]
    assert [ANA.may(s) for s in ("read", "generate", "admin")] == [True, True, False]
    assert [ROOT.may(s) for s in ("read", "generate", "admin")] == [True, True, True]


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("[::1]", True), ("localhost", True),
        ("0.0.0.0", False), ("::", False), ("192.168.1.2", False), ("marmo.example", False), ("", False),
        ("localhost.evil.example", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_off_loopback_nobody_comes_in_without_a_token(tokens: Tokens, host: str, local: bool) -> None:
    assert is_loopback(host) is local
    check_reach(host, tokens)
    if local:
        check_reach(host, Tokens())
    else:
        with pytest.raises(ValueError, match="--token-file"):
            check_reach(host, Tokens())
