"""Who builds what?

With ``REDIS_URL`` machines that need the same image at the same time build it once: one holds a lease on its
fingerprint. The holder renews it while it lives, and it expires when the holder dies. The others wait, no longer than
the build is expected to take, and then pull. A machine that may not push only watches. Each holder has its own name. A
machine that was suspended for longer than a lease lasts finds a higher number in its place, and does not push.

Leases are members of keys that never expire by themselves, so that a full Redis, which makes room by removing what
expires, takes none away; their numbers are remembered for a day. The scripts go by the clock of Redis. Without Redis,
or while it fails, everything goes on: at most work is done twice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from doit_images.core.base import commands
from doit_images.share.index import ResultIndex
from doit_images.share.redis_client import RedisClient

LEASE_SECONDS = 15.0
"""How long a lease outlives a holder that does not renew it any more."""

_RENEWALS = 3  # in the time of one lease: two may be lost
_POLL_SECONDS = 0.5
_SLACK_SECONDS, _UNKNOWN_SECONDS = 60.0, 900.0
_FACTOR = 2.0  # how much longer than expected a build may take before it is done here as well

_KEYS = [f"{{doit-images}}:{name}" for name in ("leases", "holders", "numbers")]
# In braces: all keys of a script are on one node of a cluster.
_MEMORY = 86400 * 1_000_000  # the microseconds for which the number of a lease is remembered
_NOW = """local time = redis.call('TIME'); local micro = time[1] * 1000000 + time[2]
local now = math.floor(micro / 1000)
local holder = redis.call('HGET', KEYS[2], ARGV[1])
local last = tonumber(redis.call('ZSCORE', KEYS[3], ARGV[1]))
"""
# ARGV of both: what, holder, milliseconds. Answers with the number of the lease, or who else holds it.
_TAKE = f"""{_NOW}
for _, what in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
    redis.call('ZREM', KEYS[1], what); redis.call('HDEL', KEYS[2], what)
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', micro - {_MEMORY})
local until_ = redis.call('ZSCORE', KEYS[1], ARGV[1])
if holder and holder ~= ARGV[2] and until_ and tonumber(until_) > now then return holder end
local number = math.max(micro, (last or 0) + 1)
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('ZADD', KEYS[3], number, ARGV[1])
return number
"""
# And its number. 0 milliseconds give it back. Answers 0 if it is another's, or was since, or that is forgotten. A Redis
# that lost everything learns of it anew.
_KEEP = f"""{_NOW}
local number = tonumber(ARGV[4])
if (holder and holder ~= ARGV[2]) or (last and last > number) then return 0 end
if not holder and number < micro - {_MEMORY} then return 0 end
if ARGV[3] == '0' then
    redis.call('ZREM', KEYS[1], ARGV[1]); redis.call('HDEL', KEYS[2], ARGV[1])
else
    redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
    redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
end
redis.call('ZADD', KEYS[3], number, ARGV[1])
return 1
"""


@dataclass
class Lease:
    """A lease on ``what`` as its holder has it, with a ``number`` that is higher than that of each lease on it before;
    ``lost`` once a later one was seen."""

    what: str
    holder: str
    number: int
    lost: bool = False


class BuildCoordinator:
    """The machines that build together, as one of them sees it; ``url`` "" is nobody else.

    ``say`` tells people what goes wrong, once. No method raises for a Redis that fails.
    """

    def __init__(self, url: str, say: Callable[[str], None], lease_seconds: float = LEASE_SECONDS) -> None:
        self._store = RedisClient(url, say)
        self._say = say
        self._seconds = lease_seconds
        self._held: dict[str, Lease] = {}
        self._watched: dict[str, float] = {}  # until when a lease is watched, at most
        self._blind = False  # whether this account may see no leases
        self.index = ResultIndex(self._store)
        """What is known of results."""

    @property
    def on(self) -> bool:
        """Whether there are others, and Redis has answered so far."""
        return self._store.on

    @contextlib.contextmanager
    def acquire(self, what: str, waits: Callable[[str], None], expected: float | None = None) -> Iterator[bool]:
        """Be the only machine that builds ``what``, for the block. Gives true if another held the lease before, so that
        its result may be there.

        ``waits`` is called with the holder's name before the wait; if it raises, there is no wait. A stopped run gives
        up. ``expected`` are the seconds that the work takes: a holder that takes much longer is not waited for.
        """
        lease, waited = self._taken(what, waits, patience(expected))
        done = threading.Event()
        renewal = threading.Thread(target=self._renew, args=(lease, done), daemon=True) if lease else None
        if lease and renewal:
            self._held[what] = lease
            renewal.start()
        try:
            yield waited
        finally:
            done.set()
            if lease and renewal:
                renewal.join()
                self._held.pop(what, None)
                self._keep(lease, 0.0)

    def watch(self, what: str, waits: Callable[[str], None], expected: float | None = None) -> bool:
        """Wait while another machine builds ``what``, as one whose result no other takes: nothing is written. True once
        that one has the lease no more, so that its result may be there, or yet another builds; false where nobody
        does, or is not waited for any more. ``waits`` and ``expected`` are those of ``acquire``."""
        until = self._watched.setdefault(what, time.monotonic() + patience(expected))
        first = last = self._seen(what)
        changed = time.monotonic()
        while first and last and last[0] == first[0]:
            who = _machine(first[0])
            # Who has not renewed it for as long as it lasts is dead. No other clock is asked.
            if commands.stopping() or time.monotonic() > changed + self._seconds or self._too_long(who, until):
                return False
            waits(who)
            time.sleep(_POLL_SECONDS)
            if (seen := self._seen(what)) != last:
                last, changed = seen, time.monotonic()
        return first is not None

    def holds(self, what: str) -> bool:
        """Whether this process took a lease on ``what``."""
        return what in self._held

    def lost(self, what: str) -> bool:
        """Whether this process took a lease on ``what``, and another had it since: then its result is not to be
        pushed. Asks Redis; one that does not answer took nothing away."""
        lease = self._held.get(what)
        if lease:
            self._keep(lease, self._seconds)
        return lease is not None and lease.lost

    def _taken(self, what: str, waits: Callable[[str], None], most: float) -> tuple[Lease | None, bool]:
        """A lease, and whether it was waited for; None without Redis, when stopping, and when the wait was too long."""
        who = f"{socket.gethostname()}:{os.getpid()}:{os.urandom(16).hex()}"
        words = [len(_KEYS), *_KEYS, what, who, round(self._seconds * 1000)]
        waited, until = False, time.monotonic() + most
        while not commands.stopping():
            answer = self._store.do(lambda redis: redis.eval(_TAKE, *words))
            if answer is None:
                break
            if isinstance(answer, int):
                return Lease(what, who, answer), waited
            waited, holder = True, _machine(str(answer))
            if self._too_long(holder, until):
                break
            waits(holder)
            time.sleep(_POLL_SECONDS)
        return None, waited

    def _too_long(self, holder: str, until: float) -> bool:
        late = time.monotonic() > until
        if late:
            self._say(f"{holder} takes far longer than expected for an image that is needed: it is built here too")
        return late

    def _seen(self, what: str) -> tuple[str, float | None] | None:
        """Who holds a lease, and until when by the clock of Redis; None if it is free, or if Redis does not say."""
        if self._blind or not self.on:
            return None
        from redis.exceptions import NoPermissionError

        def look(redis: Any) -> tuple[str | None, float | None] | None:
            try:
                return redis.hget(_KEYS[1], what), redis.zscore(_KEYS[0], what)
            except NoPermissionError:  # of an account that may ask the index alone, which goes on
                self._blind = True
                return None

        holder, until = self._store.do(look) or (None, None)
        if self._blind:
            self._say("this machine's account of Redis may not see who builds what: it builds what another builds, too")
        return (holder, until) if holder else None

    def _keep(self, lease: Lease, seconds: float) -> None:
        words = [len(_KEYS), *_KEYS, lease.what, lease.holder, round(seconds * 1000), lease.number]
        if self._store.do(lambda redis: redis.eval(_KEEP, *words)) == 0:
            lease.lost = True

    def _renew(self, lease: Lease, done: threading.Event) -> None:
        while not lease.lost and not done.wait(self._seconds / _RENEWALS):
            self._keep(lease, self._seconds)


def _machine(holder: str) -> str:
    return holder.partition(":")[0]


def patience(expected: float | None) -> float:
    """The seconds for which another machine's build is waited for, if so many are expected.

    >>> patience(30), patience(None)
    (120.0, 900.0)
    """
    return _UNKNOWN_SECONDS if expected is None else _SLACK_SECONDS + _FACTOR * expected
