"""What is the model told? Pure: what is remembered, what was said, what is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from orchestrator.tasks import Context

NEAR_ENOUGH = 0.2
"""Memories less similar to the prompt than this have, with the embedding of ``memory``, nothing to do with it."""


class Message(TypedDict):
    """A message of the chat API."""

    role: Literal["system", "user", "assistant"]
    content: str


def relevant(found: Sequence[Context]) -> list[Context]:
    """Those of ``found`` that are worth the model's attention."""
    return [one for one in found if one.score >= NEAR_ENOUGH]


def conversation(context: Sequence[Context], said: Sequence[Message], prompt: str) -> list[Message]:
    """The messages for the model: the memories, most relevant first, then the session, then ``prompt``."""
    messages: list[Message] = []
    if context:
        remembered = "\n".join(f"- {one.text}" for one in context)
        messages.append(
            {"role": "system", "content": f"What you remember of this user, most relevant first:\n{remembered}"}
        )
    return [*messages, *said, {"role": "user", "content": prompt}]


def remembrance(prompt: str, answer: str, longest: int) -> str:
    """What to remember of a task, in at most ``longest`` characters."""
    return f"Asked: {prompt}\nAnswered: {answer}"[:longest]
