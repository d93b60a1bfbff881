"""Is this the password? argon2id, off the event loop, and the same work whether the user exists or not."""

from __future__ import annotations

from functools import partial

import anyio
from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError

# OWASP's parameters: 19 MiB and two passes. With two at a time a container of 256 MiB has room to spare.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
AT_ONCE = 2


class Passwords:
    """Hashes and checks passwords, ``AT_ONCE`` at a time: each costs a core some milliseconds and much memory."""

    def __init__(self) -> None:
        self._places = anyio.CapacityLimiter(AT_ONCE)
        # What the password of an unknown user is compared with; no password has this hash.
        self._nobody = _hasher.hash("nobody")

    async def hash(self, password: str) -> str:
        """The hash to keep of ``password``."""
        return await to_thread.run_sync(partial(_hasher.hash, password), limiter=self._places)

    async def matches(self, kept: str | None, password: str) -> bool:
        """Whether ``password`` has the hash ``kept``. None (no such user) takes as long, and is never true."""
        same = await to_thread.run_sync(partial(_verify, kept or self._nobody, password), limiter=self._places)
        return same and kept is not None

    def outdated(self, kept: str) -> bool:
        """Whether ``kept`` was made with other parameters than today's, so that it should be made anew."""
        return _hasher.check_needs_rehash(kept)


def _verify(kept: str, password: str) -> bool:
    try:
        return _hasher.verify(kept, password)
    except (VerifyMismatchError, InvalidHashError):
        return False
