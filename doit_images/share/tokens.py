"""For which repositories is a token good, and for how long?

One is asked for as many repositories at a time as will be needed soon (several ``scope`` in one request, as the
specification of tokens has it), and kept for as long as the server says that it is good. Servers and headers take no
more than so much: what was too much is asked for in smaller parts from then on.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

from doit_images.share.no_answer import Unavailable
from doit_images.share.transport import Answer, in_turn, parsed

_MOST = 500  # repositories that a token is asked for at first: their names are some 25 kB
_FEWER = 4  # times fewer, each time that these were too many
_LONGEST = 7000  # bytes of a token: many servers take no header of more than 8 kB
_SHORTEST_SECONDS = 60.0  # that a token is good, where the server does not say, and at least
_OF_THAT = 0.9  # is counted on
_now = time.monotonic


class TokenServer(NamedTuple):
    """Where tokens come from, and for which service."""

    realm: str
    service: str


class _Token(NamedTuple):
    """The headers with it, what it was asked for, and until when it is good; without headers where there is none."""

    headers: Mapping[str, str]
    scope: str
    until: float


class Tokens:
    """The tokens of one registry. ``ask`` gives the server's answer to a request for these scopes; ``soon`` are the
    repositories that will be asked about."""

    def __init__(self, ask: Callable[[TokenServer, Sequence[str]], Answer], soon: Collection[str]) -> None:
        self._ask, self._soon = ask, soon
        self._server: TokenServer | None = None
        self._kept: dict[str, _Token] = {}
        self._most = _MOST
        self._turn = threading.Lock()

    def headers(self, repository: str) -> Mapping[str, str]:
        """The headers for a request about a repository; none where no token was ever asked for. ``Unavailable``."""
        if self._server is None:
            return {}
        if not self._good(repository):
            with in_turn(self._turn):
                if not self._good(repository):
                    self._fetch(self._server, repository, _pull(repository))
        return self._kept[repository].headers

    def renewed(self, server: TokenServer, repository: str, scope: str, used: Mapping[str, str]) -> Mapping[str, str]:
        """Headers for a repository, where those that were ``used`` did not do and this scope is asked for. Raises
        ``Unavailable``."""
        scope = scope or _pull(repository)
        with in_turn(self._turn):
            kept = self._kept.get(repository)
            if kept and kept.headers == used and kept.scope == scope:  # what else it is good for is not known either
                self._kept = {name: token for name, token in self._kept.items() if token.headers != used}
            # Another thread may have asked meanwhile.
            if not self._good(repository) or self._kept[repository].scope != scope:
                self._server = server
                self._fetch(server, repository, scope)
            return self._kept[repository].headers

    def _good(self, repository: str) -> bool:
        return repository in self._kept and _now() < self._kept[repository].until

    def _fetch(self, server: TokenServer, repository: str, scope: str) -> None:
        """Keep a token for this repository, and for others that will need one if it is but to be read."""
        scopes = {repository: scope}
        if scope == _pull(repository):
            scopes |= {other: _pull(other) for other in self._soon if not self._good(other)}
        while True:
            scopes = dict([*scopes.items()][: self._most])
            if token := self._answered(server, scopes):
                self._kept |= {name: token._replace(scope=scope) for name, scope in scopes.items()}
                return
            self._most = max(1, len(scopes) // _FEWER)

    def _answered(self, server: TokenServer, scopes: Mapping[str, str]) -> _Token | None:
        """The token for these; None where that is to be tried with fewer. ``Unavailable`` if there are no fewer."""
        several, scope = len(scopes) > 1, next(iter(scopes.values()))
        try:
            answer = self._ask(server, [each for each in scopes.values() if each])
        except Unavailable:
            if several:
                return None
            raise
        if answer.status >= 400 and several:
            return None
        if answer.status >= 500 or answer.status == 429:
            raise Unavailable(f"has a token server that answers with status {answer.status}")
        if answer.status >= 400:  # the registry is asked without one: then it is known who is refused, and what
            return _Token({}, scope, _now() + _SHORTEST_SECONDS)
        token, seconds = _given(answer)
        if len(token) > _LONGEST and several:
            return None
        return _Token({"Authorization": f"Bearer {token}"}, scope, _now() + _OF_THAT * seconds)


def _given(answer: Answer) -> tuple[str, float]:
    """The token in an answer, and for how many seconds it is good. ``Unavailable`` where there is none."""
    try:
        given = parsed(answer.body)
        token, seconds = given.get("token") or given.get("access_token"), given.get("expires_in")
    except (ValueError, AttributeError):
        token = seconds = None
    if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise Unavailable("has a token server that returned no token")
    told = seconds if isinstance(seconds, int | float) and not isinstance(seconds, bool) else 0
    return token, float(min(max(told, _SHORTEST_SECONDS), 1e6))


def _pull(repository: str) -> str:
    """What a token that is good for reading a repository is asked for; "" for no repository."""
    return f"repository:{repository}:pull" if repository else ""
