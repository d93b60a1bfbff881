"""How is Redis asked, so that one that fails holds nobody up, and is asked again when it is back?"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from doit_images.core.base import commands

_SOCKET_SECONDS = 2.0
_PAUSES = (0.2, 1.0, 2.0)  # before each further try: a Redis may stall, or be started again
_REST_SECONDS, _LONGEST_REST = 15.0, 240.0  # how long it is left alone the first time, and at most
_SENTINEL_PORT = 26379


class RedisClient:
    """The Redis at ``url``; "" is none. ``say`` tells people what goes wrong, once. Nothing raises for a Redis that
    fails: it is left alone for a while."""

    def __init__(self, url: str, say: Callable[[str], None]) -> None:
        self._url = url
        self._say = say
        self._refused = not url  # it would say the same again
        self._rests_until = 0.0
        self._failed = 0  # times in a row
        self._said = False
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether there is a Redis, and it answers as far as was tried."""
        return not self._refused and time.monotonic() >= self._rests_until

    def do(self, ask: Callable[[Any], Any]) -> Any:
        """The answer of Redis to ``ask``, which may be called again and gets a client; None when there is none."""
        if not self.on:
            return None
        import redis

        for pause in (*(() if self._failed else _PAUSES), None):  # one that was away is only looked for
            try:
                answer = ask(self._connected())
                self._failed = 0
                return answer
            except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
                again = not isinstance(error, redis.AuthenticationError) and pause is not None
                if not again or commands.stopping():
                    self._rest(error)
                    break
                time.sleep(pause or 0)
            except (redis.RedisError, ValueError) as error:
                self._rest(error)
                break
        return None

    def _rest(self, error: Exception) -> None:
        import redis

        lasting = isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError | ValueError)
        with self._lock:
            first, self._said = not self._said, True
            self._refused = self._refused or lasting
            self._rests_until = time.monotonic() + min(_REST_SECONDS * 2**self._failed, _LONGEST_REST)
            self._failed += 1
        if first:
            # The error's own text may hold the URL, and so the password.
            self._say(f"Redis is left out ({_kind(error)}): another machine may do the same work")

    def _connected(self) -> object:
        with self._lock:
            if self._client is None:
                self._client = client_of(self._url)
            return self._client


def client_of(url: str) -> Any:
    """A client for a URL: ``redis://``, ``rediss://``, ``unix://``; ``redis+cluster://HOST:PORT`` for one node of a
    cluster, ``redis+sentinel://:PASSWORD@HOST:PORT,HOST:PORT/SERVICE/NUMBER`` for what Sentinel watches over. The
    password is the data's; ``ValueError`` for what is none of these."""
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    options: dict[str, Any] = {
        "decode_responses": True,
        "socket_connect_timeout": _SOCKET_SECONDS,
        "socket_timeout": _SOCKET_SECONDS,
    }
    scheme, _, rest = url.partition("://")
    plain, _, kind = scheme.partition("+")
    if kind == "cluster":
        return redis.RedisCluster.from_url(f"{plain}://{rest}", **options)
    options["retry"] = Retry(NoBackoff(), 0)  # ``Store`` tries again
    if kind != "sentinel":
        return redis.Redis.from_url(url, **options)
    parts = urlsplit(f"{plain}://{rest}")
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    service, _, number = parts.path.strip("/").partition("/")
    nodes = [re.fullmatch(r"\[?([^\]]+?)\]?(?::(\d+))?", host) for host in hosts.split(",")]
    if not service or not all(nodes) or not (number or "0").isdecimal():
        raise ValueError("redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/NUMBER")
    data = {"username": unquote(user) or None, "password": unquote(password) or None, "ssl": plain == "rediss"}
    addresses = [(node[1], int(node[2] or _SENTINEL_PORT)) for node in nodes if node]
    watchers: Any = redis.Sentinel  # its own types are incomplete
    told = watchers(addresses, sentinel_kwargs=options | {"ssl": data["ssl"]}, **options)
    return told.master_for(service, db=int(number or 0), **data)


def _kind(error: Exception) -> str:
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "it refuses the password in REDIS_URL"
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return "it does not answer in time"
    if isinstance(error, redis.ConnectionError | OSError):
        return "no connection"
    return "REDIS_URL is not understood" if isinstance(error, ValueError) else "it refuses the command"
