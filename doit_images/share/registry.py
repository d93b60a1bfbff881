"""What does the shared registry hold?

A client of the registry's HTTP API (OCI distribution specification) that looks at tags, manifests and configurations.
The engine pushes and pulls, but for what it cannot hold (``transfer``). Every look-up has one limit on its time and one
on its size (``transport``), because a registry may only ever make a build slower.
"""

from __future__ import annotations

import hashlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

import urllib3

from doit_images.core.base import platforms
from doit_images.core.base.references import digest_of
from doit_images.core.engine.client import image_config
from doit_images.core.engine.labels import LABEL, translated
from doit_images.core.planning.shared_image import SharedImage
from doit_images.share import reaching
from doit_images.share.login import Login
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.transport import Answer, Body, Limits, Transport, answered, limited, parsed

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")  # as the specification of manifests has it
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
_MOVE_SECONDS, _SLOWEST = 20.0, 1_000_000  # what a blob may take: some seconds, and one for so many bytes
_BUSY = (429, 503)
_TRIES, _WAIT_SECONDS = 4, 0.5  # for each question, and how long the first wait is where the registry does not say
_PAGES = 1000
_NEXT = re.compile(r"<([^>]*)>\s*;\s*rel=\"?next\"?", re.IGNORECASE)
_NO_IMAGE, _WRONG = "returned something that is no image", "returned a {} with the wrong digest"
_PATIENCE = 60.0


class Registry:
    """The registry at ``address``: ``host[:port]`` with an optional path that all its repositories begin with.
    ``insecure`` tells of a host elsewhere whether the engine takes it without TLS or with any certificate."""

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
        self._transport = Transport(connect, self._certificates)
        self.lists_referrers = True
        """Whether it knows what is attached to a manifest, as far as that was tried (``referrers``)."""
        self.patience = _PATIENCE
        """Seconds that it may still ask to wait, where it is busy."""
        self._closed_until = 0.0
        self._lock = threading.Lock()

    def repository(self, path: str) -> str:
        """The repository of an image in this registry, as its HTTP API names it.

        >>> Registry("localhost:5000/team").repository("vllm-swarm/auth")
        'team/vllm-swarm/auth'
        """
        return f"{self._prefix}/{path}" if self._prefix else path

    def image(self, path: str, tag: str, platform: str) -> SharedImage | None:
        """The image of that platform under a tag; None if there is none. Of several platforms, with commas between, the
        index: what all of its images have in common, its own digest as the content.

        Raises ``Unavailable`` and ``NoImage``.
        """
        with self._looking():
            return answered(lambda: self._image(self.repository(path), tag, platform))

    def _image(self, repository: str, tag: str, platform: str) -> SharedImage | None:
        manifest, digest = self._manifest(repository, tag)
        if manifest is None:
            return None
        wanted = [platforms.normalise(part) for part in platform.split(", ")]
        if "manifests" in manifest:
            try:
                listed = reversed(manifest["manifests"])  # the first of a platform wins
                by_platform = {platforms.of(entry.get("platform") or {}): _digest(entry["digest"]) for entry in listed}
            except (KeyError, TypeError, AttributeError, ValueError):
                raise NoImage(_NO_IMAGE) from None
            if not by_platform.keys() >= set(wanted):
                return None
            if len(wanted) > 1:
                manifests = (self._manifest(repository, by_platform[name]) for name in wanted)
                return _together(digest, wanted, [self._described(repository, *manifest) for manifest in manifests])
            manifest, digest = self._manifest(repository, by_platform[wanted[0]])
        return self._described(repository, manifest, digest) if len(wanted) == 1 else None

    def _described(self, repository: str, manifest: dict[str, Any] | None, digest: str) -> SharedImage | None:
        if manifest is None:
            return None
        try:
            config = _digest(manifest["config"]["digest"])
            layers = {_digest(layer["digest"]): _size(layer["size"]) for layer in manifest["layers"]}
            text = self._content(repository, "blobs", config)
            if text is None:
                return None
            made = parsed(text)
            inspected = {
                "RootFS": {"Layers": made["rootfs"]["diff_ids"]},
                "Config": made.get("config") or {},
                "Os": made.get("os"),
                "Architecture": made.get("architecture"),
                "Variant": made.get("variant"),
                "Author": made.get("author"),
                "OsVersion": made.get("os.version"),
            }
            known = image_config(inspected)
            labels = {str(key): str(value) for key, value in (inspected["Config"].get("Labels") or {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NoImage(_NO_IMAGE) from None
        return SharedImage(digest, config, known.platform, translated(labels), known.content, layers)

    def ping(self, seconds: float) -> None:
        """Wait so long for any answer at all. Raises ``Unavailable``."""
        with limited(seconds):
            self._transport.ask("GET", f"{self._base}/v2/")

    def tags(self, path: str) -> list[str]:
        """All tags of a repository, whole or not at all; none if there is no such repository. Raises ``Unavailable``
        and ``NoImage``."""
        repository = self.repository(path)
        try:
            pages = [parsed(answer.body) for answer in self._pages(f"/v2/{repository}/tags/list", repository)]
            return [tag for page in pages for tag in page.get("tags") or () if isinstance(tag, str)]
        except (ValueError, AttributeError, TypeError):
            raise NoImage("returned something that is no list of tags") from None

    def raw_manifest(self, path: str, reference: str) -> bytes:
        """The very bytes of a manifest or an index, by its digest or a tag. Raises ``Unavailable`` and ``NoImage``."""
        return self._whole(path, "manifests", reference)

    def small_blob(self, path: str, digest: str) -> bytes:
        """The bytes of a blob that is no larger than a look-up may be, a configuration for instance. Raises
        ``Unavailable`` and ``NoImage``."""
        return self._whole(path, "blobs", digest)

    def _whole(self, path: str, kind: str, reference: str) -> bytes:
        content = self._content(self.repository(path), kind, reference)
        if content is None:
            raise NoImage("does not hold all of it")
        return content

    def take_blob(self, path: str, digest: str, file: Path, size: int) -> None:
        """Let ``file`` be the blob with this digest, of no more than ``size`` bytes; it is there once whole. Raises
        ``Unavailable``, ``NoImage``."""
        repository = self.repository(path)
        partial, content = file.with_name(f".{file.name}.{os.getpid()}"), hashlib.sha256()
        place = self._url(f"/v2/{repository}/blobs/{digest}")
        try:
            with limited(_MOVE_SECONDS) as limits, partial.open("wb") as out:

                def take(piece: bytes) -> None:
                    content.update(piece)
                    limits.until += len(piece) / _SLOWEST
                    if out.tell() + out.write(piece) > size:
                        raise NoImage(_WRONG.format("blob"))

                answer = self._logged_in(repository, lambda login: self._transport.ask("GET", place, login, into=take))
            if answer.status != 200:
                raise NoImage("does not hold all of it")
            if f"sha256:{content.hexdigest()}" != digest:
                raise NoImage(_WRONG.format("blob"))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def give_blob(self, path: str, digest: str, content: bytes | Path) -> None:
        """Let the registry hold these bytes, or the file, as the blob with this digest. Raises ``Unavailable``;
        ``OSError`` where the file cannot be read."""
        repository = self.repository(path)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with limited(_MOVE_SECONDS + size / _SLOWEST), self._looking():
            if self._send("HEAD", f"/v2/{repository}/blobs/{digest}", repository).status == 200:
                return
            answer = self._send("POST", f"/v2/{repository}/blobs/uploads/", repository)
            self._expect(answer, 202)
            place = _joined(self._base, answer.headers.get("Location", ""), digest)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            with nullcontext(content) if isinstance(content, bytes) else content.open("rb") as data:
                self._expect(self._send("PUT", place, repository, headers, data), 201)

    def listing(self, path: str, what: str, media: str) -> dict[str, Any] | None:
        """What a repository answers about a manifest, an index or referrers, all pages of it; None if it does not have
        it. Raises ``Unavailable`` and ``NoImage``."""
        repository = self.repository(path)
        try:
            pages = [parsed(answer.body) for answer in self._pages(f"/v2/{repository}/{what}", repository, media)]
        except ValueError:
            return None  # a page of a registry that knows no such address
        if not pages or not all(isinstance(page, dict) for page in pages):
            return None
        if len(pages) == 1:
            return dict(pages[0])
        listed = (page.get("manifests") for page in pages)
        return {**pages[0], "manifests": [each for some in listed if isinstance(some, list) for each in some]}

    def give_manifest(self, path: str, reference: str, media: str, text: bytes) -> bool:
        """Let the registry hold a manifest or an index under its digest or a tag. Returns whether it lists it among the
        referrers of its subject. Raises ``Unavailable``."""
        repository = self.repository(path)
        place = f"/v2/{repository}/manifests/{reference}"
        with self._looking():
            answer = self._send("PUT", place, repository, {"Content-Type": media}, text)
            self._expect(answer, 201)
            return "OCI-Subject" in answer.headers

    def delete_manifest(self, path: str, digest: str) -> bool:
        """Let the registry forget a manifest or an index, with all tags that name it; false if it has none. Raises
        ``Unavailable``, also where the registry deletes nothing."""
        repository = self.repository(path)
        with self._looking():
            answer = self._send("DELETE", f"/v2/{repository}/manifests/{digest}", repository)
            if answer.status == 404:
                return False
            if answer.status == 405:
                raise Unavailable("does not allow deletion")
            self._expect(answer, 202)
            return True

    def _expect(self, answer: Answer, status: int) -> None:
        if answer.status in (401, 403):
            raise Unavailable(f"refuses the credentials of `docker login {self.host}`")
        if answer.status != status:
            raise Unavailable(f"answers with status {answer.status}")

    def _send(
        self, method: str, place: str, repository: str, headers: Mapping[str, str] | None = None,
        body: Body = None,
    ) -> Answer:  # fmt: skip
        """The answer to a request, logged in where that is asked for. ``place`` may be a whole URL that the registry
        gave: it is never told, since it may hold a signature, and gets no login at another host."""
        url = self._url(place)

        def once(login: Mapping[str, str]) -> Answer:
            ours = urlsplit(url)[:2] == urlsplit(self._base)[:2]
            if not isinstance(body, bytes | None):
                body.seek(0)
            return self._transport.ask(method, url, {**(headers or {}), **(login if ours else {})}, body)

        return self._logged_in(repository, once)

    def _url(self, place: str) -> str:
        return place if "://" in place else f"{self._base}{quote(place, safe='/:?=&%')}"

    def _logged_in(self, repository: str, once: Callable[[Mapping[str, str]], Answer]) -> Answer:
        """The answer to a request that is made with these headers of a login; again where another is asked for, and
        where the registry is busy and asks to wait."""
        for number in range(_TRIES):
            self._wait_until_open()
            answer = once(self._login.headers(repository))
            if answer.status == 401:
                answer = once(self._login.answer(answer.headers.get("WWW-Authenticate", ""), repository))
            if answer.status not in _BUSY or not self._close(answer, number):
                break
        return answer

    def rests(self, path: str, digest: str, number: int) -> bool:
        """Wait until whoever was refused, as the registry was too busy, may ask for this manifest again, for the
        so-and-so-many-th time, from 0: as long as it tells us to, else for longer each time. False where that is too
        long, or it does not answer."""
        repository, accept = self.repository(path), {"Accept": ", ".join(_MANIFESTS)}
        try:
            with self._looking():
                answer = self._send("GET", f"/v2/{repository}/manifests/{digest}", repository, accept)
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
            with self._looking() as limits:
                limits.rest(seconds)

    def _manifest(self, repository: str, reference: str) -> tuple[dict[str, Any] | None, str]:
        text = self._content(repository, "manifests", reference)
        if text is None:
            return None, ""
        try:
            manifest = parsed(text)
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise NoImage(_NO_IMAGE)
        return manifest, digest_of(text)

    def _content(self, repository: str, kind: str, reference: str) -> bytes | None:
        """The bytes of one of the ``manifests`` or ``blobs``; None if the registry does not have it. ``NoImage`` if
        they are of another digest than the reference; a tag may mean anything."""
        accept = ", ".join(_MANIFESTS) if kind == "manifests" else "*/*"
        answer = self._get(f"/v2/{repository}/{kind}/{reference}", repository, accept)
        if answer and ":" in reference and digest_of(answer.body) != reference:
            raise NoImage(_WRONG.format(kind.removesuffix("s")))
        return answer.body if answer else None

    def _get(self, path: str, repository: str, accept: str = "*/*") -> Answer | None:
        """The answer to a question; None if the registry does not have it. Some refuse to say of what is not there
        that it is not there: to somebody who is logged in that is the same."""
        with self._looking():
            answer = self._send("GET", path, repository, {"Accept": accept})
            if answer.status == 404 or (answer.status in (401, 403) and self._login.holds):
                return None
        self._expect(answer, 200)
        return answer

    def _pages(self, path: str, repository: str, accept: str = "*/*") -> Iterator[Answer]:
        """The answers to a question that come in pages, as the specification allows and hosted registries do (the
        header ``Link``, RFC 8288); none where the registry does not have it. ``Unavailable`` where it cannot be had
        whole."""
        for number in range(_PAGES):
            answer = self._get(path, repository, accept)
            if answer is None and not number:
                return
            if answer is None:
                raise Unavailable("did not return the next page of a list")
            yield answer
            link = _NEXT.search(answer.headers.get("Link", ""))
            if not link:
                return
            # Of the address that it names only what stands behind the host: a proxy may stand before the registry.
            place = urlsplit(urljoin(f"{self._base}{path}", link[1]))
            path = f"{place.path}?{place.query}"
        raise Unavailable(f"returned more than {_PAGES} pages of one list")

    def _looking(self) -> AbstractContextManager[Limits]:
        """For the block: the limits of one look-up; within another one, its."""
        return limited(self._seconds)

    @cached_property
    def _base(self) -> str:
        host = reaching.api_host(self.host)
        if any(self._certificates) or not (reaching.on_loopback(host) or self._insecure(self.host)):
            return f"https://{host}"
        with self._looking():
            return f"{self._transport.trusted_blindly(host)}://{host}"

    @cached_property
    def _login(self) -> Login:
        return Login(self.host, self._base, self._transport)


def _asked_to_wait(answer: Answer, number: int) -> float:
    """The seconds that a busy registry asks to wait before the next question."""
    try:
        return urllib3.Retry().parse_retry_after(answer.headers.get("Retry-After", ""))
    except (urllib3.exceptions.InvalidHeader, ValueError, TypeError, OverflowError):
        return float(_WAIT_SECONDS * 2**number)


def _joined(base: str, location: str, digest: str) -> str:
    """Where a blob is to be sent to. ``Unavailable`` where the registry names no address that it could be."""
    try:
        place = urljoin(f"{base}/", location)
        usable = bool(location) and bool(urlsplit(place).hostname)
    except ValueError:
        usable = False
    if not usable:
        raise Unavailable("returned no usable upload address")
    return f"{place}{'&' if '?' in place else '?'}{urlencode({'digest': digest})}"


def _digest(value: Any) -> str:
    """What is to be a digest; ``ValueError`` if it is none."""
    if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ValueError("no digest")
    return value


def _size(value: Any) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("no size")
    return value


def _together(digest: str, wanted: list[str], parts: list[SharedImage | None]) -> SharedImage | None:
    """The index of these images, one for each platform; without labels where they are not of one build."""
    images = [part for part in parts if part]
    if [part.platform for part in images] != wanted:
        return None
    ours = [{key: value for key, value in part.labels.items() if key.startswith(LABEL)} for part in images]
    labels = images[0].labels if all(marks == ours[0] for marks in ours) else {}
    layers = {layer: size for part in images for layer, size in part.layers.items()}
    return SharedImage(digest, "", ", ".join(wanted), labels, digest, layers)
