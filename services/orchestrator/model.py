"""What does the model answer? An OpenAI-compatible endpoint; or several with the same model, for other conversations.

Until the answer to a task begins, a connection that fails, a 429 or a 5xx is tried again, with growing pauses; all else
is tried once at each address. After that nothing is: the reader has seen the beginning.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any

import httpx
from httpx_sse import EventSource, SSEError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from common.problems import Problem
from orchestrator.conversation import Message
from orchestrator.spending import Count

log = logging.getLogger("model")

_TOLD = (400, 404, 413, 422, 429)
"""What a model may refuse for a reason that lies with who asked."""

ASKS_FOR_USAGE = {"stream_options": {"include_usage": True}}
BROKEN_OFF = "The model broke off in the middle of its answer."
ATTEMPTS = 4
AWAY_SECONDS = 10
"""An address that failed is asked after the others for this long."""
CONNECT_SECONDS = 3


class _Refused(Exception):
    """The model's server answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Model:
    """The model behind some addresses, with blanks between them."""

    def __init__(self, urls: str, api_key: str, timeout_seconds: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),  # places are given elsewhere
        )
        self._away = dict.fromkeys(urls.split(), 0.0)
        hosts = [httpx.URL(url) for url in self._away]
        # Without what may stand before an @.
        self._places = ", ".join(f"{one.scheme}://{one.netloc.decode()}" for one in hosts)
        self._hidden = [*(one.host for one in hosts), *([api_key] if api_key else [])]

    @asynccontextmanager
    async def passed_on(self, path: str, body: dict[str, Any], attempts: int = 0) -> AsyncIterator[httpx.Response]:
        """What the model answers to ``body`` at ``path``, not read yet; asked ``attempts`` times at most, 0: once at
        each address. Raises a ``Problem``, which never shows where the model is, when nobody answers, it refuses, or
        the answer ends before it is whole."""
        response = None
        try:
            response = await AsyncRetrying(
                stop=stop_after_attempt(attempts or len(self._away)),
                wait=wait_random_exponential(multiplier=0.25, max=4),
                retry=retry_if_exception(_worth_another_try),
                reraise=True,
            )(self._sent, path, body)
            yield response
        except httpx.TimeoutException as error:
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The model did not answer in time.") from error
        except httpx.RequestError as error:
            log.warning("no model answers at %s; start one there, or set MODEL_URL to where one is", self._places)
            nobody = "No model answers; the log of the orchestrator says where it was looked for."
            raise Problem(HTTPStatus.BAD_GATEWAY, BROKEN_OFF if response else nobody) from error
        except _Refused as error:
            status = HTTPStatus(error.status) if error.status in _TOLD else HTTPStatus.BAD_GATEWAY
            reason = "" if any(one in error.reason for one in self._hidden) else error.reason
            raise Problem(status, f"The model refused with {error.status}{reason}.") from error
        finally:
            if response:
                await response.aclose()

    async def _sent(self, path: str, body: dict[str, Any]) -> httpx.Response:
        """What the address answers that has the conversation from its beginning, and so its prefix in a cache; if all
        failed lately, the one that failed first. Raises ``_Refused``, and what ``httpx`` does."""
        now, opening = time.monotonic(), _opening(body)
        rank = {one: hashlib.sha256(f"{one} {opening}".encode(errors="replace")).digest() for one in self._away}
        url = min(rank, key=lambda one: (max(self._away[one] - now, 0), rank[one]))
        try:
            request = self.http.build_request("POST", f"{url}/{path}", json=body)
            response = await self.http.send(request, stream=True)
            if not response.is_success:
                reason = await _reason(response)
                await response.aclose()
                raise _Refused(response.status_code, reason)
        except (_Refused, httpx.TransportError) as error:
            self._away[url] = time.monotonic() + AWAY_SECONDS * _worth_another_try(error)
            raise
        return response

    async def answer(self, model: str, messages: Sequence[Message], most: int, count: Count) -> AsyncGenerator[str]:
        """The answer of ``model``, no longer than ``most``, piece by piece; ``count`` has its tokens. Raises as
        ``passed_on``."""
        body = {"model": model, "messages": messages, "max_tokens": most, "stream": True, **ASKS_FOR_USAGE}
        async with self.passed_on("chat/completions", body, ATTEMPTS) as response:
            try:
                async for event in EventSource(response).aiter_sse():
                    if event.data == "[DONE]":
                        return
                    chunk = json.loads(event.data)
                    if not count.told(chunk.get("usage")):
                        count.written += 1
                    if piece := _piece(chunk):
                        yield piece
            except (SSEError, ValueError, LookupError, TypeError, AttributeError) as error:
                sentence = "What answers in the model's place does not speak the chat API."
                raise Problem(HTTPStatus.BAD_GATEWAY, sentence) from error
            raise Problem(HTTPStatus.BAD_GATEWAY, BROKEN_OFF)


class Models:
    """The models that may be asked for, each behind its addresses."""

    def __init__(self, endpoints: Mapping[str, tuple[str, str]], timeout_seconds: float) -> None:
        """``endpoints``: the addresses and the key of each, by name."""
        behind = {one: Model(*one, timeout_seconds) for one in set(endpoints.values())}
        self._models = {name: behind[one] for name, one in endpoints.items()}
        self.clients = [one.http for one in behind.values()]

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __getitem__(self, name: str) -> Model:
        """Raises a ``Problem`` when there is none of that name, any more."""
        if name not in self._models:
            raise Problem(HTTPStatus.BAD_GATEWAY, "There is no such model here any more.")
        return self._models[name]


def _opening(body: Mapping[str, Any]) -> Any:
    """What a conversation begins with, and still does when it goes on: its first question."""
    asked = body.get("messages") or body.get("input") or body.get("prompt")
    dicts = [one for one in asked if isinstance(one, dict)] if isinstance(asked, list) else []
    return next((one.get("content") for one in dicts if one.get("role") == "user"), asked)


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, _Refused):
        return error.status >= 500 or error.status == HTTPStatus.TOO_MANY_REQUESTS
    # Not a read that timed out: the model is at work, and would be twice.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ReadTimeout)


def _piece(chunk: Any) -> str:
    """The text in one chunk of the stream; empty in the first and the last one."""
    if error := chunk.get("error"):
        raise _Refused(int(error.get("code") or 500), f": {str(error.get('message', ''))[:200]}")
    choices = chunk.get("choices")
    text = choices[0]["delta"].get("content") if choices else None
    return text if isinstance(text, str) else ""


async def _reason(response: httpx.Response) -> str:
    """What the server says of its refusal, as far as it says it the way the API asks for."""
    try:
        error = json.loads(await response.aread())["error"]
        message = error["message"] if isinstance(error, dict) else error
    except (ValueError, LookupError, TypeError, httpx.HTTPError):
        return ""
    return f": {str(message)[:200].rstrip('.')}"
