"""What does the shared registry hold?

A client of the registry's HTTP API (OCI distribution specification) that looks at tags, manifests and configurations.
The engine pushes and pulls, but for what it cannot hold (``transfer``). Credentials are those of ``docker login``; none
of them is kept, printed or put into an error. Every request has a time limit, because a registry may only ever make a
build slower.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urljoin, urlsplit

from tasks.base import platforms
from tasks.engine.client import image_config
from tasks.engine.labels import LABEL
from tasks.planning.shared_image import SharedImage

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
_MOVE_SECONDS, _SLOWEST = 20.0, 1_000_000  # what a blob may take: some seconds, and one for so many bytes
_LARGEST = 8_000_000  # bytes of a manifest or a configuration


class Unavailable(Exception):
    """The registry does not answer, not in time, or refuses; the sentence goes on from "the registry …"."""


class NoImage(Exception):
    """What the registry has under a name is no image that could be used; the rest of it may be good."""


class Registry:
    """The registry at ``address``: ``host[:port]`` with an optional path that all its repositories begin with."""

    def __init__(self, address: str, connect: float = CONNECT_SECONDS, read: float = READ_SECONDS) -> None:
        self.address = address
        self.host, _, self._prefix = address.partition("/")
        self._limits = (connect, read)
        self._logins: dict[str, Mapping[str, str]] = {}
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
        repository = self.repository(path)
        manifest, digest = self._manifest(repository, tag)
        if manifest is None:
            return None
        wanted = [platforms.normalise(part) for part in platform.split(", ")]
        if "manifests" in manifest:
            try:
                listed = reversed(manifest["manifests"])  # the first of a platform wins
                by_platform = {platforms.of(entry.get("platform") or {}): entry["digest"] for entry in listed}
            except (KeyError, TypeError, AttributeError):
                raise NoImage("answers with something that is no image") from None
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
            config = manifest["config"]["digest"]
            layers = {str(layer["digest"]): int(layer["size"]) for layer in manifest["layers"]}
            answer = self._get(f"/v2/{repository}/blobs/{config}", repository)
            if answer is None:
                return None
            made = answer.json()
            inspected = {
                "RootFS": {"Layers": made["rootfs"]["diff_ids"]},
                "Config": made.get("config") or {},
                "Os": made.get("os"),
                "Architecture": made.get("architecture"),
                "Variant": made.get("variant"),
            }
            known = image_config(inspected)
            labels = {str(key): str(value) for key, value in (inspected["Config"].get("Labels") or {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NoImage("answers with something that is no image") from None
        return SharedImage(digest, config, known.platform, labels, known.content, layers)

    def tags(self, path: str) -> list[str]:
        """All tags of a repository; none if there is no such repository. Raises ``Unavailable`` and ``NoImage``."""
        repository = self.repository(path)
        answer = self._get(f"/v2/{repository}/tags/list", repository)
        try:
            return [] if answer is None else [str(tag) for tag in answer.json().get("tags") or ()]
        except (ValueError, AttributeError):
            raise NoImage("answers with something that is no list of tags") from None

    def raw_manifest(self, path: str, digest: str) -> bytes:
        """The very bytes of a manifest or an index. Raises ``Unavailable`` and ``NoImage``."""
        repository = self.repository(path)
        answer = self._get(f"/v2/{repository}/manifests/{digest}", repository, ", ".join(_MANIFESTS))
        if answer is None:
            raise NoImage("does not hold all of it")
        return bytes(answer.content)

    def take_blob(self, path: str, digest: str, file: Path) -> None:
        """Let ``file`` be the blob with this digest; it is there once whole. Raises ``Unavailable``, ``NoImage``."""
        import hashlib

        repository = self.repository(path)
        partial, content = file.with_name(f".{file.name}.{os.getpid()}"), hashlib.sha256()
        try:
            with (
                _translated(),
                self._send("GET", f"/v2/{repository}/blobs/{digest}", repository) as answer,
                partial.open("wb") as out,
            ):
                if answer.status_code != 200:
                    raise NoImage("does not hold all of it")
                for piece in answer.iter_content(1 << 20):
                    content.update(piece)
                    out.write(piece)
            if f"sha256:{content.hexdigest()}" != digest:
                raise NoImage("answers with another blob than the one that was asked for")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def give_blob(self, path: str, digest: str, file: Path) -> None:
        """Let the registry hold the file that is the blob with this digest. Raises ``Unavailable``; ``OSError`` where
        the file cannot be read."""
        repository = self.repository(path)
        with self._send("HEAD", f"/v2/{repository}/blobs/{digest}", repository) as answer:
            if answer.status_code == 200:
                return
        with self._send("POST", f"/v2/{repository}/blobs/uploads/", repository) as answer:
            self._expect(answer, 202)
            place = urljoin(f"{self._base}/", answer.headers.get("Location", ""))
        place += ("&" if "?" in place else "?") + urlencode({"digest": digest})
        headers = {"Content-Type": "application/octet-stream"}
        with self._send("PUT", place, repository, headers, file) as answer:
            self._expect(answer, 201)

    def listing(self, path: str, what: str, media: str) -> dict[str, Any] | None:
        """What a repository answers about a manifest, an index or referrers; None if it does not have it. Raises
        ``Unavailable`` and ``NoImage``."""
        repository = self.repository(path)
        answer = self._get(f"/v2/{repository}/{what}", repository, media)
        try:
            listed = None if answer is None else answer.json()
        except ValueError:
            return None  # a page of a registry that knows no such address
        return listed if isinstance(listed, dict) else None

    def give_manifest(self, path: str, reference: str, media: str, text: bytes) -> bool:
        """Let the registry hold a manifest or an index under its digest or a tag. Returns whether it lists it among the
        referrers of its subject. Raises ``Unavailable``."""
        repository = self.repository(path)
        place = f"/v2/{repository}/manifests/{reference}"
        with self._send("PUT", place, repository, {"Content-Type": media}, text) as answer:
            self._expect(answer, 201)
            return "OCI-Subject" in answer.headers

    def _expect(self, answer: Any, status: int) -> None:
        if answer.status_code in (401, 403):
            raise Unavailable(f"refuses the credentials of `docker login {self.host}`")
        if answer.status_code != status:
            raise Unavailable(f"answers with status {answer.status_code}")

    def _send(
        self, method: str, place: str, repository: str, headers: Mapping[str, str] | None = None,
        body: bytes | Path | None = None,
    ) -> Any:  # fmt: skip
        """An open answer to a request, logged in where that is asked for. ``place`` may be a whole URL that the
        registry gave: it is never told, since it may hold a signature, and gets no login at another host."""
        import requests

        url = place if "://" in place else f"{self._base}{quote(place, safe='/:')}"
        size = body.stat().st_size if isinstance(body, Path) else 0
        limits = (self._limits[0], _MOVE_SECONDS + size / _SLOWEST)

        def once(login: Mapping[str, str]) -> Any:
            ours = urlsplit(url).netloc == urlsplit(self._base).netloc
            sent = {**(headers or {}), **(login if ours else {})}
            with body.open("rb") if isinstance(body, Path) else contextlib.nullcontext(body) as data:
                # Of an empty file, requests would send no length.
                content = data if size or not isinstance(body, Path) else b""
                return requests.request(
                    method, url, headers=sent, data=content, timeout=limits, verify=self._trust, stream=True
                )

        return self._logged_in(repository, once)

    def _logged_in(self, repository: str, once: Callable[[Mapping[str, str]], Any]) -> Any:
        """The answer to a request that is made with these headers of a login; again where another is asked for."""
        with _translated():
            answer = once(self._logins.get(repository, {}))
            if answer.status_code == 401:
                answer.close()
                answer = once(self._login(answer.headers.get("WWW-Authenticate", ""), repository))
            return answer

    def _manifest(self, repository: str, reference: str) -> tuple[dict[str, Any] | None, str]:
        answer = self._get(f"/v2/{repository}/manifests/{reference}", repository, ", ".join(_MANIFESTS))
        if answer is None:
            return None, ""
        import hashlib

        digest = f"sha256:{hashlib.sha256(answer.content).hexdigest()}"
        if reference.startswith("sha256:") and digest != reference:
            raise NoImage("answers with another manifest than the one that was asked for")
        try:
            manifest = answer.json()
        except ValueError:
            manifest = None
        if not isinstance(manifest, dict):
            raise NoImage("answers with something that is no image")
        return manifest, digest

    def _get(self, path: str, repository: str, accept: str = "*/*") -> Any:
        """The answer to a request; None if the registry does not have it."""
        answer = self._logged_in(repository, lambda login: self._request(path, {"Accept": accept, **login}))
        if answer.status_code == 404:
            return None
        self._expect(answer, 200)
        return answer

    def _request(self, path: str, headers: Mapping[str, str]) -> Any:
        """One GET, of a bounded size; redirects (to a store of blobs) lose the authorisation when they leave the host,
        which ``requests`` sees to."""
        import requests

        url = f"{self._base}{quote(path, safe='/:')}"
        until = time.monotonic() + sum(self._limits)
        answer = requests.get(url, headers=headers, timeout=self._limits, verify=self._trust, stream=True)
        with answer:
            if int(answer.headers.get("Content-Length") or 0) > _LARGEST:
                raise NoImage("answers with something that is no image")
            body = b""
            # Each piece when it is there: ``iter_content`` waits for as many bytes as it was asked for.
            while piece := answer.raw.read1(65536, decode_content=True):
                body += piece
                if time.monotonic() > until:  # bytes that drip reset the time limit of a read
                    raise Unavailable("does not answer in time")
                if len(body) > _LARGEST:
                    raise NoImage("answers with something that is no image")
        answer._content = body  # what .content and .json() read
        return answer

    @cached_property
    def _base(self) -> str:
        # The engine, too, speaks plain HTTP to loopback alone.
        return f"{'http' if _LOOPBACK.match(self.host) else 'https'}://{self.host}"

    @cached_property
    def _trust(self) -> str | bool:
        """The authority that the engine trusts for this registry, where it has its own."""
        own = Path("/etc/docker/certs.d") / self.host / "ca.crt"
        return str(own) if own.is_file() else True

    def _login(self, challenge: str, repository: str) -> Mapping[str, str]:
        """The header that answers a 401: with the login itself, or the token that the registry's token server gives."""
        import requests

        scheme = challenge.partition(" ")[0].lower()
        asked = dict(_CHALLENGE.findall(challenge))
        if scheme == "basic":
            value = requests.auth._basic_auth_str(*self._credentials[:2])
        elif scheme == "bearer" and urlsplit(asked.get("realm", "")).scheme in ("http", "https"):
            scope = asked.get("scope") or f"repository:{repository}:pull"
            value = f"Bearer {self._token(asked['realm'], asked.get('service', ''), scope)}"
        else:
            raise Unavailable("asks for a kind of login that is not known here")
        with self._lock:
            self._logins[repository] = {"Authorization": value}
            return self._logins[repository]

    def _token(self, realm: str, service: str, scope: str) -> str:
        import requests

        user, password, identity = self._credentials
        if identity:
            form = {"grant_type": "refresh_token", "service": service, "scope": scope, "refresh_token": identity,
                    "client_id": "vllm-swarm"}  # fmt: skip
            answer = requests.post(realm, data=form, timeout=self._limits, verify=self._trust)
        else:
            url = f"{realm}?{urlencode({'service': service, 'scope': scope})}"
            login = (user, password) if user else None
            answer = requests.get(url, auth=login, timeout=self._limits, verify=self._trust)
        if answer.status_code >= 400:
            raise Unavailable(f"refuses the credentials of `docker login {self.host}`")
        try:
            return str(answer.json().get("token") or answer.json()["access_token"])
        except (ValueError, KeyError, AttributeError):
            raise Unavailable("has a token server that gives no token") from None

    @cached_property
    def _credentials(self) -> tuple[str, str, str]:
        """User, password and identity token of ``docker login``, credential helpers included; empty without a login."""
        import docker.errors

        import docker.auth

        try:
            login = docker.auth.load_config().resolve_authconfig(self.host) or {}
        except docker.errors.DockerException:
            login = {}
        user, password = login.get("username") or login.get("Username"), login.get("password") or login.get("Password")
        identity = login.get("IdentityToken") or login.get("identitytoken")
        return str(user or ""), str(password or ""), str(identity or "")


def _together(digest: str, wanted: list[str], parts: list[SharedImage | None]) -> SharedImage | None:
    """The index of these images, one for each platform; without labels where they are not of one build."""
    images = [part for part in parts if part]
    if [part.platform for part in images] != wanted:
        return None
    ours = [{key: value for key, value in part.labels.items() if key.startswith(LABEL)} for part in images]
    labels = images[0].labels if all(marks == ours[0] for marks in ours) else {}
    layers = {layer: size for part in images for layer, size in part.layers.items()}
    return SharedImage(digest, "", ", ".join(wanted), labels, digest, layers)


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    """For the block: ``Unavailable`` for what ``requests`` raises, without a URL, which may hold a signature."""
    import requests
    import urllib3

    try:
        yield
    except requests.exceptions.SSLError:
        raise Unavailable("has a certificate that is not trusted here") from None
    except (requests.exceptions.Timeout, urllib3.exceptions.ReadTimeoutError):
        raise Unavailable("does not answer in time") from None
    except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError):
        raise Unavailable("does not answer") from None
