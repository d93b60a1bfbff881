"""How does a machine log in at a registry?

With what ``docker login`` left behind, credential helpers included, in the two ways that registries know: the login
itself with each request, or the tokens of a token server (``tokens``). Nothing of it is kept on disk, printed or put
into an error.
"""

from __future__ import annotations

import base64
import contextlib
import json
import re
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple
from urllib.parse import urlencode, urlsplit

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.share.no_answer import Unavailable
from doit_images.share.reaching import HUB, HUB_LOGIN
from doit_images.share.tokens import Tokens, TokenServer
from doit_images.share.transport import Answer, Transport, in_turn, limited

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
    """The login at the registry ``host``, whose requests go to ``base``; ``soon`` are the repositories that will be
    asked about, for which a token may be had in advance."""

    def __init__(self, host: str, base: str, transport: Transport, soon: Collection[str] = ()) -> None:
        self._host, self._base, self._transport = host, base, transport
        self._basic: Mapping[str, str] = {}
        self._tokens = Tokens(self._requested, soon)
        self._first = threading.Lock()
        self._begun = False

    def tried(self, repository: str, once: Callable[[Mapping[str, str]], Answer]) -> Answer:
        """The answer to a request about a repository, which is made with these headers: those that were good last, and
        again with others where these are asked for. The very first request finds out for all how to log in. Raises
        ``Unavailable``."""
        if not self._begun:
            with in_turn(self._first):
                if not self._begun:
                    answer = self._tried(repository, once)
                    self._begun = True
                    return answer
        return self._tried(repository, once)

    def _tried(self, repository: str, once: Callable[[Mapping[str, str]], Answer]) -> Answer:
        used = self._basic or self._tokens.headers(repository)
        answer = once(used)
        if answer.status != 401:
            return answer
        other = self._other(answer.headers.get("WWW-Authenticate", ""), repository, used)
        return once(other) if other != used else answer

    def _other(self, challenge: str, repository: str, used: Mapping[str, str]) -> Mapping[str, str]:
        """The headers that answer a 401 to others: with the login itself, for the whole host, or the token of a token
        server; those that were ``used`` where there are no better. ``Unavailable``."""
        scheme = challenge.partition(" ")[0].lower()
        asked = dict(_CHALLENGE.findall(challenge))
        realm = asked.get("realm", "")
        if scheme == "basic":
            self._basic = {"Authorization": _basic(self.credentials)}
            return self._basic
        if scheme == "bearer" and realm.startswith(("http://", "https://")):
            if urlsplit(self._base).scheme == "https" and not realm.startswith("https://"):
                raise Unavailable("asks for the login without TLS")
            server = TokenServer(realm, asked.get("service", ""))
            return self._tokens.renewed(server, repository, asked.get("scope", ""), used)
        raise Unavailable("asks for an unknown kind of login")

    @cached_property
    def holds(self) -> bool:
        """Whether there is a login, and the registry takes it: then what it refuses to show is not there, or is not for
        this machine, which comes to the same. Raises ``Unavailable``."""
        if not any(self.credentials):
            return False
        return self._tried("", lambda headers: self._transport.ask("GET", f"{self._base}/v2/", headers)).status == 200

    def _requested(self, server: TokenServer, scopes: Sequence[str]) -> Answer:
        """What the token server answers to somebody with this login who asks for these scopes."""
        if self.credentials.identity:
            form = {"grant_type": "refresh_token", "service": server.service, "scope": " ".join(scopes),
                    "client_id": "doit-images", "refresh_token": self.credentials.identity}  # fmt: skip
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            return self._transport.ask("POST", server.realm, headers, urlencode(form).encode())
        query = urlencode([("service", server.service), *(("scope", scope) for scope in scopes)])
        url = f"{server.realm}{'&' if '?' in server.realm else '?'}{query}"
        return self._transport.ask(
            "GET", url, {"Authorization": _basic(self.credentials)} if self.credentials.user else {}
        )

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
