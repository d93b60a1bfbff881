"""benchmarks/load.py: what it counts, and that a wrong answer is none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from benchmarks import load, measure
from doit_images.core.base.errors import UserError


@asynccontextmanager
async def answering(answer: Callable[[bytes], bytes]) -> AsyncIterator[str]:
    """The address of a server whose answer to each head is ``answer(head)``; none ends the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while said := answer(await reader.readuntil(b"\r\n\r\n")):
                writer.write(said)
        except asyncio.IncompleteReadError:
            pass
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/verify"


def answer(body: bytes, status: bytes = b"200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)


def request(url: str) -> load.Request:
    return load.Request("verify", url, {"X-API-Key": "a key"}, b"", b"alice")


async def asked(said: bytes) -> float:
    async with answering(lambda _: said) as url:
        return await load.Client(url).ask(request(url))


def test_a_right_answer_has_a_time() -> None:
    assert asyncio.run(asked(answer(b'{"name": "alice"}'))) > 0


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        (answer(b'{"name": "bob"}'), UserError, "verify: answered b'HTTP/1.1 200 OK'"),
        (answer(b'{"name": "alice"}', b"500 Oh"), UserError, "verify: answered b'HTTP/1.1 500"),
        (answer(b'{"name": "alice"}', b"503 Unavailable"), load.Away, "verify: answered b'HTTP/1.1 503"),
        (b"", load.Away, "verify: IncompleteReadError"),
    ],
)
def test_a_wrong_answer_is_an_error(said: bytes, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        asyncio.run(asked(said))


def test_a_wrong_answer_among_many_ends_a_load() -> None:
    heads: list[bytes] = []

    def once_wrong(head: bytes) -> bytes:
        heads.append(head)
        return answer(b"bob" if len(heads) == 50 else b"alice")

    async def all_of_it() -> None:
        async with answering(once_wrong) as url:
            await load.load("verify", [request(url)], 20, 2)

    with pytest.raises(ExceptionGroup) as raised:
        asyncio.run(all_of_it())
    assert raised.group_contains(UserError, match="verify: answered")
    assert b"X-API-Key: a key\r\n" in heads[0]


def test_while_it_goes_on_errors_are_counted() -> None:
    record = load.Record()

    async def a_while() -> None:
        async with answering(lambda head: answer(b"alice" if len(record.times) < 3 else b"bob")) as url:
            until = asyncio.get_running_loop().time() + 0.5  # of the same clock as time.monotonic
            await load.pace([request(url)], 0.01, until, record)

    asyncio.run(a_while())
    assert len(record.times) == 3
    assert record.errors
    assert "answered" in record.errors[0]


@pytest.mark.parametrize(("patience", "told"), [(20, (1, 0, 2)), (0, (0, 1, 0))])
def test_who_is_not_answered_asks_again(patience: float, told: tuple[int, int, int]) -> None:
    answers = iter([answer(b"", b"503 Service Unavailable"), b"", answer(b"alice")])
    record = load.Record(patience)

    async def once() -> None:
        async with answering(lambda head: next(answers)) as url:
            client = load.Client(url)
            await record.ask(client, request(url))
            client.close()

    asyncio.run(once())
    assert (len(record.times), len(record.errors), record.again) == told
    assert sum(record.times) >= told[2] * 0.25, "the time until it asked again counts"


def test_figures_are_of_the_times() -> None:
    found = load.figures("verify", [0.01] * 98 + [0.5, 1.0], 2.0)
    assert (found.requests, found.errors, found.requests_per_second) == (100, 0, 50.0)
    assert (found.p50, found.longest) == (10.0, 1000.0)
    assert 500 <= found.p99 <= 1000


def test_against_another_run() -> None:
    now = [load.figures(name, [0.01] * 100, 1.0) for name in ("verify", "search")]
    machine = {**measure.machine(), "commit": "2738c8b"}
    before = {"machine": machine, "rows": [{"name": "verify", "requests_per_second": 40.0}]}
    table = load.compared(before, now)
    assert "| verify | 40.0 | 100.0 | 2.50 |" in table
    assert "search" not in table
    assert "commit 2738c8b" in table
