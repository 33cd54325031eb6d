"""Who may come in, and what they may do.

    # NAME SCOPES TOKEN            a token file: one user a line
    ana    generate  q3Zk...
    root   admin     Xv81...

Scopes include one another: admin may do what generate may, generate what read may.  A token arrives as `Authorization:
Bearer TOKEN`, as the password of `Authorization: Basic`, or as a session cookie, and never in a URL.  The server keeps
the sha256 of every token, not the token.  A session is signed with a key made from its user's token, so it outlives a
restart and dies with the token.
"""

import base64
import binascii
import hashlib
import hmac
import ipaddress
import os
import re
import secrets
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

Scope = Literal["read", "generate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""Each includes those before it."""

COOKIE = "marmo_session"
SESSION_SECONDS = 30 * 24 * 3600
MIN_LENGTH = 20
"""Characters of a token; a fresh one has 43."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


@dataclass(frozen=True)
class User:
    """Somebody who was let in."""

    name: str
    scope: Scope

    def may(self, scope: Scope) -> bool:
        """Whether what this scope allows is allowed."""
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


LOCAL = User("local", "admin")
"""Whoever sits at this machine, where no token file was given."""


@dataclass(frozen=True)
class _Entry:
    user: User
    digest: bytes
    key: bytes


class Tokens:
    """The users of a token file.  None at all means that everyone who can connect is `LOCAL`."""

    def __init__(self, users: Sequence[tuple[User, str]] = ()) -> None:
        """Raises `ValueError` for a name that stands twice and for a token that could be guessed."""
        names = [user.name for user, _ in users]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"the user {name} stands twice in the token file; give each a line of their own")
        for user, token in users:
            if len(token) < MIN_LENGTH:
                raise ValueError(
                    f"the token of {user.name} has {len(token)} characters; at least {MIN_LENGTH} keep it from being "
                    "guessed: python -c 'import secrets; print(secrets.token_urlsafe())'"
                )
        self._entries = tuple(_Entry(user, _digest(token), _session_key(token)) for user, token in users)

    @classmethod
    def from_file(cls, path: Path) -> "Tokens":
        """Reads a token file.  Raises `ValueError` for a line that cannot be read and a file that others can read."""
        if os.name == "posix" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise ValueError(f"{path} can be read by others; run: chmod 600 {path}")
        lines = enumerate(path.read_text("utf-8").splitlines(), 1)
        users = [_read_line(path, number, line) for number, line in lines if line.strip() and line.strip()[0] != "#"]
        if not users:
            raise ValueError(f"{path} names nobody; a line is: NAME {'|'.join(SCOPES)} TOKEN")
        return cls(users)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def with_token(self, token: str) -> User | None:
        """Whose token this is.  The time taken does not depend on which, or on how much of it is right."""
        digest, found = _digest(token), None
        for entry in self._entries:
            if hmac.compare_digest(entry.digest, digest):
                found = entry.user
        return found

    def with_header(self, value: str) -> User | None:
        """Whose `Authorization` header this is: Bearer, or Basic with the token as the password."""
        kind, _, rest = value.partition(" ")
        match kind.lower():
            case "bearer":
                return self.with_token(rest.strip())
            case "basic":
                return self.with_token(_basic_password(rest.strip()))
            case _:
                return None

    def session(self, user: User, now: float) -> str:
        """The value of a cookie that stands for this user until `SESSION_SECONDS` from now."""
        entry = next(entry for entry in self._entries if entry.user == user)
        said = f"{user.name}.{int(now) + SESSION_SECONDS}"
        return f"{said}.{_sign(entry.key, said)}"

    def with_session(self, value: str, now: float) -> User | None:
        """Whose cookie this is, if it has not run out."""
        said, _, signature = value.rpartition(".")
        name, _, until = said.partition(".")
        if not until.isascii() or not until.isdecimal() or len(until) > 15 or int(until) < now:
            return None
        for entry in self._entries:
            right = hmac.compare_digest(_sign(entry.key, said).encode(), signature.encode())
            if right and entry.user.name == name:
                return entry.user
        return None


def create_file(path: Path) -> str:
    """Writes a token file with one admin, readable by its owner alone; returns the token."""
    token = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(f"# NAME {'|'.join(SCOPES)} TOKEN, one user a line\nadmin admin {token}\n")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_reach(host: str, tokens: Tokens) -> None:
    """`ValueError` for a server that others could reach without a token."""
    if not is_loopback(host) and not tokens:
        raise ValueError(
            f"--host {host} lets other machines in, and then everyone needs a token; add --token-file FILE "
            "(it is made if it is not there), or listen on 127.0.0.1"
        )


def _read_line(path: Path, number: int, line: str) -> tuple[User, str]:
    words = line.split()
    if len(words) != 3 or not _NAME.fullmatch(words[0]) or words[1] not in SCOPES or not words[2].isascii():
        raise ValueError(f"{path}, line {number}: a line is NAME {'|'.join(SCOPES)} TOKEN")  # says nothing of the line
    name, scope, token = words
    return User(name, SCOPES[SCOPES.index(scope)]), token


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _session_key(token: str) -> bytes:
    return hashlib.sha256(b"marmo session\0" + token.encode()).digest()


def _sign(key: bytes, said: str) -> str:
    return hmac.new(key, said.encode(), hashlib.sha256).hexdigest()


def _basic_password(text: str) -> str:
    try:
        pair = base64.b64decode(text, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return pair.partition(":")[2]
