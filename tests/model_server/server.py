"""A model for tests: a real HTTP server that speaks the chat API of OpenAI and repeats what it was given.

    python3 server.py [PORT]        (else $PORT, else 8000; nothing but the standard library)

    GET  /health                 200
    GET  /v1/models              the models below
    POST /v1/chat/completions    with and without "stream"
    POST /v1/completions         the prompt goes on
    POST /v1/responses           with and without "stream"
    POST /v1/embeddings          a vector for each text

Its answer is a pure function of the request: what the system messages said, how much was said before, and the last
message of the user. Other names of models make it misbehave on purpose:

    echo, default   answers
    flaky           answers 503 to every request but the third of the same messages
    broken          answers 500
    slow            answers a word a second
    silent          accepts the request and says nothing for a minute
    cut             closes the connection in the middle of the stream
    garbage         streams what is not JSON
    empty           answers with nothing
    caller          asks for the first of its tools, and then says what that said
"""

from __future__ import annotations

import json
import os
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODELS = ("echo", "default", "flaky", "broken", "slow", "silent", "cut", "garbage", "empty", "caller")
NOTES = "Notes about me"
"""So begins what the orchestrator says of memories."""
LARGEST_BODY = 8 * 1024 * 1024

received: list[dict[str, Any]] = []
"""The last requests, for tests that run in the same process."""
traces: list[str] = []
"""Of which traces they said that they are."""

pause: Callable[[], object] = partial(time.sleep, 1)
"""What the slow one does before each word; tests that run in the same process may have it wait for something."""

_asked: Counter[str] = Counter()
_asked_lock = threading.Lock()


class BadRequest(Exception):
    """What was sent is not a chat request."""


def reply(messages: list[dict[str, Any]]) -> str:
    """The answer: shows all that the model was given."""
    if messages[-1]["role"] == "tool":
        return f"The tool said: {messages[-1]['content']}"
    told = [one["content"] for one in messages if one["role"] == "system" or one["content"].startswith(NOTES)]
    said = [one for one in messages if one["content"] not in told]
    asked = [one["content"] for one in said if one["role"] == "user"]
    earlier = len(said) - 1
    context = "\n".join(told) if told else "nothing"
    return f"You asked: {asked[-1]}\nBefore that {earlier} messages were said.\nI was told: {context}"


def checked(body: bytes) -> tuple[str, list[dict[str, Any]], bool]:
    """The model's name, the messages, and whether to stream."""
    try:
        request = json.loads(body)
        model, messages = request["model"], request["messages"]
        received[:] = [*received[-20:], json.loads(body)]
        for one in messages:
            one["content"] = one.get("content") or ""  # of a message that only asks for tools
            if isinstance(one["content"], list):  # content parts
                one["content"] = " ".join(part.get("text", "") for part in one["content"])
        texts = [one[key] for one in messages for key in ("role", "content")]
        if not isinstance(messages, list) or not all(isinstance(one, str) for one in texts):
            raise BadRequest("messages must be a list of messages")
        if not any(one["role"] == "user" for one in messages):
            raise BadRequest("there is no message of a user")
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadRequest("this is not a chat request") from error
    return str(model), messages, bool(request.get("stream", False))


def words(text: str) -> list[str]:
    """The pieces of ``text`` that are sent one by one; together they are ``text``."""
    return re.findall(r"\s*\S+", text)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 70

    def do_GET(self) -> None:
        """Health and models."""
        if self.path == "/health":
            self._send(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": one, "object": "model"} for one in MODELS]})
        else:
            self._error(404, "there is nothing here")

    def do_POST(self) -> None:
        """Chat."""
        length = int(self.headers.get("Content-Length") or 0)
        if length > LARGEST_BODY:
            self.close_connection = True
            return self._error(413, "this is too much")
        body = self.rfile.read(length)
        if self.path == "/v1/embeddings":
            return self._embeddings(body)
        if self.path == "/v1/completions":
            return self._completion(json.loads(body))
        if self.path == "/v1/responses":
            return self._response(json.loads(body))
        if self.path != "/v1/chat/completions":
            return self._error(404, "there is nothing here")
        try:
            traces[:] = [*traces[-20:], self.headers.get("traceparent", "")]
            model, messages, stream = checked(body)
        except BadRequest as error:
            return self._error(400, str(error))
        if model not in MODELS:
            return self._error(404, f"The model `{model}` does not exist.")
        if model == "broken" or (model == "flaky" and not third_time(body)):
            return self._error(503 if model == "flaky" else 500, "the model is not well")
        if model == "silent":
            time.sleep(60)
        if model == "caller" and messages[-1]["role"] != "tool":
            return self._call(json.loads(body)["tools"][0]["function"]["name"])
        pieces = [] if model == "empty" else words(reply(messages))
        usage = used(messages, pieces)
        if not stream:
            return self._said(model, {"role": "assistant", "content": "".join(pieces)}, "stop", usage)
        told = (json.loads(body).get("stream_options") or {}).get("include_usage")
        return self._stream(model, pieces, usage if told else None)

    def _embeddings(self, body: bytes) -> None:
        texts = json.loads(body)["input"]
        texts = [texts] if isinstance(texts, str) else texts
        data = [{"object": "embedding", "index": index, "embedding": [0.0, 0.6, 0.8]} for index in range(len(texts))]
        self._send(
            200, {"object": "list", "model": "echo", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
        )

    def _completion(self, asked: dict[str, Any]) -> None:
        received[:] = [*received[-20:], asked]
        choice = {"index": 0, "text": f"{asked['prompt']}, and so on", "finish_reason": "stop", "logprobs": None}
        said = {"id": "1", "created": 0, "object": "text_completion", "model": asked["model"], "choices": [choice]}
        self._send(200, {**said, "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}})

    def _response(self, asked: dict[str, Any]) -> None:
        received[:] = [*received[-20:], asked]
        text = f"You asked: {json.dumps(asked['input'])}"
        item = {"type": "message", "id": "m", "role": "assistant", "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}]}  # fmt: skip
        said = {"id": "r", "object": "response", "created_at": 0, "model": asked["model"], "status": "completed",
                "output": [item], "parallel_tool_calls": False, "tool_choice": "auto", "tools": []}  # fmt: skip
        details = {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
        usage = {"input_tokens": 5, "output_tokens": 2, "total_tokens": 7, **details}
        if not asked.get("stream"):
            self._send(200, {**said, "usage": usage})
            return
        delta = {"item_id": "m", "output_index": 0, "content_index": 0, "delta": text, "logprobs": []}
        events: list[dict[str, Any]] = [
            {"type": "response.created", "response": {**said, "output": [], "status": "in_progress", "usage": None}},
            {"type": "response.output_text.delta", **delta},
            {"type": "response.completed", "response": {**said, "usage": usage}},
        ]
        lines = [
            f"event: {one['type']}\ndata: {json.dumps({**one, 'sequence_number': at})}\n\n"
            for at, one in enumerate(events)
        ]
        data = "".join(lines).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _call(self, name: str) -> None:
        call = {"id": "call-1", "type": "function", "function": {"name": name, "arguments": '{"what": "the sky"}'}}
        self._said("caller", {"role": "assistant", "content": None, "tool_calls": [call]}, "tool_calls", used([], []))

    def _said(self, model: str, message: dict[str, Any], reason: str, usage: dict[str, int]) -> None:
        choice = {"index": 0, "message": message, "finish_reason": reason}
        said = {"id": "1", "created": 0, "object": "chat.completion", "model": model, "choices": [choice]}
        self._send(200, {**said, "usage": usage})

    def _stream(self, model: str, pieces: list[str], usage: dict[str, int] | None) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for count, data in enumerate(chunks(model, pieces, usage)):
            if model == "cut" and count == 3:
                self.close_connection = True
                return
            if model == "slow":
                pause()
            if model == "garbage" and count == 2:
                data = "{not JSON"
            event = f"data: {data}\n\n".encode()
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _error(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "error", "code": status}})

    def _send(self, status: int, body: object) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def used(messages: list[dict[str, Any]], pieces: list[str]) -> dict[str, int]:
    """What an answer is said to have cost: its words, and those of the question."""
    read = sum(len(words(one["content"])) for one in messages)
    return {"prompt_tokens": read, "completion_tokens": len(pieces), "total_tokens": read + len(pieces)}


def chunks(model: str, pieces: list[str], usage: dict[str, int] | None) -> Iterator[str]:
    """The events of a stream: the role, the pieces, the reason to stop, the ``usage`` if that is asked for, the end."""
    event: dict[str, Any] = {"id": "1", "created": 0, "object": "chat.completion.chunk", "model": model}

    def chunk(delta: dict[str, str], reason: str | None = None) -> str:
        return json.dumps({**event, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]})

    yield chunk({"role": "assistant", "content": ""})
    for piece in pieces:
        yield chunk({"content": piece})
    yield chunk({}, "stop")
    if usage:
        yield json.dumps({**event, "choices": [], "usage": usage})
    yield "[DONE]"


def third_time(body: bytes) -> bool:
    """Whether this is the third request of this kind (or the sixth, …)."""
    key = body.decode(errors="replace")
    with _asked_lock:
        _asked[key] += 1
        return _asked[key] % 3 == 0


class Server(ThreadingHTTPServer):
    """Does not mind clients that leave, nor many that come at once."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say what went wrong, unless it is the client that went."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


def serve(host: str, port: int) -> ThreadingHTTPServer:
    """A server that listens; ``serve_forever`` makes it answer."""
    return Server((host, port), Handler)


if __name__ == "__main__":
    import signal

    port = int(sys.argv[1] if len(sys.argv) > 1 else os.environ.get("PORT") or 8000)
    running = serve("0.0.0.0", port)
    # As process 1 of a container it would otherwise ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    print(f"listening on {port}", file=sys.stderr)
    running.serve_forever()
