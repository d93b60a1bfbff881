"""What does ``memory`` know? Asked in the user's name, with a token that is good there alone and for a short time.

Without a token (the credential is not good for memories) nothing is known, and nothing is kept.
"""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

import httpx

from common.calls import call
from common.problems import Problem, Unavailable, unauthorized
from orchestrator.conversation import Message
from orchestrator.places import Owner
from orchestrator.tasks import Context

log = logging.getLogger("memory")

type Labels = dict[str, str]

TOP_K, TOP_ANSWERED = 5, 2
ANSWERED = {"source": "task"}
"""What memories have in their metadata that are a question and its answer."""

LAST_MESSAGES = 20
LONGEST_TEXT = 16_000
"""What ``memory`` takes as one text."""


class Memory:
    """The memory service, as an orchestrator uses it."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def search(self, user: Owner, prompt: str) -> list[Context]:
        """The user's memories that have to do with ``prompt``: first what was kept on purpose, nearest first, then some
        of what was asked and answered before, which else would bury it: a question is nearest to itself."""
        if not user.token:
            return []
        found: list[Context] = []
        for top_k, which in ((TOP_K, "without"), (TOP_ANSWERED, "metadata")):
            wanted = {"query": prompt, "top_k": top_k, "relevant": True, which: ANSWERED}
            answer = await self._call(user, "POST", "/search", wanted, repeatable=True)
            found += [Context(memory_id=one["id"], text=one["text"], score=one["score"]) for one in answer["results"]]
        return found

    async def said(self, user: Owner, session: str) -> list[Message]:
        """The last messages of the user's ``session``, oldest first."""
        if not user.token:
            return []
        path = f"/sessions/{session}/messages?last={LAST_MESSAGES}"
        messages: list[Message] = (await self._call(user, "GET", path, repeatable=True))["messages"]
        return messages

    async def remember(
        self, user: Owner, asked: str, answer: str, *, session: str | None, about: Labels | None
    ) -> bool:
        """Keep what was asked and answered: in the ``session``, if there is one, and with what is said ``about`` it, if
        that is not none, to be searched by meaning.

        The answer is there already and goes to the user in any case: a failure is logged, and told by False.
        """
        if not user.token:
            return False
        try:
            if session is not None:
                said: list[Message] = [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": answer[:LONGEST_TEXT]},
                ]
                await self._call(user, "POST", f"/sessions/{session}/messages", {"messages": said})
            if about is not None:
                text = f"Asked: {asked}\nAnswered: {answer}"[:LONGEST_TEXT]
                await self._call(user, "POST", "/memories", {"text": text, "metadata": {**ANSWERED, **about}})
        except Problem as problem:
            log.warning("an answer was not remembered: %s", problem.detail)
            return False
        return True

    async def _call(self, user: Owner, method: str, path: str, json: object = None, *, repeatable: bool = False) -> Any:
        headers = {"Authorization": f"Bearer {user.token}"}
        answer = await call(
            "The memory service", self._http, method, path, headers=headers, json=json, repeatable=repeatable
        )
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise unauthorized(answer.json()["detail"])
        if not answer.is_success:
            raise Unavailable("The memory service", f"answered with {answer.status_code}")
        return answer.json()
