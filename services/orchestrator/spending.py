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
from datetime import UTC, date, datetime, timedelta
from typing import Any

from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert

from common import metrics
from common.postgres import Database
from common.problems import TooMany
from orchestrator.conversation import CHARACTERS_OF_A_TOKEN
from orchestrator.tables import Spent

KEPT_DAYS = 31
LOOK_SECONDS = 5
MOST_KNOWN = 10_000


class Usage(BaseModel):
    """The tokens that a user's models have read and written in each of the last days (UTC), the last one first, and
    what is left of this one. Without a limit there is none of both."""

    days: dict[date, int]
    limit: int | None
    left: int | None


class Spending:
    """The tokens of all users. ``limit``: of one user and day; 0: as many as they like."""

    def __init__(self, database: Database, limit: int) -> None:
        self._database = database
        self._limit = limit
        self._counted: Counter[uuid.UUID] = Counter()
        self._known: dict[tuple[uuid.UUID, date], tuple[float, int]] = {}

    async def check(self, user_id: uuid.UUID) -> None:
        """Raise 429 when the user has used up the day's tokens."""
        if self._limit and await self._known_of(user_id) + self._counted[user_id] >= self._limit:
            sentence = f"You have used up your {self._limit} tokens of this day (UTC)."
            raise TooMany("tokens", sentence, _left_of_day(), self.headers(user_id))

    def headers(self, user_id: uuid.UUID) -> dict[str, str]:
        """What OpenAI's clients read of the day's tokens, as far as it is known without asking the database again."""
        known = self._known.get((user_id, datetime.now(UTC).date()))
        if not self._limit or known is None:
            return {}
        left = max(0, self._limit - known[1] - self._counted[user_id])
        told = {"limit": self._limit, "remaining": left, "reset": f"{_left_of_day()}s"}
        return {f"x-ratelimit-{name}-tokens": str(value) for name, value in told.items()}

    async def _known_of(self, user_id: uuid.UUID) -> int:
        day = datetime.now(UTC).date()
        since, tokens = self._known.get((user_id, day), (float("-inf"), 0))
        if time.monotonic() - since < LOOK_SECONDS:
            return tokens
        today = select(Spent.tokens).where(Spent.user_id == user_id, Spent.day == day)
        tokens = next((row.tokens for row in await self._database.rows(today)), 0)
        if len(self._known) >= MOST_KNOWN:
            self._known.clear()
        self._known[user_id, day] = (time.monotonic(), tokens)
        return tokens

    async def usage(self, user_id: uuid.UUID) -> Usage:
        """What ``user_id`` has spent, by what is kept and what is counted here and not yet kept."""
        today = datetime.now(UTC).date()
        since = today - timedelta(days=KEPT_DAYS)
        mine = select(Spent.day, Spent.tokens).where(Spent.user_id == user_id, Spent.day > since)
        kept = {row.day: row.tokens for row in await self._database.rows(mine.order_by(Spent.day.desc()))}
        tokens = kept.pop(today, 0) + self._counted[user_id]
        left = max(0, self._limit - tokens) if self._limit else None
        return Usage(days={today: tokens, **kept}, limit=self._limit or None, left=left)

    def add(self, user_id: uuid.UUID, model: str, count: Count) -> None:
        """Count the tokens of an answer of ``model`` for this day; ``flush`` keeps them."""
        for kind, tokens in (("read", count.read), ("written", count.written)):
            metrics.TOKENS.labels(model, kind).inc(tokens)
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
        await self._database.rows(statement.on_conflict_do_update(index_elements=["user_id", "day"], set_=more))
        self._counted.subtract(counted)
        for user_id, tokens in counted.items():
            if known := self._known.get((user_id, day)):
                self._known[user_id, day] = (float("-inf"), known[1] + tokens)

    async def forget_old(self) -> None:
        """Forget the days before the last ``KEPT_DAYS``, and users who are deleted."""
        last = datetime.now(UTC).date() - timedelta(days=KEPT_DAYS)
        await self._database.forget("orchestrator.spent", "day < :last", last=last)


def _left_of_day() -> int:
    return 86_400 - int(time.time()) % 86_400


def estimated(*texts: str) -> int:
    """About how many tokens these texts have."""
    return sum(-(-len(text) // CHARACTERS_OF_A_TOKEN) for text in texts)


def content_of(answer: Any, within: str) -> str:
    """The text of an answer of the chat API, where it is: in its "message", or in the "delta" of an event."""
    try:
        choice = answer["choices"][0]
        content = "" if choice.get("index") else choice[within].get("content")
    except (LookupError, TypeError, AttributeError):
        return ""
    return content if isinstance(content, str) else ""


class Count:
    """Counts the tokens of an answer while it passes: an event has about one, unless the server says how many. If it
    ``hears``, it has the text as well."""

    def __init__(self, read: int, *, hears: bool = False, shows: bool = True) -> None:
        """The question had about ``read`` tokens. What the server says of both is to be sent on if it ``shows``."""
        self.read = read
        self.written = 0
        self.heard = ""
        self.whole = False
        self._hears = hears
        self._shows = shows
        self._told = False
        self._line = b""

    def pass_by(self, data: bytes) -> bytes:
        """See some bytes. Returns what is to be sent on, in whole lines; the answer is ``whole`` when its end is among
        them, and it was heard."""
        *lines, self._line = (self._line + data).split(b"\n")
        return b"".join(line + b"\n" for line in lines if self._is_sent_on(line))

    def _is_sent_on(self, line: bytes) -> bool:
        self.whole |= self._hears and line.startswith(b"data: [DONE]")
        if not line.startswith(b"data: {"):
            return True
        self.written += not self._told
        if not self._hears and b'"usage"' not in line:
            return True
        try:
            event = json.loads(line[6:])
        except ValueError:
            self._hears = False
            return True
        self._hears &= "error" not in event
        self.heard += content_of(event, "delta")
        usage = event.get("usage") or (event.get("response") or {}).get("usage")
        return not self.told(usage) or self._shows or bool(event.get("choices"))

    def told(self, usage: Any) -> bool:
        """Take what a server says that it has used, if it says so."""
        if not isinstance(usage, dict):
            return False
        total, read = usage.get("total_tokens"), usage.get("prompt_tokens") or usage.get("input_tokens") or 0
        if type(total) is not int or type(read) is not int or not 0 <= read <= total:
            return False
        self.read, self.written, self._told = read, total - read, True
        return True
