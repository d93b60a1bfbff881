"""How does one service call another? Over kept-alive connections, with short limits, passing on the request's id."""

from __future__ import annotations

import httpx

from common.logs import request_id
from common.problems import Busy, Unavailable


def client(base_url: str, *, seconds: float = 4) -> httpx.AsyncClient:
    """A client of ``base_url``; each wait (to connect, to write, to read) is limited, reading to ``seconds``."""
    return httpx.AsyncClient(
        base_url=base_url,
        timeout=httpx.Timeout(seconds, connect=1.5, pool=1.5),
        limits=httpx.Limits(max_connections=64, max_keepalive_connections=32, keepalive_expiry=4),
        event_hooks={"request": [_pass_on_id]},
        trust_env=False,  # a proxy of the environment is for the outside, not for our own services
    )


async def call(
    service: str, http: httpx.AsyncClient, method: str, path: str, *, headers: dict[str, str],
    json: object = None, repeatable: bool = False,
) -> httpx.Response:  # fmt: skip
    """Call ``path`` of ``service``.

    A ``repeatable`` request is sent once more when the connection broke: the server may just have closed a
    kept-alive one, or have been restarted. Raises ``Unavailable`` when no answer came, or a 5xx; ``Busy`` when no
    connection was free.
    """
    for attempts_left in reversed(range(2 if repeatable else 1)):
        try:
            answer = await http.request(method, path, headers=headers, json=json)
        except httpx.PoolTimeout as error:
            raise Busy from error
        except httpx.TransportError as error:
            if attempts_left and not isinstance(error, httpx.TimeoutException):
                continue
            raise Unavailable(service) from error
        if answer.status_code >= 500:
            raise Unavailable(service, f"answered with {answer.status_code}")
        return answer
    raise AssertionError("unreachable")


async def _pass_on_id(request: httpx.Request) -> None:
    if current := request_id.get():
        request.headers["X-Request-ID"] = current
