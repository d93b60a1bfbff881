"""What does the model answer? An OpenAI-compatible endpoint, always asked to stream.

Until the answer begins, a connection that fails, a 429 or a 5xx is tried again, with growing pauses. After that
nothing is: the reader has seen the beginning.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus

import httpx
from httpx_sse import EventSource, SSEError
from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from orchestrator.conversation import Message

ATTEMPTS = 4
CONNECT_SECONDS = 3


class ModelFailed(Exception):
    """No answer of the model. ``status`` is 502 or 504; the text is one sentence for the user."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


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
        self._endpoint = f"{url}/chat/completions"
        # Without what may stand before an @.
        self._place = f"{httpx.URL(url).scheme}://{httpx.URL(url).netloc.decode()}"

    async def answer(self, model: str, messages: Sequence[Message]) -> AsyncGenerator[str]:
        """The answer of ``model``, piece by piece. Raises ``ModelFailed``."""
        began = False
        try:
            async with self._asked({"model": model, "messages": messages, "stream": True}) as events:
                began = True
                async for event in events.aiter_sse():
                    if event.data == "[DONE]":
                        return
                    if piece := _piece(event.data):
                        yield piece
                raise ModelFailed(HTTPStatus.BAD_GATEWAY, self._broken_off())
        except httpx.TimeoutException as error:
            raise ModelFailed(
                HTTPStatus.GATEWAY_TIMEOUT, f"The model at {self._place} did not answer in time."
            ) from error
        except (SSEError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelFailed(
                HTTPStatus.BAD_GATEWAY, f"What answers at {self._place} does not speak the chat API."
            ) from error
        except httpx.TransportError as error:
            nobody = f"No model answers at {self._place}; start one there, or set MODEL_URL to where one is."
            raise ModelFailed(HTTPStatus.BAD_GATEWAY, self._broken_off() if began else nobody) from error
        except _Refused as error:
            raise ModelFailed(
                HTTPStatus.BAD_GATEWAY, f"The model at {self._place} refused with {error.status}{error.reason}."
            ) from error

    def _broken_off(self) -> str:
        return f"The model at {self._place} broke off in the middle of its answer."

    @asynccontextmanager
    async def _asked(self, body: dict[str, object]) -> AsyncIterator[EventSource]:
        request = self.http.build_request("POST", self._endpoint, json=body)
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


def _worth_another_try(error: BaseException) -> bool:
    if isinstance(error, _Refused):
        return error.status >= 500 or error.status == HTTPStatus.TOO_MANY_REQUESTS
    # Not a read that timed out: the model is at work, and would be twice.
    return isinstance(error, httpx.TransportError) and not isinstance(error, httpx.ReadTimeout)


def _piece(data: str) -> str:
    """The text in one chunk of the stream; empty in the first and the last one."""
    chunk = json.loads(data)
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
