"""How much may a user's models read and write in a day?

Counted as the model's server counts, where it tells; else from the length of the text. Who has used up a day's tokens
gets no more until the next (UTC); what was begun before is ended, and of several processes each looks at what the
others have counted now and then. A process that is killed forgets what it counted in its last second.
"""

from __future__ import annotations

import json
import time
import uuid
from collections import Counter
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Any

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert as upsert

from common import metrics
from common.postgres import Database
from common.problems import Problem
from orchestrator.conversation import CHARACTERS_OF_A_TOKEN
from orchestrator.tables import Spent

KEPT_DAYS = 31
LOOK_SECONDS = 5
MOST_KNOWN = 10_000


class Spending:
    """The tokens of all users. ``limit``: of one user and day; 0: as many as they like."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._counted: Counter[uuid.UUID] = Counter()
        self._known: dict[uuid.UUID, tuple[float, int]] = {}

    async def check(self, user_id: uuid.UUID) -> None:
        """Raise 429 when the user has used up the day's tokens."""
        if self._limit and await self._known_of(user_id) + self._counted[user_id] >= self._limit:
            now = datetime.now(UTC)
            midnight = now.replace(hour=0, minute=0, second=0, microsecond=0) + timedelta(days=1)
            raise Problem(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"You have used up your {self._limit} tokens of this day (UTC).",
                headers={"Retry-After": str(int((midnight - now).total_seconds()) + 1)},
            )

    async def _known_of(self, user_id: uuid.UUID) -> int:
        since, tokens = self._known.get(user_id, (float("-inf"), 0))
        if time.monotonic() - since < LOOK_SECONDS:
            return tokens
        today = select(Spent.tokens).where(Spent.user_id == user_id, Spent.day == datetime.now(UTC).date())
        async with self._database.connect() as connection:
            tokens = (await connection.execute(today)).scalar_one_or_none() or 0
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[user_id] = (time.monotonic(), tokens)
        return tokens

    def add(self, user_id: uuid.UUID, model: str, tokens: int) -> None:
        """Count ``tokens`` of ``model`` for this day; ``flush`` keeps them."""
        metrics.TOKENS.labels(model).inc(tokens)
        self._counted[user_id] += tokens

    async def flush(self) -> None:
        """Keep what was counted. Raises ``Unavailable``; nothing is forgotten then."""
        counted = {user_id: tokens for user_id, tokens in self._counted.items() if tokens}
        if not counted:
            self._counted.clear()
            return
        day = datetime.now(UTC).date()
        # In one order, so that two processes do not wait for each other.
        rows = [{"user_id": user_id, "day": day, "tokens": counted[user_id]} for user_id in sorted(counted)]
        statement = upsert(Spent).values(rows)
        more = {"tokens": Spent.tokens + statement.excluded.tokens}
        async with self._database.connect() as connection:
            await connection.execute(statement.on_conflict_do_update(index_elements=["user_id", "day"], set_=more))
        self._counted.subtract(counted)
        for user_id in counted:
            self._known.pop(user_id, None)

    async def forget_old(self) -> None:
        """Forget the days before the last ``KEPT_DAYS``, and users who are deleted."""
        last = datetime.now(UTC).date() - timedelta(days=KEPT_DAYS)
        async with self._database.connect() as connection:
            await connection.execute(delete(Spent).where(Spent.day < last))
            gone = "DELETE FROM orchestrator.spent WHERE user_id IN (SELECT id FROM auth.deleted_users)"
            await connection.execute(text(gone))


def estimated(*texts: str) -> int:
    """About how many tokens these texts have."""
    return sum(-(-len(text) // CHARACTERS_OF_A_TOKEN) for text in texts)


def told(usage: Any) -> int | None:
    """How many tokens a server says that it has used, if it says so."""
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else None


def content_of(answer: Any, within: str) -> str:
    """The text of an answer of the chat API, where it is: in its "message", or in the "delta" of an event."""
    try:
        choice = answer["choices"][0]
        content = "" if choice.get("index") else choice[within].get("content")
    except (LookupError, TypeError, AttributeError):
        return ""
    return content if isinstance(content, str) else ""


class StreamCount:
    """Counts the tokens of an answer while its bytes pass: an event has about one, unless the server says how many.
    If it ``hears``, it has the text as well."""

    def __init__(self, asked: int, *, hears: bool = False) -> None:
        """The question had ``asked`` tokens."""
        self._asked = asked
        self._hears = hears
        self.heard = ""
        self._events = 0
        self._told: int | None = None
        self._line = b""

    def pass_by(self, data: bytes) -> bool:
        """See some bytes: whether the answer is whole with them, and was heard."""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data: {"):
                self._events += 1
                if self._hears or b'"usage"' in line:
                    try:
                        event = json.loads(line[6:])
                    except ValueError:
                        self._hears = False
                        continue
                    self._hears &= "error" not in event
                    self.heard += content_of(event, "delta")
                    used = told(event.get("usage"))
                    self._told = used if used is not None else self._told
        return self._hears and any(line.startswith(b"data: [DONE]") for line in lines)

    @property
    def tokens(self) -> int:
        """As far as is known by now."""
        return self._told if self._told is not None else self._asked + self._events
