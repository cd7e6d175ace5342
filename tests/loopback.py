"""A real HTTP server on this machine that misbehaves as it is told."""

from __future__ import annotations

import contextlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = b"\n<!DOCTYPE html><html><body>Please log in</body></html>"


@dataclass
class Site:
    """Files by path, and what goes wrong with each request for one, in turn.

    A fault is ``"drop N"`` (all is announced, N bytes come, the connection is cut), ``"short"``
    (all but 10 bytes is announced and comes), ``"short stream"`` (the same, no length announced),
    ``"long stream"``, ``"tamper"``, ``"page"``, ``"hang"``, ``"wrong range"``, ``"no ranges"``
    (all of it, whatever part was asked for), ``"gate N"`` (waits for `gate` after N bytes), a
    status such as ``"404"``, or ``"to PATH"`` (redirect). The last fault of a list lasts; ``""`` is
    none.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    sent: int = 0
    gate: threading.Event = field(default_factory=threading.Event)

    def fault(self, path: str) -> str:
        waiting = self.faults[path]
        return waiting.pop(0) if len(waiting) > 1 else (waiting or [""])[0]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(site))
    server.daemon_threads = True
    site.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield site
    finally:
        site.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(site: Site) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                self.answer()

        def answer(self) -> None:
            asked = self.headers.get("Range", "")
            site.asked.append((self.path, asked))
            kind, _, value = site.fault(self.path).partition(" ")
            if kind == "to":
                return self.head(302, 0, Location=value)
            if kind == "page":
                return self.whole(PAGE)
            if kind == "hang":
                site.gate.wait()
                self.close_connection = True
                return None
            if kind.isdigit() or self.path not in site.files:
                return self.head(int(kind or 404), 0)
            body = site.files[self.path]
            if kind == "tamper":
                body = body[:-1] + bytes([body[-1] ^ 1])
            if (kind, value) == ("short", ""):
                return self.whole(body[:-10])
            if value == "stream":
                return self.stream(body[:-10] if kind == "short" else body + b"more")
            found = re.fullmatch(r"bytes=(\d+)-", asked)
            start = int(found[1]) if found and (kind, value) != ("no", "ranges") else 0
            if start and start >= len(body):
                return self.head(416, 0)
            if start:
                first = start + 1 if kind == "wrong" else start
                told = f"bytes {first}-{len(body) - 1}/{len(body)}"
                self.head(206, len(body) - start, **{"Content-Range": told})
            else:
                self.head(200, len(body))
            if kind in ("drop", "gate"):
                self.send(body[start : start + int(value)])
                start += int(value)
                if kind == "drop":
                    self.close_connection = True
                    return None
                site.gate.wait()
            return self.send(body[start:])

        def whole(self, body: bytes) -> None:
            self.head(200, len(body))
            self.send(body)

        def stream(self, body: bytes) -> None:
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.send(body)
            self.close_connection = True

        def head(self, status: int, length: int, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()

        def send(self, body: bytes) -> None:
            self.wfile.write(body)
            self.wfile.flush()
            site.sent += len(body)

    return Handler
