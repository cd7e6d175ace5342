"""One file from the first mirror that really has it.

pooch checks the SHA-256 and moves a file to its place only then; `dtfn.download.transfer` brings
the bytes.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pooch
import requests

from dtfn.download.transfer import Advance, Patience, RefusedError, Transfer, Wanted, size
from dtfn.errors import InputError

# It would announce every file beside our progress bar.
pooch.get_logger().setLevel(logging.ERROR)

_WORDS = {  # a subclass before its class
    requests.Timeout: "no answer",
    requests.exceptions.SSLError: "its certificate is not accepted",
    requests.exceptions.ChunkedEncodingError: "the connection was cut again and again",
    requests.ConnectionError: "no connection",
}


@dataclass
class Downloads:
    """Downloads that share what they learn of the mirrors; `get` may run in several threads.

    Attributes
    ----------
    patience
        With each mirror.
    advance
        Called with the number of bytes that arrived; negative where some were thrown away.
    stop
        Set it to end them all.
    """

    patience: Patience = field(default_factory=Patience)
    advance: Advance = lambda _: None
    stop: threading.Event = field(default_factory=threading.Event)
    _unreachable: set[str] = field(default_factory=set)
    _sessions: list[requests.Session] = field(default_factory=list)
    _local: threading.local = field(default_factory=threading.local)

    def __enter__(self) -> Downloads:
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        for session in self._sessions:
            session.close()

    def get(self, wanted: Wanted, staging: Path) -> Path:
        """Download a file into ``staging`` and return it, whole and with the right SHA-256.

        Parameters
        ----------
        wanted
            The file.
        staging
            An existing folder on the disk that the file will stay on.

        Raises
        ------
        InputError
            If no mirror has it; nothing of it is left then, except what resuming may use.
        dtfn.download.transfer.Stopped
            If `stop` was set.
        OSError
            If the disk does not take it.
        """
        partial = staging / f"{wanted.name}.partial" if wanted.resume else None
        failures = []
        # A host that does not answer costs time: ask it last for the files to come.
        for url in sorted(wanted.urls, key=lambda url: urlsplit(url).netloc in self._unreachable):
            host = urlsplit(url).netloc
            try:
                return self._from(url, wanted, staging, partial)
            except (requests.RequestException, RefusedError) as error:
                if isinstance(error, requests.ConnectionError | requests.Timeout):
                    self._unreachable.add(host)
                failures.append(f"{host}: {_told(error)}")
        if partial and not size(partial):
            partial.unlink(missing_ok=True)
        raise InputError(
            wanted.name,
            expected=f"{wanted.bytes} bytes with SHA-256 {wanted.sha256[:12]}...",
            found="; ".join(failures) or "no mirror",
            remedy=_remedy(partial),
        )

    def _from(self, url: str, wanted: Wanted, staging: Path, partial: Path | None) -> Path:
        """Download from one mirror."""
        resumed = size(partial) > 0
        transfer = Transfer(
            wanted, self.patience, self._session(), partial, self.advance, self.stop
        )
        try:
            file = pooch.retrieve(
                url, f"sha256:{wanted.sha256}", wanted.name, staging, downloader=transfer
            )
        except ValueError as error:  # the hash; pooch has removed the file
            transfer.at(0)
            if isinstance(error, requests.RequestException):
                raise
            if resumed:  # then the first part may be to blame, which came from elsewhere
                return self._from(url, wanted, staging, partial)
            raise RefusedError("other content: its SHA-256 differs") from None
        except BaseException:
            transfer.at(0)
            raise
        transfer.at(wanted.bytes)
        return Path(file)

    def _session(self) -> requests.Session:
        """Return this thread's session, which keeps connections open."""
        if not hasattr(self._local, "session"):
            self._local.session = requests.Session()
            self._sessions.append(self._local.session)
        session: requests.Session = self._local.session
        return session


def _told(error: Exception) -> str:
    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"{error.response.status_code} {error.response.reason}".strip()
    for kind, words in _WORDS.items():
        if isinstance(error, kind):
            return words
    return " ".join(str(error).split())


def _remedy(partial: Path | None) -> str:
    kept = size(partial)
    if kept:
        return f"run it again: it goes on after the {kept} bytes that are here"
    return "check the network (and HTTPS_PROXY), try later, or name a copy with --mirror URL"
