"""How is one registry asked: at its address, with its login, in time, and again when it is busy?"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from urllib.parse import quote, urljoin, urlsplit

import urllib3

from doit_images.share import reaching
from doit_images.share.login import Login
from doit_images.share.no_answer import NoImage, Unavailable, told
from doit_images.share.transport import Answer, Body, Limits, Transport, limited, parsed

ACCEPT = ", ".join(
    f"application/vnd.{kind}+json"
    for kind in (
        "oci.image.index.v1",
        "oci.image.manifest.v1",
        "docker.distribution.manifest.list.v2",
        "docker.distribution.manifest.v2",
    )
)
"""What a manifest or an index may be, for whoever asks for one."""
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
_BUSY = (429, 503)
_TRIES, _WAIT_SECONDS = 4, 0.5  # for each question, and how long the first wait is where the registry does not say
_PAGES = 1000
_NEXT = re.compile(r"<([^>]*)>\s*;\s*rel=\"?next\"?", re.IGNORECASE)
_PATIENCE = 60.0


class Client:
    """What asks the registry at ``address``: ``host[:port]`` with an optional path that all its repositories begin
    with. ``insecure`` tells of a host elsewhere whether the engine takes it without TLS or with any certificate."""

    def __init__(
        self,
        address: str,
        connect: float = CONNECT_SECONDS,
        read: float = READ_SECONDS,
        insecure: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.address = address
        self.host, _, self._prefix = address.partition("/")
        self._seconds = connect + read
        self._insecure = insecure
        self._certificates = reaching.certificates(self.host)
        self.transport = Transport(connect, self._certificates)
        self.patience = _PATIENCE
        """Seconds that it may still ask to wait, where it is busy."""
        self._closed_until = 0.0
        self._soon: set[str] = set()
        self._lock = threading.Lock()

    def repository(self, path: str) -> str:
        """The repository of an image in this registry, as its HTTP API names it.

        >>> Client("localhost:5000/team").repository("vllm-swarm/auth")
        'team/vllm-swarm/auth'
        """
        return f"{self._prefix}/{path}" if self._prefix else path

    def expect(self, paths: Iterable[str]) -> None:
        """These repositories will be asked about: logins for them are had together."""
        self._soon |= {self.repository(path) for path in paths}

    def ping(self, seconds: float) -> None:
        """Wait so long for any answer at all. Raises ``Unavailable``."""
        with limited(seconds):
            self.transport.ask("GET", f"{self.base}/v2/")

    def require(self, answer: Answer, status: int) -> None:
        """Raise ``Unavailable`` for an answer with another status."""
        if answer.status in (401, 403):
            raise Unavailable(f"refuses the credentials of `docker login {self.host}`")
        if answer.status != status:
            raise Unavailable(f"answers with status {answer.status}{_reason(answer)}")

    def send(
        self, method: str, place: str, repository: str, headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> Answer:  # fmt: skip
        """The answer to a request, logged in where that is asked for. ``place`` may be a whole URL that the registry
        gave: it is never told, since it may hold a signature, and gets no login at another host."""
        url = self.url(place)

        def once(login: Mapping[str, str]) -> Answer:
            ours = urlsplit(url)[:2] == urlsplit(self.base)[:2]
            if not isinstance(body, bytes | None):
                body.seek(0)
            return self.transport.ask(method, url, {**(headers or {}), **(login if ours else {})}, body)

        return self.logged_in(repository, once)

    def url(self, place: str) -> str:
        """The URL of a place in the API; of a whole URL, itself."""
        return place if "://" in place else f"{self.base}{quote(place, safe='/:?=&%')}"

    def logged_in(self, repository: str, once: Callable[[Mapping[str, str]], Answer]) -> Answer:
        """The answer to a request that is made with these headers of a login; again where another is asked for, and
        where the registry is busy and asks to wait."""
        for number in range(_TRIES):
            self._wait_until_open()
            answer = self.login.tried(repository, once)
            if answer.status not in _BUSY or not self._close(answer, number):
                break
        return answer

    def rests(self, path: str, digest: str, number: int) -> bool:
        """Wait until whoever was refused, as the registry was too busy, may ask for this manifest again, for the
        so-and-so-many-th time, from 0: as long as it tells us to, else for longer each time. False where that is too
        long, or it does not answer."""
        repository, accept = self.repository(path), {"Accept": ACCEPT}
        try:
            with self.looking():
                answer = self.send("GET", f"/v2/{repository}/manifests/{digest}", repository, accept)
        except (Unavailable, NoImage):
            return False
        if answer.status in _BUSY or not self._close(Answer(429), number):
            return False
        self._wait_until_open()
        return True

    def _close(self, answer: Answer, number: int) -> bool:
        """Ask nothing for as long as a busy registry wishes, this thread or another; false if that is too long."""
        seconds, now = _asked_to_wait(answer, number), time.monotonic()
        with self._lock:
            more = now + seconds - max(now, self._closed_until)
            if number == _TRIES - 1 or more > self.patience:
                return False
            if more > 0:
                self.patience -= more
                self._closed_until = now + seconds
        return True

    def _wait_until_open(self) -> None:
        if (seconds := self._closed_until - time.monotonic()) > 0:
            with self.looking() as limits:
                limits.rest(seconds)

    def get(self, path: str, repository: str, accept: str = "*/*") -> Answer | None:
        """The good answer to a question; None if the registry does not have it."""
        answer = self.ask("GET", path, repository, accept)
        if answer:
            self.require(answer, 200)
        return answer

    def ask(self, method: str, path: str, repository: str, accept: str) -> Answer | None:
        """The answer to a question; None if the registry does not have it. Some refuse to say of what is not there that
        it is not there: to somebody who is logged in that is the same."""
        with self.looking():
            answer = self.send(method, path, repository, {"Accept": accept})
            if answer.status == 404 or (answer.status in (401, 403) and self.login.holds):
                return None
        return answer

    def pages(self, path: str, repository: str, accept: str = "*/*") -> Iterator[Answer]:
        """The answers to a question that come in pages, as the specification allows and hosted registries do (the
        header ``Link``, RFC 8288); none where the registry does not have it. ``Unavailable`` where it cannot be had
        whole."""
        for number in range(_PAGES):
            answer = self.get(path, repository, accept)
            if answer is None and not number:
                return
            if answer is None:
                raise Unavailable("did not return the next page of a list")
            yield answer
            link = _NEXT.search(answer.headers.get("Link", ""))
            if not link:
                return
            # Of the address that it names only what stands behind the host: a proxy may stand before the registry.
            place = urlsplit(urljoin(f"{self.base}{path}", link[1]))
            path = f"{place.path}?{place.query}"
        raise Unavailable(f"returned more than {_PAGES} pages of one list")

    def looking(self) -> AbstractContextManager[Limits]:
        """For the block: the limits of one look-up; within another one, its."""
        return limited(self._seconds)

    @cached_property
    def base(self) -> str:
        """The URL that its API is at: with TLS or without, as the engine reaches it (``reaching``)."""
        host = reaching.api_host(self.host)
        if any(self._certificates) or not (reaching.on_loopback(host) or self._insecure(self.host)):
            return f"https://{host}"
        with self.looking():
            return f"{self.transport.trusted_blindly(host)}://{host}"

    @cached_property
    def login(self) -> Login:
        """This machine's login there."""
        return Login(self.host, self.base, self.transport, self._soon)


def _reason(answer: Answer) -> str:
    """Why a registry refuses what it was asked, in its own words."""
    try:
        error = parsed(answer.body)["errors"][0] if 400 <= answer.status < 500 else {}
        words = [word for word in (error.get("code"), error.get("message")) if isinstance(word, str)]
    except (ValueError, LookupError, TypeError, AttributeError):
        words = []
    return f" ({told(': '.join(words))})" if words else ""


def _asked_to_wait(answer: Answer, number: int) -> float:
    """The seconds that a busy registry asks to wait before the next question."""
    try:
        return urllib3.Retry().parse_retry_after(answer.headers.get("Retry-After", ""))
    except (urllib3.exceptions.InvalidHeader, ValueError, TypeError, OverflowError):
        return float(_WAIT_SECONDS * 2**number)
