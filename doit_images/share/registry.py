"""What does the shared registry hold?

A client of the registry's HTTP API (OCI distribution specification) that looks at tags, manifests and configurations.
The engine pushes and pulls, but for what it cannot hold (``transfer``). Every look-up has one limit on its time and one
on its size (``transport``), because a registry may only ever make a build slower.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urljoin, urlsplit

from doit_images.core.base import platforms
from doit_images.core.base.references import digest_of
from doit_images.core.engine.client import ImageConfig, image_config
from doit_images.core.engine.labels import LABEL, translated
from doit_images.core.planning.shared_image import SharedImage
from doit_images.share.client import ACCEPT, CONNECT_SECONDS, READ_SECONDS, Client
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.transport import answered, limited, parsed

_DIGEST = re.compile(r"[a-z0-9]+(?:[.+_-][a-z0-9]+)*:[a-zA-Z0-9=_-]+")  # as the specification of manifests has it
_MOVE_SECONDS, _SLOWEST = 20.0, 1_000_000  # what a blob may take: some seconds, and one for so many bytes
_NO_IMAGE, _WRONG = "returned something that is not an image", "returned a {} with the wrong digest"
_NO_HEAD = (400, 405, 501)  # where only the answer to a whole question can be had
_SEVERAL = ", "  # stands between the platforms of an index


class Registry:
    """What the registry at an address holds: ``client`` asks it, and takes the same words."""

    def __init__(
        self,
        address: str,
        connect: float = CONNECT_SECONDS,
        read: float = READ_SECONDS,
        insecure: Callable[[str], bool] = lambda host: False,
    ) -> None:
        self.address = address
        self.client = Client(address, connect, read, insecure)
        self.known: dict[str, SharedImage] = {}
        """What is known of manifests and indexes by their digests: these need not be fetched again."""
        self.lists_referrers = True
        """Whether it knows what is attached to a manifest, as far as that was tried (``referrers``)."""

    def image(self, path: str, tag: str, platform: str) -> SharedImage | None:
        """The image of that platform under a tag; None if there is none. Of several platforms, with commas between, the
        index: what all of its images have in common, its own digest as the content.

        Raises ``Unavailable`` and ``NoImage``.
        """
        asked = [platforms.normalise(part) for part in platform.split(_SEVERAL)]
        with self.client.looking():
            return answered(lambda: self._image(self.client.repository(path), tag, asked))

    def _image(self, repository: str, reference: str, asked: Sequence[str]) -> SharedImage | None:
        """What a tag means is asked first: a registry may count a manifest that is fetched as a pull."""
        digest = reference if ":" in reference else self._meant(repository, reference)
        if digest is None:
            return None
        if ":" not in reference and (known := self._known_as(digest, asked)):
            return known
        manifest, digest = self._manifest(repository, digest or reference)
        if manifest is None:
            return None
        if "manifests" not in manifest:
            return self._described(repository, manifest, digest) if len(asked) == 1 else None
        try:
            listed = reversed(manifest["manifests"])  # the first of a platform wins
            by_platform = {platforms.of(entry.get("platform") or {}): _digest(entry["digest"]) for entry in listed}
        except (KeyError, TypeError, AttributeError, ValueError):
            raise NoImage(_NO_IMAGE) from None
        if not by_platform.keys() >= set(asked):
            return None
        if len(asked) == 1:
            return self._part(repository, by_platform[asked[0]])
        return self._keep(_together(digest, asked, [self._part(repository, by_platform[name]) for name in asked]))

    def digest(self, path: str, tag: str) -> str:
        """What a tag means now, by a question that counts as no pull; "" where there is no such tag. Raises
        ``Unavailable`` and ``NoImage``."""
        repository = self.client.repository(path)
        with self.client.looking():
            meant = answered(lambda: self._meant(repository, tag))
            return answered(lambda: self._manifest(repository, tag)[1]) if meant == "" else meant or ""

    def _meant(self, repository: str, tag: str) -> str | None:
        """The digest that a tag means, "" where the registry does not say; None if it does not have it."""
        answer = self.client.ask("HEAD", f"/v2/{repository}/manifests/{tag}", repository, ACCEPT)
        if answer is None or answer.status in _NO_HEAD:
            return None if answer is None else ""
        self.client.require(answer, 200)
        told = answer.headers.get("Docker-Content-Digest", "")
        return told if _DIGEST.fullmatch(told) else ""

    def _known_as(self, digest: str, asked: Sequence[str]) -> SharedImage | None:
        """What is known of this digest, where it is of as many platforms as are asked for."""
        known = self.known.get(digest)
        one = known is not None and _SEVERAL not in known.platform
        return known if known and (len(asked) == 1 if one else known.platform == _SEVERAL.join(asked)) else None

    def _keep(self, image: SharedImage | None) -> SharedImage | None:
        if image:
            self.known[image.digest] = image
        return image

    def _part(self, repository: str, digest: str) -> SharedImage | None:
        """The image of one platform of an index."""
        return self._known_as(digest, [""]) or self._described(repository, *self._manifest(repository, digest))

    def _described(self, repository: str, manifest: dict[str, Any] | None, digest: str) -> SharedImage | None:
        if manifest is None:
            return None
        try:
            config = _digest(manifest["config"]["digest"])
            layers = {_digest(layer["digest"]): _size(layer["size"]) for layer in manifest["layers"]}
            text = self._content(repository, "blobs", config)
            if text is None:
                return None
            known, labels = described(parsed(text))
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NoImage(_NO_IMAGE) from None
        return self._keep(SharedImage(digest, config, known.platform, translated(labels), known.content, layers))

    def tags(self, path: str) -> list[str]:
        """All tags of a repository, whole or not at all; none if there is no such repository. Raises ``Unavailable``
        and ``NoImage``."""
        repository = self.client.repository(path)
        try:
            pages = [parsed(answer.body) for answer in self.client.pages(f"/v2/{repository}/tags/list", repository)]
            return [tag for page in pages for tag in page.get("tags") or () if isinstance(tag, str)]
        except (ValueError, AttributeError, TypeError):
            raise NoImage("returned something that is not a list of tags") from None

    def raw_manifest(self, path: str, reference: str) -> bytes:
        """The very bytes of a manifest or an index, by its digest or a tag. Raises ``Unavailable`` and ``NoImage``."""
        return self._whole(path, "manifests", reference)

    def small_blob(self, path: str, digest: str) -> bytes:
        """The bytes of a blob that is no larger than a look-up may be, a configuration for instance. Raises
        ``Unavailable`` and ``NoImage``."""
        return self._whole(path, "blobs", digest)

    def _whole(self, path: str, kind: str, reference: str) -> bytes:
        content = self._content(self.client.repository(path), kind, reference)
        if content is None:
            raise NoImage("does not hold all of it")
        return content

    def take_blob(self, path: str, digest: str, file: Path, size: int) -> None:
        """Let ``file`` be the blob with this digest, of no more than ``size`` bytes; it is there once whole. Raises
        ``Unavailable``, ``NoImage``."""
        repository = self.client.repository(path)
        partial, content = file.with_name(f".{file.name}.{os.getpid()}"), hashlib.sha256()
        place = self.client.url(f"/v2/{repository}/blobs/{digest}")
        try:
            with limited(_MOVE_SECONDS) as limits, partial.open("wb") as out:

                def take(piece: bytes) -> None:
                    content.update(piece)
                    limits.until += len(piece) / _SLOWEST
                    if out.tell() + out.write(piece) > size:
                        raise NoImage(_WRONG.format("blob"))

                ask = self.client.transport.ask
                answer = self.client.logged_in(repository, lambda login: ask("GET", place, login, into=take))
            if answer.status != 200:
                raise NoImage("does not hold all of it")
            if f"sha256:{content.hexdigest()}" != digest:
                raise NoImage(_WRONG.format("blob"))
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def has_blob(self, path: str, digest: str, beside: str = "") -> bool:
        """Whether the registry has this blob in a repository, or takes it from the one ``beside`` it, where it does
        that. Raises ``Unavailable``."""
        repository = self.client.repository(path)
        with self.client.looking():
            if self.client.send("HEAD", f"/v2/{repository}/blobs/{digest}", repository).status == 200:
                return True
            if not beside:
                return False
            query = urlencode({"mount": digest, "from": self.client.repository(beside)})
            return self.client.send("POST", f"/v2/{repository}/blobs/uploads/?{query}", repository).status == 201

    def give_blob(self, path: str, digest: str, content: bytes | Path) -> None:
        """Let the registry hold these bytes, or the file, as the blob with this digest. Raises ``Unavailable``;
        ``OSError`` where the file cannot be read."""
        repository = self.client.repository(path)
        size = len(content) if isinstance(content, bytes) else content.stat().st_size
        with limited(_MOVE_SECONDS + size / _SLOWEST), self.client.looking():
            if self.has_blob(path, digest):
                return
            answer = self.client.send("POST", f"/v2/{repository}/blobs/uploads/", repository)
            self.client.require(answer, 202)
            place = _joined(self.client.base, answer.headers.get("Location", ""), digest)
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
            with nullcontext(content) if isinstance(content, bytes) else content.open("rb") as data:
                self.client.require(self.client.send("PUT", place, repository, headers, data), 201)

    def listing(self, path: str, what: str, media: str) -> dict[str, Any] | None:
        """What a repository answers about a manifest, an index or referrers, all pages of it; None if it does not have
        it. Raises ``Unavailable`` and ``NoImage``."""
        repository = self.client.repository(path)
        try:
            pages = [parsed(answer.body) for answer in self.client.pages(f"/v2/{repository}/{what}", repository, media)]
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
        repository = self.client.repository(path)
        place = f"/v2/{repository}/manifests/{reference}"
        with self.client.looking():
            answer = self.client.send("PUT", place, repository, {"Content-Type": media}, text)
            self.client.require(answer, 201)
            return "OCI-Subject" in answer.headers

    def delete_manifest(self, path: str, digest: str) -> bool:
        """Let the registry forget a manifest or an index, with all tags that name it; false if it has none. Raises
        ``Unavailable``, also where the registry deletes nothing."""
        repository = self.client.repository(path)
        with self.client.looking():
            answer = self.client.send("DELETE", f"/v2/{repository}/manifests/{digest}", repository)
            if answer.status == 404:
                return False
            if answer.status == 405:
                raise Unavailable("does not allow deletion")
            self.client.require(answer, 202)
            return True

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
        accept = ACCEPT if kind == "manifests" else "*/*"
        answer = self.client.get(f"/v2/{repository}/{kind}/{reference}", repository, accept)
        if answer and ":" in reference and digest_of(answer.body) != reference:
            raise NoImage(_WRONG.format(kind.removesuffix("s")))
        return answer.body if answer else None


def described(made: dict[str, Any]) -> tuple[ImageConfig, dict[str, str]]:
    """What is known of an image by its configuration, and its labels. ``KeyError``, ``TypeError``, ``ValueError`` or
    ``AttributeError`` where it is none."""
    inspected = {
        "RootFS": {"Layers": made["rootfs"]["diff_ids"]},
        "Config": made.get("config") or {},
        "Os": made.get("os"),
        "Architecture": made.get("architecture"),
        "Variant": made.get("variant"),
        "Author": made.get("author"),
        "OsVersion": made.get("os.version"),
    }
    labels = (made.get("config") or {}).get("Labels") or {}
    return image_config(inspected), {str(key): str(value) for key, value in labels.items()}


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


def _digest(value: object) -> str:
    """The value, if it is a digest; else ``ValueError``."""
    if not (isinstance(value, str) and _DIGEST.fullmatch(value)):
        raise ValueError("no digest")
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or value < 0:
        raise ValueError("no size")
    return value


def _together(digest: str, asked: Sequence[str], parts: list[SharedImage | None]) -> SharedImage | None:
    """The index of these images, one for each platform; without labels where they are not of one build."""
    images = [part for part in parts if part]
    if [part.platform for part in images] != [*asked]:
        return None
    ours = [{key: value for key, value in part.labels.items() if key.startswith(LABEL)} for part in images]
    labels = images[0].labels if all(marks == ours[0] for marks in ours) else {}
    layers = {layer: size for part in images for layer, size in part.layers.items()}
    return SharedImage(digest, "", _SEVERAL.join(asked), labels, digest, layers)
