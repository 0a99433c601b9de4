"""The server of the local page: who may ask, and what answers.

It listens on 127.0.0.1 alone. The address that is printed holds a token, which becomes a cookie; whoever has neither
gets nothing. Requests must name this address as their host, so that no other name leads here (DNS rebinding), and
whatever changes something must come from the page itself, by its origin. Files outside the folder that the page was
opened for are not there. What lies in it is data: pages of reports are shown in a sandbox, without this page's rights.
"""

import hmac
import json
import logging
import mimetypes
import re
import secrets
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

from scansynth.errors import InputError
from scansynth.files import written

log = logging.getLogger(__name__)

HOST = "127.0.0.1"
LARGEST_REQUEST = 1 << 20
"""Bytes of what is asked, files left out."""
LARGEST_FILE = 4 << 30
CHUNK = 1 << 20
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
SANDBOX = "sandbox allow-scripts allow-popups allow-downloads"
"""For what lies in the folder: it may run its own scripts, and is nobody here."""
SHOWN = {".html": "text/html", ".png": "image/png", ".svg": "image/svg+xml", ".webp": "image/webp"}
"""Files that a browser shows as they are; others are text or are downloaded."""
TEXT = (".md", ".txt", ".tsv", ".csv", ".json", ".yaml", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request that may be answered."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is sent back."""

    content: bytes | Path
    kind: str = "text/html; charset=utf-8"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, content: Any, status: int = 200) -> "Answer":
        """JSON."""
        return cls(content=json.dumps(content).encode(), kind="application/json", status=status)


class Server(ThreadingHTTPServer):
    """The page's server.

    Args:
        root: the folder that it is opened for.
        answer: makes pages and does what is asked.
        uploads: where files are put that are dropped.
        port: 0 for any that is free.
    """

    daemon_threads = True
    allow_reuse_address = False

    def __init__(self, root: Path, answer: Callable[[Asked], Answer], uploads: Path, port: int = 0):
        super().__init__((HOST, port), _Handler)
        self.root, self.answer, self.uploads = root.resolve(), answer, uploads
        self.token = secrets.token_urlsafe(24)

    @property
    def origin(self) -> str:
        """Of its pages."""
        return f"http://{HOST}:{self.server_port}"

    @property
    def address(self) -> str:
        """To open: with the token."""
        return f"{self.origin}/?token={self.token}"

    @property
    def cookie(self) -> str:
        """Its name: cookies know no ports."""
        return f"scansynth-{self.server_port}"


def within(root: Path, name: str) -> Path:
    """A path of the folder, by its name from there on.

    Raises:
        InputError: if it leads out of the folder, or is not there.
    """
    if "\0" in name:
        raise InputError("a name with a NUL names nothing")
    try:
        path = (root / name).resolve()
    except (OSError, RuntimeError):  # links in a circle
        raise InputError(f"{name}: leads nowhere") from None
    if not path.is_relative_to(root):
        raise InputError(f"{name}: not in {root}: open the page for a folder that holds it (`scansynth app FOLDER`)")
    if not path.exists():
        raise InputError(f"{name}: not there (any more)")
    return path


class _Handler(BaseHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "scansynth", ""
    timeout = 60

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the token stands in the first line."""

    def do_GET(self) -> None:
        """Show something."""
        self._answered(self._get)

    def do_POST(self) -> None:
        """Do something."""
        self._answered(self._post)

    def do_PUT(self) -> None:
        """Take a file."""
        self._answered(self._put)

    def _answered(self, work: Callable[[], Answer]) -> None:
        try:
            refused = self._refused()
            if refused:
                self.close_connection = True  # what it sends is not read
            answer = refused or work()
        except InputError as error:
            self.close_connection = self.command == "PUT" or self.close_connection
            answer = self._told(str(error), 400)
        except OSError as error:
            self.close_connection = True
            answer = self._told(f"{error.filename or ''} {error.strerror or error}".strip(), 500)
        except Exception:
            log.exception("%s", self.path.partition("?")[0])
            self.close_connection = True
            answer = self._told("a fault of this program: its terminal says more", 500)
        try:
            self._send(answer)
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            self.close_connection = True

    def _told(self, message: str, status: int) -> Answer:
        if self.command == "GET" and "json" not in self.path.partition("?")[0]:
            told = {"message": message, "status": str(status)}
            return self.server.answer(Asked(method="GET", path="/error", query=told))
        return Answer.of({"error": message}, status)

    # ---- who may ask

    def _refused(self) -> Answer | None:
        """Why a request is not answered; None where it is."""
        plain = {"kind": "text/plain; charset=utf-8", "status": 403}
        host = self.headers.get("Host", "")
        if host not in (self.server.origin.removeprefix("http://"), f"localhost:{self.server.server_port}"):
            return Answer(content=b"this page has another address", **plain)
        origin = self.headers.get("Origin")
        if (origin is not None or self.command != "GET") and origin != f"http://{host}":
            return Answer(content=b"asked by another page", **plain)
        if self.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin") and not self._is_visit():
            return Answer(content=b"asked by another page", **plain)
        if not self._known() and not self._brings_token():
            return Answer(content=b"open the address that `scansynth app` printed, with its token", **plain)
        return None

    def _is_visit(self) -> bool:
        """Whether somebody follows a link, as from a report in its sandbox, to a page that changes nothing."""
        return self.command == "GET" and self.headers.get("Sec-Fetch-Mode") == "navigate"

    def _known(self) -> bool:
        try:
            cookies = SimpleCookie(self.headers.get("Cookie", ""))
        except CookieError:
            return False
        found = cookies.get(self.server.cookie)
        return found is not None and hmac.compare_digest(found.value.encode(), self.server.token.encode())

    def _brings_token(self) -> bool:
        parts = urlsplit(self.path)
        token = parse_qs(parts.query).get("token", [""])[0]
        return self.command == "GET" and parts.path == "/" and hmac.compare_digest(
            token.encode(), self.server.token.encode()
        )  # fmt: skip

    # ---- what answers

    def _get(self) -> Answer:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        path = unquote(parts.path)
        if query.pop("token", None) is not None:  # out of the address, into a cookie
            kept = f"{self.server.cookie}={self.server.token}; HttpOnly; SameSite=Lax; Path=/"
            return Answer(content=b"", status=303, headers={"Location": "/", "Set-Cookie": kept})
        if path.startswith("/file/"):
            return self._file(within(self.server.root, path.removeprefix("/file/")), download=False)
        if path.startswith("/download/"):
            return self._file(within(self.server.root, path.removeprefix("/download/")), download=True)
        return self.server.answer(Asked(method="GET", path=path, query=query))

    def _post(self) -> Answer:
        length = self._length(LARGEST_REQUEST)
        if self.headers.get_content_type() != "application/json":
            raise InputError("ask in JSON")
        try:
            body = json.loads(self.rfile.read(length))
        except (ValueError, RecursionError):
            raise InputError("no JSON") from None
        if not isinstance(body, dict):
            raise InputError("no JSON object")
        return self.server.answer(Asked(method="POST", path=urlsplit(self.path).path, body=body))

    def _put(self) -> Answer:
        """Take a file into the uploads: its own name, made safe, in a folder of its own."""
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        group, slot, name = (query.get(key, "") for key in ("group", "slot", "name"))
        if not re.fullmatch(r"[0-9a-f]{16}", group) or not re.fullmatch(r"[\w.-]{1,64}", slot, re.ASCII):
            raise InputError("a file goes to a place of the page")
        length = self._length(LARGEST_FILE)
        folder = self.server.uploads / group / slot.strip(".")
        if folder.exists():
            shutil.rmtree(folder)  # dropped again
        path = folder / safe_name(name)
        with written(path) as temporary, temporary.open("wb") as file:
            left = length
            while left:
                part = self.rfile.read(min(CHUNK, left))
                if not part:
                    raise InputError(f"{path.name}: the file broke off")
                file.write(part)
                left -= len(part)
        return Answer.of({"name": path.name})

    def _length(self, most: int) -> int:
        text = self.headers.get("Content-Length", "")
        if not text.isdecimal() or int(text) > most:
            self.close_connection = True
            raise InputError(f"at most {most >> 20} MB at a time")
        return int(text)

    def _file(self, path: Path, *, download: bool) -> Answer:
        if not path.is_file():
            raise InputError(f"{path.name}: no file")
        ending = path.suffix.lower()
        kind = SHOWN.get(ending) or ("text/plain; charset=utf-8" if ending in TEXT else None)
        headers = {"Content-Security-Policy": SANDBOX}
        if download or kind is None:
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{quote(path.name, safe='')}"
            kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return Answer(content=path, kind=kind, headers=headers)

    def _send(self, answer: Answer) -> None:
        size = answer.content.stat().st_size if isinstance(answer.content, Path) else len(answer.content)
        self.send_response(answer.status)
        headers = {
            "Content-Type": answer.kind, "Content-Length": str(size), "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "Content-Security-Policy": POLICY,
            "Cross-Origin-Resource-Policy": "same-origin", **answer.headers,
        }  # fmt: skip
        if self.close_connection:
            headers["Connection"] = "close"
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if isinstance(answer.content, Path):
            with answer.content.open("rb") as file:
                shutil.copyfileobj(file, self.wfile)
        else:
            self.wfile.write(answer.content)


def safe_name(name: str) -> str:
    """A dropped file's name that can stand on any disk: its letters, digits, dots and hyphens, its ending whole."""
    name = re.sub(r"[^\w.-]+", "_", re.split(r"[/\\]", name)[-1], flags=re.ASCII).lstrip("._-")
    return name[-120:] or "file"
