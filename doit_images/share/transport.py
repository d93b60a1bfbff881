"""How is a registry asked, so that no answer can hold a run up, fill memory, or be taken for another?

A look-up has one ``Limits`` for all its requests: names, connections, headers, redirects, tokens and bodies share one
deadline and one size. Each request runs in a thread of its own, and its caller waits until the deadline or until the
run is stopped, whatever the server sends meanwhile. Everything but an answer within these limits is ``Unavailable``.
"""

from __future__ import annotations

import contextlib
import contextvars
import http.client
import io
import json
import os
import ssl
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar
from urllib.parse import urljoin, urlsplit

import urllib3

from doit_images.core.base import commands
from doit_images.core.base.settings import SYSTEM_BUNDLE
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.reaching import Certificates

LARGEST = 8_000_000
"""Bytes that all answers of one look-up may have together."""
_SLICE_SECONDS = 0.25  # how often a wait looks whether the run is being stopped
_PIECE = 1 << 16
_PAUSES = (0.0, 0.5, 2.0)  # before a request is made again that got no connection
_REDIRECTS = 5
_SYSTEM_BUNDLES = (Path(SYSTEM_BUNDLE), Path("/etc/pki/tls/certs/ca-bundle.crt"))  # Debian's, Fedora's
_LOOPBACK = ("localhost", "127.0.0.1", "::1")  # the engine, too, uses no proxy for these
_MOVED = (301, 302, 303, 307, 308)

Result = TypeVar("Result")
Body = bytes | IO[bytes] | None


@dataclass
class Limits:
    """What a look-up may still take: until when, by the monotonic clock, and how many bytes."""

    until: float
    size: int = LARGEST

    def left(self) -> float:
        """The seconds that are left. Raises ``TimeoutError`` if none are, and ``Stopped`` when the run is."""
        if commands.stopping():
            raise commands.Stopped
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def rest(self, seconds: float) -> None:
        """Wait for so long, because the registry asked for it: the time does not count. ``Stopped`` when the run is."""
        self.until += seconds
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            self.left()
            time.sleep(min(left, _SLICE_SECONDS))


_current: contextvars.ContextVar[Limits] = contextvars.ContextVar("limits")
_awaited: contextvars.ContextVar[bool] = contextvars.ContextVar("awaited", default=False)


@contextlib.contextmanager
def limited(seconds: float, size: int = LARGEST) -> Iterator[Limits]:
    """For the block all that is asked takes so many seconds and bytes together; within another such block, its."""
    if limits := _current.get(None):
        yield limits
        return
    token = _current.set(Limits(time.monotonic() + seconds, size))
    try:
        yield _current.get()
    finally:
        _current.reset(token)


def in_time(act: Callable[[], Result], limits: Limits) -> Result:
    """The result of ``act``, which asks a network and cannot be told to stop: it runs in a thread of its own, which is
    left alone when nobody waits any more. Raises what ``act`` raises, ``TimeoutError``, and ``Stopped``."""
    if _awaited.get():
        return act()
    result: Future[Result] = Future()

    def run() -> None:
        _awaited.set(True)
        try:
            result.set_result(act())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=contextvars.copy_context().run, args=(run,), daemon=True).start()
    while not result.done():
        wait([result], min(limits.left(), _SLICE_SECONDS))
    return result.result()


@contextlib.contextmanager
def in_turn(lock: threading.Lock) -> Iterator[None]:
    """Hold a lock for the block, once it can be had, within the limits of the block around it. Raises ``Unavailable``
    and ``Stopped``."""
    while not lock.acquire(timeout=_SLICE_SECONDS):
        try:
            _current.get().left()
        except TimeoutError:
            raise Unavailable("does not answer in time", silent=True) from None
    try:
        yield
    finally:
        lock.release()


@dataclass(frozen=True)
class Answer:
    """What a server answered. ``body`` is empty where it went into a file."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


def parsed(text: bytes) -> Any:
    """Parse JSON; ``ValueError`` if it is not JSON, or is nested too deeply."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


class Transport:
    """Connections to registries, token servers and stores of blobs. ``certificates`` are those that count beside
    the system's, and those of this machine; ``connect`` is how many seconds a connection may take."""

    def __init__(self, connect: float, certificates: Certificates = Certificates()) -> None:  # noqa: B008  a tuple
        self._connect = connect
        self._certificates = certificates
        self._managers: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._trusted_blindly = ""
        self._lock = threading.Lock()

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        into: Callable[[bytes], object] | None = None,
    ) -> Answer:
        """The answer to one request, over redirects, within the limits of the block around it. A login goes only where
        it was meant for. The body of a good answer goes piece by piece ``into`` something, if that is given; it may
        then take a second for so many bytes more. Raises ``Unavailable``, ``Stopped``, and ``NoImage`` for what is too
        large."""
        return answered(lambda: self._answer(method, url, headers or {}, body, into))

    def _answer(
        self, method: str, url: str, headers: Mapping[str, str], body: Body, into: Callable[[bytes], object] | None
    ) -> Answer:
        for _ in range(_REDIRECTS + 1):
            raw = self._open(method, url, headers, body)
            try:
                moved = raw.headers.get("Location") if raw.status in _MOVED and body is None else None
                if moved is None:
                    return _read(raw, into if raw.status == 200 else None, bare=method == "HEAD")
            finally:
                raw.release_conn() if raw.closed or raw.length_remaining == 0 else raw.close()
            url, headers = self._redirected(url, moved, headers)
        raise Unavailable("answers with a redirect loop")

    @staticmethod
    def _redirected(url: str, moved: str, headers: Mapping[str, str]) -> tuple[str, Mapping[str, str]]:
        """Where a redirect leads, and what may be said there."""
        there = urljoin(url, moved)
        before, after = urlsplit(url), urlsplit(there)
        if (
            not after.hostname
            or after.scheme not in ("http", "https")
            or (before.scheme, after.scheme) == ("https", "http")
        ):
            raise Unavailable("redirects to an unusable address")
        if (before.scheme, before.netloc) != (after.scheme, after.netloc):
            headers = {name: value for name, value in headers.items() if name != "Authorization"}
        return there, headers

    def _open(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> urllib3.BaseHTTPResponse:
        for pause in (*_PAUSES, None):
            try:
                return self._open_once(method, url, headers, body)
            except (urllib3.exceptions.ProtocolError, urllib3.exceptions.NewConnectionError) as error:
                # A connection that was kept, and that the other side has closed; or a registry that is started again.
                why = error.__cause__ or error.args[-1]
                repeated = isinstance(why, ConnectionError) and isinstance(body, bytes | None)
                if pause is None or not repeated or (isinstance(why, http.client.RemoteDisconnected) and pause):
                    raise
            time.sleep(min(pause, _current.get().left()))
        raise AssertionError("the last time it was raised")

    def _open_once(self, method: str, url: str, headers: Mapping[str, str], body: Body) -> urllib3.BaseHTTPResponse:
        left = _current.get().left()
        # What is sent is sent within the first of these: that may stall for longer than a connection may take.
        timeout = urllib3.Timeout(connect=min(self._connect, left) if body is None else left, read=left)
        return self._manager(url).request(
            method, url, headers=headers, body=body, redirect=False, retries=False, preload_content=False,
            timeout=timeout, decode_content=False,
        )  # fmt: skip

    def _manager(self, url: str) -> urllib3.PoolManager:
        """The connections for a URL, through the proxy that the environment names for it."""
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname or ""
        direct = host in _LOOPBACK or urllib.request.proxy_bypass(host)
        proxy = "" if direct else urllib.request.getproxies_environment().get(scheme, "")
        key = proxy, urlsplit(url).netloc == self._trusted_blindly
        with self._lock:
            if key not in self._managers:
                options: dict[str, Any] = {"ssl_context": self._tls(blindly=key[1]), "maxsize": 64, "num_pools": 8}
                made = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)
                self._managers[key] = made
            return self._managers[key]

    def trusted_blindly(self, netloc: str) -> str:
        """Take any certificate of this one host and port, as the engine does; a token server is another. Returns the
        scheme that it answers with; TLS is tried first, within the limits of the block around it."""
        self._trusted_blindly = netloc
        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)  # somebody meant it
        try:
            answered(lambda: self._open_once("GET", f"https://{netloc}/v2/", {}, None).close())
        except Unavailable:
            return "http"
        return "https"

    def _tls(self, *, blindly: bool) -> ssl.SSLContext:
        """The system's authorities, as the engine trusts them, those of the environment, and the registry's own."""
        context = ssl.create_default_context()
        for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
            if (bundle := os.environ.get(name)) and Path(bundle).is_file():
                context.load_verify_locations(bundle)
        # A Python that does not come from the system looks for its authorities elsewhere.
        for authority in (*filter(Path.is_file, _SYSTEM_BUNDLES), *self._certificates.authorities):
            context.load_verify_locations(authority)
        for certificate, key in self._certificates.own:
            context.load_cert_chain(certificate, key, password="")  # nobody is asked for one
        if blindly:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context


def _read(raw: urllib3.BaseHTTPResponse, into: Callable[[bytes], object] | None, *, bare: bool) -> Answer:
    """The whole answer, of a bounded size. Each piece when it is there."""
    limits, body = _current.get(), io.BytesIO()
    while not bare and (piece := raw.read1(_PIECE, decode_content=False)):
        if into:
            into(piece)
        else:
            limits.size -= len(piece)
            if limits.size < 0:
                raise NoImage("returned more than an image could need")
            body.write(piece)
        limits.left()  # nobody may be waiting any more
    return Answer(raw.status, raw.headers, body.getvalue())


def answered(act: Callable[[], Result]) -> Result:
    """The result of ``act``, which asks a registry, within the limits of the block around it. Raises ``Stopped`` and
    ``NoImage``, and ``Unavailable`` for whatever else comes: without a URL, which may hold a signature."""
    limits = _current.get()
    try:
        return in_time(act, limits)
    except (Unavailable, NoImage):
        raise
    except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError, ValueError) as error:
        if isinstance(error, urllib3.exceptions.SSLError | ssl.SSLError) and not isinstance(error, TimeoutError):
            raise Unavailable("has a certificate that is not trusted here", silent=True) from None
        refused = isinstance(error, urllib3.exceptions.NewConnectionError)  # which is a TimeoutError, too
        waited = not refused and isinstance(error, TimeoutError | urllib3.exceptions.TimeoutError)
        late = waited or time.monotonic() >= limits.until
        raise Unavailable("does not answer in time" if late else "does not answer", silent=True) from None
