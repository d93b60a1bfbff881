"""Who builds what?

With ``REDIS_URL`` machines that need the same image at the same time build it once: one holds a lease on its
fingerprint, which it renews while it lives and which runs out when it dies; the others wait and then pull. An index
in the same Redis says of each fingerprint what became of it, so that a forecast knows other machines' builds.
Without Redis, or when it fails, everything goes on: at most work is done twice. It is said once.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tasks.base.shapes import fits

_PREFIX = "vllm-swarm:"
LEASE_SECONDS = 15.0
"""How long a lease outlives a holder that does not renew it any more."""

_RENEWALS = 3  # in the time of one lease: two may be lost
_POLL_SECONDS = 0.5
_REMEMBERED_SECONDS = 90 * 86400  # how long the index knows an image that nobody builds again
_SOCKET_SECONDS = 2.0
_LONGEST_SECONDS = 1e7  # what says more is no build's time


@dataclass(frozen=True)
class Made:
    """What the index knows of a fingerprint: the digest in the shared registry ("" if it is not there), the seconds
    that the build took, and the image's bytes."""

    digest: str
    seconds: float
    size: int


class BuildCoordinator:
    """The machines that build together, as one of them sees it; ``url`` "" is nobody else.

    ``say`` tells people what goes wrong, once. No method raises for a Redis that fails.
    """

    def __init__(self, url: str, say: Callable[[str], None], lease_seconds: float = LEASE_SECONDS) -> None:
        self._url = url
        self._say = say
        self._seconds = lease_seconds
        self._off = not url
        self._client: Any = None
        self._lock = threading.Lock()

    @property
    def on(self) -> bool:
        """Whether there are others, and Redis has answered so far."""
        return not self._off

    @contextlib.contextmanager
    def acquire(self, what: str, waits: Callable[[str], None], stopping: Callable[[], bool]) -> Iterator[bool]:
        """Be the only one that builds ``what`` for the block; true if another had the turn first, so that its result
        may be there.

        ``waits`` is told who is waited for, ``stopping`` whether to give up.
        """
        key, token = f"{_PREFIX}lease:{what}", f"{socket.gethostname()}:{os.getpid()}:{os.urandom(16).hex()}"
        # Renewed by another thread; both know it by the same token.
        lease = self._do(lambda redis: redis.lock(key, self._seconds, blocking=False, thread_local=False))
        waited = False
        while not stopping():
            if self._do(lambda redis: lease.acquire(token=token)) or self._off:
                break
            waited = True
            holder = self._do(lambda redis: redis.get(key))
            if holder:
                waits(str(holder).partition(":")[0])
            time.sleep(_POLL_SECONDS)
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(lease, done), daemon=True)
        if not self._off:
            renewal.start()
        try:
            yield waited
        finally:
            done.set()
            if renewal.is_alive():
                renewal.join()
            self._do(lambda redis: lease.release())

    def lookup(self, fingerprints: Sequence[str]) -> dict[str, Made]:
        """What the index knows of these fingerprints, in one round trip."""
        if not fingerprints:
            return {}
        answers = self._do(lambda redis: redis.mget([f"{_PREFIX}made:{fingerprint}" for fingerprint in fingerprints]))
        made = {}
        for fingerprint, text in zip(fingerprints, answers or (), strict=False):
            with contextlib.suppress(ValueError, TypeError):
                known = Made(**json.loads(text))
                if fits(known, Made) and 0 <= known.seconds < _LONGEST_SECONDS and known.size >= 0:
                    made[fingerprint] = known
        return made

    def publish(self, made: Mapping[str, Made]) -> None:
        """Put what was made into the index, in one round trip."""

        def write(redis: Any) -> None:
            with redis.pipeline(transaction=False) as pipe:
                for fingerprint, result in made.items():
                    pipe.set(f"{_PREFIX}made:{fingerprint}", json.dumps(asdict(result)), ex=_REMEMBERED_SECONDS)
                pipe.execute()

        self._do(write)

    def _renew(self, lease: Any, done: threading.Event) -> None:
        while not done.wait(self._seconds / _RENEWALS):
            self._do(lambda redis: lease.reacquire())

    def _do(self, ask: Callable[[Any], Any]) -> Any:
        """The answer of Redis; None when it does not answer, and it is not asked again in this run."""
        if self._off:
            return None
        import redis

        try:
            return ask(self._connected())
        except redis.exceptions.LockError:  # the lease ran out, or was never held: it is not ours to renew or give back
            return None
        except (redis.RedisError, OSError, ValueError) as error:
            with self._lock:
                first, self._off = not self._off, True
            if first:
                # The error's own text may hold the URL, and so the password.
                self._say(f"Redis is left out ({_kind(error)}): another machine may do the same work")
            return None

    def _connected(self) -> Any:
        import redis

        with self._lock:
            if self._client is None:
                self._client = redis.Redis.from_url(
                    self._url,
                    decode_responses=True,
                    socket_connect_timeout=_SOCKET_SECONDS,
                    socket_timeout=_SOCKET_SECONDS,
                    retry=None,
                )
            return self._client


def _kind(error: Exception) -> str:
    import redis

    if isinstance(error, redis.AuthenticationError | redis.exceptions.NoPermissionError):
        return "it refuses the password in REDIS_URL"
    if isinstance(error, redis.TimeoutError | TimeoutError):
        return "it does not answer in time"
    if isinstance(error, redis.ConnectionError | OSError):
        return "no connection"
    return "REDIS_URL is not understood" if isinstance(error, ValueError) else "it refuses the command"
