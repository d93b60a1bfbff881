"""What does the shared registry hold?

A client of the registry's HTTP API (OCI distribution specification) that only looks: tags, manifests, configurations.
The engine pushes and pulls. Credentials are those of ``docker login``; none of them is kept, printed or put into an
error. Every request has a time limit, because a registry may only ever make a build slower.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

from tasks.content import platforms
from tasks.engine import facts_of

_MANIFESTS = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_LOOPBACK = re.compile(r"^(localhost|127(\.\d+){3}|\[::1\])(:\d+)?$")
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
_LARGEST = 8_000_000  # bytes of a manifest or a configuration


class Unavailable(Exception):
    """The registry does not answer, not in time, or refuses; the sentence goes on from "the registry …"."""


class NoImage(Exception):
    """What the registry has under a name is no image that could be used; the rest of it may be good."""


@dataclass(frozen=True)
class Found:
    """An image that a registry holds: its manifest's digest, its configuration's digest (the image id of the classic
    store), platform, labels and content (as ``engine.Facts``), and its layers with their compressed bytes."""

    digest: str
    config: str
    platform: str
    labels: Mapping[str, str]
    content: str
    layers: Mapping[str, int] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes that a machine without any of it must fetch."""
        return sum(self.layers.values())


class Registry:
    """The registry at ``address``: ``host[:port]`` with an optional path that all its repositories begin with."""

    def __init__(self, address: str, connect: float = CONNECT_SECONDS, read: float = READ_SECONDS) -> None:
        self.address = address
        self.host, _, self._prefix = address.partition("/")
        self._limits = (connect, read)
        self._tokens: dict[str, str] = {}
        self._lock = threading.Lock()

    def repository(self, path: str) -> str:
        """The repository of an image in this registry, as its HTTP API names it.

        >>> Registry("localhost:5000/team").repository("vllm-swarm/auth")
        'team/vllm-swarm/auth'
        """
        return f"{self._prefix}/{path}" if self._prefix else path

    def image(self, path: str, tag: str, platform: str) -> Found | None:
        """The image of that platform under a tag; None if there is none.

        Raises ``Unavailable`` and ``NoImage``.
        """
        repository = self.repository(path)
        manifest, digest = self._manifest(repository, tag)
        if manifest is None:
            return None
        if "manifests" in manifest:
            try:
                listed = reversed(manifest["manifests"])  # the first of a platform wins
                by_platform = {platform_of(one.get("platform") or {}): one["digest"] for one in listed}
            except (KeyError, TypeError, AttributeError):
                raise NoImage("answers with something that is no image") from None
            wanted = platforms.normalise(platform)
            if wanted not in by_platform:
                return None
            manifest, digest = self._manifest(repository, by_platform[wanted])
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
            facts = facts_of(inspected)
            labels = {str(key): str(value) for key, value in (inspected["Config"].get("Labels") or {}).items()}
        except (KeyError, TypeError, ValueError, AttributeError):
            raise NoImage("answers with something that is no image") from None
        return Found(digest, config, facts.platform, labels, facts.content, layers)

    def tags(self, path: str) -> list[str]:
        """All tags of a repository; none if there is no such repository. Raises ``Unavailable`` and ``NoImage``."""
        repository = self.repository(path)
        answer = self._get(f"/v2/{repository}/tags/list", repository)
        try:
            return [] if answer is None else [str(tag) for tag in answer.json().get("tags") or ()]
        except (ValueError, AttributeError):
            raise NoImage("answers with something that is no list of tags") from None

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
        import requests

        headers = {"Accept": accept}
        if repository in self._tokens:
            headers["Authorization"] = self._tokens[repository]
        try:
            answer = self._request(path, headers)
            if answer.status_code == 401:
                headers["Authorization"] = self._authorization(answer.headers.get("WWW-Authenticate", ""), repository)
                answer = self._request(path, headers)
        except requests.exceptions.SSLError:
            raise Unavailable("has a certificate that is not trusted here") from None
        except requests.exceptions.Timeout:
            raise Unavailable("does not answer in time") from None
        except requests.exceptions.RequestException:
            raise Unavailable("does not answer") from None
        if answer.status_code == 404:
            return None
        if answer.status_code in (401, 403):
            raise Unavailable(f"refuses the credentials of `docker login {self.host}`")
        if answer.status_code >= 400:
            raise Unavailable(f"answers with status {answer.status_code}")
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
            for piece in answer.iter_content(65536):
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

    def _authorization(self, challenge: str, repository: str) -> str:
        """What answers a 401: the login itself, or the token that the registry's token server gives for it."""
        import requests

        user, password, identity = self._credentials
        scheme = challenge.partition(" ")[0].lower()
        asked = dict(_CHALLENGE.findall(challenge))
        if scheme == "basic":
            value = requests.auth._basic_auth_str(user, password)
        elif scheme == "bearer" and urlsplit(asked.get("realm", "")).scheme in ("http", "https"):
            scope = asked.get("scope") or f"repository:{repository}:pull"
            value = f"Bearer {self._token(asked['realm'], asked.get('service', ''), scope, user, password, identity)}"
        else:
            raise Unavailable("asks for a kind of login that is not known here")
        with self._lock:
            self._tokens[repository] = value
        return value

    def _token(self, realm: str, service: str, scope: str, user: str, password: str, identity: str) -> str:
        import requests

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
            found = docker.auth.load_config().resolve_authconfig(self.host) or {}
        except docker.errors.DockerException:
            found = {}
        user, password = found.get("username") or found.get("Username"), found.get("password") or found.get("Password")
        identity = found.get("IdentityToken") or found.get("identitytoken")
        return str(user or ""), str(password or ""), str(identity or "")


def platform_of(declared: Mapping[str, Any]) -> str:
    """The normal form of a platform as an index or a configuration writes it."""
    parts = (declared.get("os"), declared.get("architecture"), declared.get("variant"))
    return platforms.normalise("/".join(str(part) for part in parts if part))
