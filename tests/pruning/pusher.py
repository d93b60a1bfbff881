"""Pushes what a registry is to hold for a test, quickly: images of nothing, and what is attached to them."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterable, Mapping
from typing import Any

from doit_images.core.base import oci
from doit_images.core.base.references import digest_of
from doit_images.share import referrers
from tests import loopback

CONFIG = "application/vnd.oci.image.config.v1+json"


class Pusher:
    """Pushes to one repository of a registry, and nothing that it pushed before, over one connection."""

    def __init__(self, server: loopback.Service, path: str) -> None:
        self._to = http.client.HTTPConnection("127.0.0.1", server.port)
        self._path = path
        self._there: set[str] = set()
        self._parts: dict[str, set[str]] = {}
        self._attached: dict[str, list[str]] = {}
        self._lists: dict[str, str] = {}

    def parts(self, digest: str) -> set[str]:
        """The digests of all that belongs to a manifest: itself, its blobs, what is attached to it, and its list."""
        attached = {part for each in self._attached.get(digest, ()) for part in self.parts(each)}
        return {*self._parts[digest], *attached, *([self._lists[digest]] if digest in self._lists else ())}

    def _ask(self, method: str, place: str, body: bytes = b"", kind: str = "", accept: str = "*/*") -> bytes:
        self._to.request(method, place, body, {"Content-Type": kind, "Accept": accept})
        answer = self._to.getresponse()
        said = answer.read()
        assert answer.status < 300, said
        self._location = answer.headers.get("Location", "")
        return said

    def blob(self, content: bytes, media: str = CONFIG) -> dict[str, Any]:
        described = referrers.descriptor(media, content)
        if described["digest"] not in self._there:
            self._there.add(described["digest"])
            self._ask("POST", f"/v2/{self._path}/blobs/uploads/")
            place = f"{self._location[self._location.index('/v2/') :]}&digest={described['digest']}"
            self._ask("PUT", place, content, "application/octet-stream")
        return described

    def manifest(
        self, tag: str, config: Mapping[str, Any], layers: Iterable[bytes], media: str = CONFIG, **more: Any
    ) -> str:
        """Push a manifest under a tag, or with none under its digest alone; its digest."""
        blobs = [self.blob(json.dumps(config).encode(), media), *(self.blob(layer, "x/y") for layer in layers)]
        said = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": blobs[0], "layers": blobs[1:], **more}
        return self._give(tag, said, [blob["digest"] for blob in blobs])

    def index(self, tag: str, children: Iterable[str]) -> str:
        """Push an index of these manifests, with all that belongs to them; its digest."""
        return self._listing(tag, children, [part for child in children for part in self.parts(child)])

    def attach(self, digest: str, content: bytes, kind: str, listed: bool = True) -> str:
        """Attach something to a manifest, with the tag that lists all that is; its digest."""
        subject = {"mediaType": oci.MANIFEST, "digest": digest, "size": 1}
        own = self.manifest("", {}, [content], referrers.EMPTY, artifactType=kind, subject=subject)
        self._attached.setdefault(digest, []).append(own)
        if listed:
            self._lists[digest] = self._listing(referrers.tag_of(digest), self._attached[digest], [])
        return own

    def _listing(self, tag: str, children: Iterable[str], parts: Iterable[str]) -> str:
        listed = [{"mediaType": oci.MANIFEST, "digest": child, "size": 1} for child in children]
        return self._give(tag, {"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": listed}, parts)

    def _give(self, tag: str, said: Mapping[str, Any], parts: Iterable[str]) -> str:
        text = json.dumps(said).encode()
        digest = digest_of(text)
        self._ask("PUT", f"/v2/{self._path}/manifests/{tag or digest}", text, said["mediaType"])
        self._parts[digest] = {digest, *parts}
        return digest

    def tag(self, tag: str, digest: str) -> None:
        """Let a manifest that is there have another tag."""
        text = self._ask("GET", f"/v2/{self._path}/manifests/{digest}", accept=oci.MANIFEST)
        self._ask("PUT", f"/v2/{self._path}/manifests/{tag}", text, oci.MANIFEST)
