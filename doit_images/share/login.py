"""How does a machine log in at a registry?

With what ``docker login`` left behind, credential helpers included, in the two ways that registries know: the login
itself with each request, or a token of the registry's token server for each repository. Nothing of it is kept on disk,
printed or put into an error.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.share.no_answer import Unavailable
from doit_images.share.reaching import HUB, HUB_LOGIN
from doit_images.share.transport import Transport, limited, parsed

_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')
_HELPER_SECONDS = 5.0
# What a helper or a file that is damaged comes to; a TimeoutError is an OSError.
_NONSENSE = (UserError, OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)
_TOKEN_USER = "<token>"  # noqa: S105  by which a credential helper says that the secret is an identity token


class Credentials(NamedTuple):
    """User, password and identity token of ``docker login``; empty without one."""

    user: str = ""
    password: str = ""
    identity: str = ""


class Login:
    """The login at the registry ``host``, whose requests go to ``base``."""

    def __init__(self, host: str, base: str, transport: Transport) -> None:
        self._host, self._base, self._transport = host, base, transport
        self._headers: dict[str, Mapping[str, str]] = {}
        self._lock = threading.Lock()

    def headers(self, repository: str) -> Mapping[str, str]:
        """The headers that got an answer about this repository last."""
        return self._headers.get(repository, {})

    def answer(self, challenge: str, repository: str) -> Mapping[str, str]:
        """The headers that answer a 401: with the login itself, or the token of a token server. ``Unavailable``."""
        scheme = challenge.partition(" ")[0].lower()
        asked = dict(_CHALLENGE.findall(challenge))
        realm = asked.get("realm", "")
        if scheme == "basic":
            value = _basic(self.credentials)
        elif scheme == "bearer" and realm.startswith(("http://", "https://")):
            if urlsplit(self._base).scheme == "https" and not realm.startswith("https://"):
                raise Unavailable("asks for the login without TLS")
            scope = asked.get("scope") or f"repository:{repository}:pull"
            value = f"Bearer {self._token(realm, asked.get('service', ''), scope)}"
        else:
            raise Unavailable("asks for an unknown kind of login")
        with self._lock:
            self._headers[repository] = {"Authorization": value}
            return self._headers[repository]

    @cached_property
    def holds(self) -> bool:
        """Whether there is a login, and the registry takes it: then what it refuses to show is not there, or is not for
        this machine, which comes to the same. Raises ``Unavailable``."""
        if not any(self.credentials):
            return False
        url = f"{self._base}/v2/"
        answer = self._transport.ask("GET", url)
        if answer.status == 401:
            answer = self._transport.ask("GET", url, self.answer(answer.headers.get("WWW-Authenticate", ""), ""))
        return answer.status == 200

    def _token(self, realm: str, service: str, scope: str) -> str:
        if self.credentials.identity:
            form = {"grant_type": "refresh_token", "service": service, "scope": scope, "client_id": "doit-images",
                    "refresh_token": self.credentials.identity}  # fmt: skip
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            answer = self._transport.ask("POST", realm, headers, urlencode(form).encode())
        else:
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode({'service': service, 'scope': scope})}"
            headers = {"Authorization": _basic(self.credentials)} if self.credentials.user else {}
            answer = self._transport.ask("GET", url, headers)
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(f"has a token server that answers with status {answer.status}")
        if answer.status >= 400:
            raise Unavailable(f"refuses the credentials of `docker login {self._host}`")
        with contextlib.suppress(ValueError, AttributeError):
            given = parsed(answer.body)
            token = given.get("token") or given.get("access_token")
            if isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token):
                return token
        raise Unavailable("has a token server that returned no token")

    @cached_property
    def credentials(self) -> Credentials:
        """What ``docker login`` left for this host; none where it cannot be read."""
        import docker.errors

        import docker.auth

        try:
            config = docker.auth.load_config()
            if (helper := config.get_credential_store(self._host)) and (known := self._helped(str(helper))):
                return known
            config.pop("credsStore", None)
            config.pop("credHelpers", None)
            login = config.resolve_authconfig(self._host) or {}
        except (docker.errors.DockerException, *_NONSENSE):
            return Credentials()
        user, password = login.get("username"), login.get("password")
        return Credentials(
            *(each if isinstance(each, str) else "" for each in (user, password, login.get("IdentityToken")))
        )

    def _helped(self, helper: str) -> Credentials | None:
        """What a credential helper says; None if it knows nothing, or does not say it in time."""
        server = HUB_LOGIN if self._host == HUB else self._host
        with limited(_HELPER_SECONDS) as limits, contextlib.suppress(*_NONSENSE):
            seconds = max(0.1, min(limits.left(), _HELPER_SECONDS))
            done = commands.run(["docker-credential-" + helper, "get"], stdin=server.encode(), seconds=seconds)
            said = json.loads(done.output) if done.status == 0 else {}
            user, secret = said["Username"], said["Secret"]
            if isinstance(user, str) and isinstance(secret, str):
                return Credentials(identity=secret) if user == _TOKEN_USER else Credentials(user, secret)
        return None


def _basic(credentials: Credentials) -> str:
    return "Basic " + base64.b64encode(f"{credentials.user}:{credentials.password}".encode()).decode()
