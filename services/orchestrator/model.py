"""What does the model answer? An OpenAI-compatible endpoint, always asked to stream.

Until the answer begins, a connection that fails, a 429 or a 5xx is tried again, with growing pauses. After that
nothing is: the reader has seen the beginning.
"""

from __future__ import annotations

import json
import logging
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
CONNECT_SECONDS = 3


class _Refused(Exception):
    """The model's server answered with an error."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason


class Model:
    """The model behind one address."""

    def __init__(self, url: str, api_key: str, timeout_seconds: float) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self.http = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(timeout_seconds, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),  # places are given elsewhere
        )
        self._url = url
        self._api_key = api_key
        # Without what may stand before an @.
        self._place = f"{httpx.URL(url).scheme}://{httpx.URL(url).netloc.decode()}"

    @asynccontextmanager
    async def passed_on(self, path: str, body: dict[str, Any]) -> AsyncIterator[httpx.Response]:
        """What the model answers to ``body`` at ``path``, not read yet. Raises a ``Problem`` when nobody answers."""
        request = self.http.build_request("POST", f"{self._url}/{path}", json=body)
        try:
            response = await self.http.send(request, stream=True)
        except httpx.TimeoutException as error:
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The model did not answer in time.") from error
        except httpx.TransportError as error:
            log.warning("no model answers at %s", self._place)
            raise Problem(HTTPStatus.BAD_GATEWAY, "No model answers.") from error
        try:
            yield response
        finally:
            await response.aclose()

    async def as_json(self, response: httpx.Response) -> Any:
        """What was answered, whole. Raises a ``Problem``, which never shows where the model is, when it is an error."""
        if not response.is_success:
            status = HTTPStatus(response.status_code) if response.status_code in _TOLD else HTTPStatus.BAD_GATEWAY
            raise Problem(
                status, f"The model refused with {response.status_code}{self._shown(await _reason(response))}."
            )
        try:
            return json.loads(await response.aread())
        except (ValueError, httpx.HTTPError) as error:
            raise Problem(HTTPStatus.BAD_GATEWAY, "What the model answered is not complete.") from error

    def _shown(self, reason: str) -> str:
        """``reason``, unless it says where the model is or what opens it."""
        hidden = [httpx.URL(self._url).host, self._place, *([self._api_key] if self._api_key else [])]
        return "" if any(one in reason for one in hidden) else reason

    async def answer(self, model: str, messages: Sequence[Message], most: int, count: Count) -> AsyncGenerator[str]:
        """The answer of ``model``, no longer than ``most``, piece by piece; ``count`` has its tokens. Raises a
        ``Problem`` with 502 or 504."""
        began = False
        body = {"model": model, "messages": messages, "max_tokens": most, "stream": True, **ASKS_FOR_USAGE}
        try:
            async with self._asked(body) as events:
                began = True
                async for event in events.aiter_sse():
                    if event.data == "[DONE]":
                        return
                    chunk = json.loads(event.data)
                    if not count.told(chunk.get("usage")):
                        count.written += 1
                    if piece := _piece(chunk):
                        yield piece
                raise Problem(HTTPStatus.BAD_GATEWAY, BROKEN_OFF)
        except httpx.TimeoutException as error:
            raise Problem(HTTPStatus.GATEWAY_TIMEOUT, "The model did not answer in time.") from error
        except (SSEError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise Problem(
                HTTPStatus.BAD_GATEWAY, "What answers in the model's place does not speak the chat API."
            ) from error
        except httpx.TransportError as error:
            log.warning("no model answers at %s; start one there, or set MODEL_URL to where one is", self._place)
            nobody = "No model answers; the log of the orchestrator says where it was looked for."
            raise Problem(HTTPStatus.BAD_GATEWAY, BROKEN_OFF if began else nobody) from error
        except _Refused as error:
            raise Problem(
                HTTPStatus.BAD_GATEWAY, f"The model refused with {error.status}{self._shown(error.reason)}."
            ) from error

    @asynccontextmanager
    async def _asked(self, body: dict[str, object]) -> AsyncIterator[EventSource]:
        request = self.http.build_request("POST", f"{self._url}/chat/completions", json=body)
        async for attempt in AsyncRetrying(
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.25, max=4),
            retry=retry_if_exception(_worth_another_try),
            reraise=True,
        ):
            with attempt:
                response = await self.http.send(request, stream=True)
                if not response.is_success:
                    reason = await _reason(response)
                    await response.aclose()
                    raise _Refused(response.status_code, reason)
        try:
            yield EventSource(response)
        finally:
            await response.aclose()


class Models:
    """The models that may be asked for, each behind its address."""

    def __init__(self, endpoints: Mapping[str, tuple[str, str]], timeout_seconds: float) -> None:
        """``endpoints``: the address and the key of each, by name."""
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
