"""One file from one URL: resumed when cut off, refused by its first bytes when it is another."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import requests

_CHUNK = 1 << 13  # what is lost of each cut connection: a chunk comes whole or not at all
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_GONE = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)

Advance = Callable[[int], object]


@dataclass(frozen=True)
class Patience:
    """How long to insist on a mirror.

    Attributes
    ----------
    tries
        Attempts in a row that bring nothing new, before the next mirror.
    pause
        Seconds before the second attempt; doubled each time.
    connect, silence
        Seconds to wait for a connection, and for the next bytes.
    """

    tries: int = 3
    pause: float = 0.5
    connect: float = 10.0
    silence: float = 60.0

    def wait(self, failed: int) -> float:
        """Return the seconds to wait after so many failures in a row."""
        return self.pause * 2 ** max(failed - 1, 0)


@dataclass(frozen=True)
class Wanted:
    """A file to download.

    Attributes
    ----------
    name
        For the user; also of the file while it is not in its place.
    urls
        Mirrors, in the order to try.
    bytes, sha256
        What it must be.
    resume
        Whether a part of it is kept for another day.
    """

    name: str
    urls: tuple[str, ...]
    bytes: int
    sha256: str
    resume: bool = False


class Stopped(Exception):
    """The user, or another file's failure, ended the download."""


class RefusedError(Exception):
    """An answer that is not the file; the message says what it is."""


@dataclass
class Transfer:
    """A downloader for pooch, which calls it with a URL and the file to write.

    Attributes
    ----------
    wanted, patience
        What, and how long to insist.
    session
        Of this thread.
    partial
        Where the file is until it is whole, if a part of it shall be kept.
    advance
        Called with the number of bytes that arrived; negative where some were thrown away.
    stop
        Ends the transfer when set.
    """

    wanted: Wanted
    patience: Patience
    session: requests.Session
    partial: Path | None
    advance: Advance
    stop: threading.Event
    _at: int = 0

    def __call__(self, url: str, output: str, pooch: object, check_only: bool = False) -> None:
        """Bring the file; its hash is for pooch to check.

        Raises
        ------
        requests.RequestException
            If the server does not give it.
        RefusedError
            If it gives something else.
        Stopped
            If `stop` was set.
        """
        body = self.partial or Path(output)
        furthest, failed = size(body), 0
        while size(body) != self.wanted.bytes:
            try:
                self._receive(url, body)
                failure: Exception = RefusedError(f"only {size(body)} bytes, then the end")
            except (*_GONE, requests.HTTPError) as error:
                if not _transient(error):
                    raise
                failure = error
            failed = 0 if size(body) > furthest else failed + 1
            furthest = max(furthest, size(body))
            if failed == self.patience.tries:
                raise failure
            if furthest < self.wanted.bytes and self.stop.wait(self.patience.wait(failed)):
                raise Stopped
        if self.partial:
            self.partial.replace(output)

    def at(self, position: int) -> None:
        """Report progress."""
        self.advance(position - self._at)
        self._at = position

    def _receive(self, url: str, body: Path) -> None:
        """Write what one request brings, after what is there."""
        start = size(body)
        if start > self.wanted.bytes:
            start = 0
        # Compressed transfer would make nonsense of positions and lengths.
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        waits = (self.patience.connect, self.patience.silence)
        with self.session.get(url, headers=headers, stream=True, timeout=waits) as answer:
            if answer.status_code == requests.codes.requested_range_not_satisfiable:
                body.unlink()  # the next attempt starts anew
                return
            answer.raise_for_status()
            if start and not _continues(answer, start, self.wanted.bytes):
                start = 0
            self._write(answer, body, start)

    def _write(self, answer: requests.Response, body: Path, start: int) -> None:
        chunks: Iterator[bytes] = answer.iter_content(_CHUNK)
        first = next(chunks, b"")
        # Refuse before the file is opened: what is there already may be good.
        if start == 0 and first.lstrip().startswith(b"<"):
            raise RefusedError("a web page instead of the file")
        length = answer.headers.get("Content-Length", "")
        plain = answer.headers.get("Content-Encoding", "identity") == "identity"
        if plain and length.isdigit() and start + int(length) != self.wanted.bytes:
            raise RefusedError(f"a file of {start + int(length)} bytes")
        position = start
        with body.open("r+b" if start else "wb") as file:
            file.seek(start)
            while first:
                if self.stop.is_set():
                    raise Stopped
                position += len(first)
                if position > self.wanted.bytes:
                    file.truncate(0)
                    raise RefusedError(f"more than {self.wanted.bytes} bytes")
                file.write(first)
                self.at(position)
                first = next(chunks, b"")


def _continues(answer: requests.Response, start: int, size: int) -> bool:
    """Return whether an answer is the rest of the file; if not, it is all of it."""
    if answer.status_code != requests.codes.partial_content:
        return False
    told = answer.headers.get("Content-Range", "")
    if told not in (f"bytes {start}-{size - 1}/{size}", f"bytes {start}-{size - 1}/*"):
        raise RefusedError(f"another part of another file ({told or 'not said which'})")
    return True


def _transient(error: Exception) -> bool:
    """Return whether the same request may succeed a moment later."""
    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in _TRANSIENT
    return not isinstance(error, requests.exceptions.SSLError)


def size(file: Path | None) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    return file.stat().st_size if file is not None and file.exists() else 0
