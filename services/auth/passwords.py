"""Is this the password, and is it a good one?

argon2id, off the event loop, and the same work whether the user exists or not. What is common or easily guessed is
refused: zxcvbn knows lists of passwords, names and words, and patterns.
"""

from __future__ import annotations

from functools import partial
from http import HTTPStatus

import anyio
from anyio import to_thread
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerifyMismatchError
from zxcvbn import zxcvbn

from common.problems import Problem

# OWASP's parameters: 19 MiB and two passes. With two at a time a container of 256 MiB has room to spare.
_hasher = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
AT_ONCE = 2

GOOD_ENOUGH = 3
"""Of zxcvbn's scores from 0 to 4: takes 10⁸ guesses at least."""
LOOKED_AT = 72
"""zxcvbn takes no longer password, and no longer one is weak but for its beginning."""


class Passwords:
    """Hashes and checks passwords, ``AT_ONCE`` at a time: each costs a core some milliseconds and much memory."""

    def __init__(self) -> None:
        self._places = anyio.CapacityLimiter(AT_ONCE)
        # What the password of an unknown user is compared with; no password has this hash.
        self._nobody = _hasher.hash("nobody")

    async def hash(self, password: str, username: str) -> str:
        """The hash to keep of a new ``password``. Raises 422 when it is weak."""
        looked_at = partial(zxcvbn, password[:LOOKED_AT], user_inputs=[username])
        if (await to_thread.run_sync(looked_at, limiter=self._places))["score"] < GOOD_ENOUGH:
            raise Problem(
                HTTPStatus.UNPROCESSABLE_ENTITY,
                "The password is too easily guessed: take a longer one, of several words that do not belong together.",
            )
        return await self.hash_again(password)

    async def hash_again(self, password: str) -> str:
        """The hash to keep of ``password``, which was good enough before."""
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
