"""Requests as programs send them, built from their sources: line by line, header by header.

    Open WebUI    backend/open_webui/routers/images.py (2026), with aiohttp
    SillyTavern   src/endpoints/stable-diffusion.js and its extension's index.js, with node-fetch

HOST stands for the server's address, AUTH for `user:token` in base64.
"""

import base64
import http.client
import json
import socket
from dataclasses import dataclass

AIOHTTP = "Accept: */*\r\nAccept-Encoding: gzip, deflate\r\nUser-Agent: Python/3.11 aiohttp/3.13.2\r\n"
NODE = "Accept: */*\r\nUser-Agent: node-fetch\r\nAccept-Encoding: gzip,deflate,br\r\nConnection: close\r\n"


@dataclass(frozen=True)
class Reply:
    status: int
    body: bytes

    def json(self):
        return json.loads(self.body)


@dataclass(frozen=True)
class Line:
    """A connection's other end."""

    host: str
    port: int
    auth: str
    """user:token"""

    def send(self, head: str, body: bytes = b"") -> socket.socket:
        """Sends one request; who wants the answer reads it."""
        coded = base64.b64encode(self.auth.encode()).decode()
        text = head.replace("HOST", f"{self.host}:{self.port}").replace("AUTH", coded)
        connection = socket.create_connection((self.host, self.port), timeout=20)
        connection.sendall(text.encode("latin-1") + b"\r\n" + body)
        return connection

    def ask(self, head: str, body: bytes = b"") -> Reply:
        with self.send(head, body) as connection:
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Reply(response.status, response.read())


def webui_get(path: str) -> str:
    """Open WebUI's A1111 engine; without credentials it sends an empty header."""
    return f"GET {path} HTTP/1.1\r\nHost: HOST\r\nauthorization: Basic AUTH\r\n{AIOHTTP}"


def webui_post(path: str, value: object) -> tuple[str, bytes]:
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: HOST\r\nauthorization: Basic AUTH\r\n{AIOHTTP}"
    return head + f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n", body


def webui_openai(path: str, value: object, token: str) -> tuple[str, bytes]:
    """Open WebUI's OpenAI engine."""
    body = json.dumps(value).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
    return head + f"{AIOHTTP}Content-Length: {len(body)}\r\n", body


def webui_form(path: str, fields: dict[str, str], files: list[tuple[str, bytes]], token: str) -> tuple[str, bytes]:
    """Its edits, as aiohttp writes forms."""
    mark = "5a1e5e1f0f9f4a0d8f0c2b7a6d5e4f3a"
    parts: list[bytes] = []
    for name, text in fields.items():
        head = f'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'
        parts.append(head.encode() + text.encode())
    for index, (name, data) in enumerate(files):
        about = f'Content-Disposition: form-data; name="{name}"; filename="{index}.png"'
        parts.append(f"Content-Type: image/png\r\n{about}\r\n\r\n".encode() + data)
    body = b"".join(f"--{mark}\r\n".encode() + part + b"\r\n" for part in parts) + f"--{mark}--\r\n".encode()
    head = f"POST {path} HTTP/1.1\r\nHost: HOST\r\nAuthorization: Bearer {token}\r\n{AIOHTTP}"
    kind = f"Content-Type: multipart/form-data; boundary={mark}\r\n"
    return head + f"Content-Length: {len(body)}\r\n{kind}", body


def tavern_get(path: str) -> str:
    return f"GET {path} HTTP/1.1\r\nAuthorization: Basic AUTH\r\n{NODE}Host: HOST\r\n"


def tavern_post(path: str, value: object = None) -> tuple[str, bytes]:
    """Without a value there is no body and no type, as with `interrupt`."""
    body = b"" if value is None else json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    kind = "" if value is None else "Content-Type: application/json\r\n"
    head = f"POST {path} HTTP/1.1\r\n{kind}Authorization: Basic AUTH\r\n{NODE}"
    return head + f"Content-Length: {len(body)}\r\nHost: HOST\r\n", body


def tavern_body(url: str, auth: str, prompt: str, **changes: object) -> dict[str, object]:
    """What SillyTavern posts to txt2img: its own settings, address and password among them."""
    return {
        "url": url, "auth": auth, "prompt": prompt,
        "negative_prompt": "lowres, bad anatomy, bad hands, text, error", "sampler_name": "DPM++ 2M",
        "scheduler": "karras", "steps": 4, "cfg_scale": 7, "width": 64, "height": 96, "restore_faces": False,
        "enable_hr": False, "hr_upscaler": "Latent", "hr_scale": 2, "denoising_strength": 0.7,
        "hr_second_pass_steps": 0, "override_settings": {"CLIP_stop_at_last_layers": 1},
        "override_settings_restore_afterwards": True, "clip_skip": 1, "save_images": True, "send_images": True,
        "do_not_save_grid": False, "do_not_save_samples": False, **changes,
    }  # fmt: skip
