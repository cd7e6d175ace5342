"""A real HTTP server on this machine that misbehaves as it is asked to."""

from __future__ import annotations

import contextlib
import threading
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Site:
    """Files by path, and what goes wrong with each request for one, in turn.

    A fault is ``"drop N"`` (all is announced, N bytes come, the connection is cut), ``"tamper"``,
    ``"hang"``, ``"gate N"`` (waits for `gate` after N bytes), or a status such as ``"404"``. The
    last fault of a list lasts; ``""`` is none.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    asked: list[str] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)

    def fault(self, path: str) -> str:
        waiting = self.faults[path]
        return waiting.pop(0) if len(waiting) > 1 else (waiting or [""])[0]


@contextlib.contextmanager
def serving() -> Iterator[Site]:
    site = Site()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            with contextlib.suppress(ConnectionError):
                self.answer()

        def answer(self) -> None:
            site.asked.append(self.path)
            kind, _, value = site.fault(self.path).partition(" ")
            if kind == "hang":
                site.gate.wait()
                self.close_connection = True
                return
            found = self.path in site.files and not kind.isdigit()
            body = site.files[self.path] if found else b""
            if kind == "tamper":
                body = body[:-1] + bytes([body[-1] ^ 1])
            self.send_response(200 if found else int(kind or 404))
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            start = int(value or 0)
            self.wfile.write(body[:start])
            self.wfile.flush()
            if kind == "drop":
                self.close_connection = True
                return
            if kind == "gate":
                site.gate.wait()
            self.wfile.write(body[start:])

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
