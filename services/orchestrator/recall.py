"""What does a chat of OpenAI's interface know of before, and leave behind? Nothing, unless it is asked for.

A session and memories are asked for one by one, by a header or in ``metadata``, which any client can send.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from common.identity import Identities, Identity
from common.texts import Name
from orchestrator.conversation import known, text_of
from orchestrator.memory import LONGEST_TEXT, Memory
from orchestrator.places import Owner

type Switch = Literal["on", "off"]
type Messages = Sequence[dict[str, Any]]


class Headers(BaseModel):
    """What a request asks for by its headers, which count before its ``metadata``."""

    x_swarm_session: Name | None = None
    x_swarm_memory: Switch | None = None


class Metadata(BaseModel):
    """What a request asks for in ``metadata``; the rest of that is the model's."""

    model_config = ConfigDict(extra="allow")

    swarm_session: Name | None = None
    swarm_memory: Switch | None = None


@dataclass(frozen=True)
class Recall:
    """What one chat of ``owner`` may know and keep, in about so many ``tokens``."""

    memory: Memory
    owner: Owner
    session: str | None
    memories: bool
    tokens: int

    @property
    def keeps(self) -> bool:
        """Whether anything will be kept."""
        return self.memories or self.session is not None

    async def before(self, messages: Messages) -> Messages:
        """``messages`` with what is known of before, behind those of the system. Raises a ``Problem`` when ``memory``
        does not tell."""
        context = await self.memory.search(self.owner, asked) if self.memories and (asked := _asked(messages)) else []
        said = await self.memory.said(self.owner, self.session) if self.session else []
        more = known(context, said, sum(len(text_of(one)) for one in messages), self.tokens)
        rules = list(takewhile(lambda one: one.get("role") in ("system", "developer"), messages))
        return [*rules, *map(dict, more), *messages[len(rules) :]]

    async def keep(self, messages: Messages, answer: str) -> bool:
        """Keep the last question of ``messages`` and its ``answer``. False when it could not be kept; a call of a tool
        has no text that could."""
        asked, answer = _asked(messages), answer.replace("\x00", "").strip()
        if not asked or not answer:
            return False
        about = {} if self.memories else None
        return await self.memory.remember(self.owner, asked, answer, session=self.session, about=about)


async def recall(
    memory: Memory, identities: Identities, tokens: int, user: Identity, headers: Headers, metadata: Metadata
) -> Recall:
    """What a chat of ``user`` may know, with the question in so many ``tokens``, and keep. Raises 403 when it asks for
    more than its credential is good for."""
    session = headers.x_swarm_session or metadata.swarm_session
    memories = (headers.x_swarm_memory or metadata.swarm_memory) == "on"
    token = ""
    if session or memories:
        user.claims.need("memory:read")
        user.claims.need("memory:write")
        token = await identities.exchange(user.headers, "memory")
    return Recall(memory, Owner(user.user_id, user.username, token), session, memories, tokens)


def _asked(messages: Messages) -> str:
    """What the user said last, as far as ``memory`` takes it."""
    texts = (text_of(one) for one in reversed(messages) if one.get("role") == "user")
    return next(texts, "").replace("\x00", "").strip()[:LONGEST_TEXT]
