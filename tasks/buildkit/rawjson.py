"""Where does one message of BuildKit's progress end and the next begin?

``docker buildx build --progress=rawjson`` writes concatenated JSON objects to standard error, pretty
printed or compact, with plain text between and after them: warnings of the command line, and at the
end the piece of Dockerfile that failed and the error. Both readers here turn a stream of bytes into
messages: a ``dict`` as in BuildKit's ``SolveStatus``, or a ``str``, one line of text.

``RawJson`` reads that. ``Plain`` reads ``--progress=plain`` of a buildx that is too old for rawjson (before
0.13) and says the same in the same messages, as far as the text tells it.
"""

from __future__ import annotations

import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

Message = dict[str, Any] | str

KNOWN = frozenset({"vertexes", "statuses", "logs", "warnings"})
"""The keys of a ``SolveStatus``; an object with none of them says nothing that we know."""

_LIMIT = 32 * 1024 * 1024  # an object longer than this is a stray brace in some text, a line is taken in parts
_HELD = 1024 * 1024  # so much of an object is waited for before it is looked at line by line
_JSON_LINE = re.compile(r'\s*(["\[\]{}]|-?\d+[.,\d]*$|(true|false|null),?$)')


class Lines:
    """Cut bytes into lines; what follows the last newline waits for more."""

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._rest = b""

    def feed(self, data: bytes) -> list[str]:
        """The lines that ``data`` completes, without their ends."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode("utf-8", "replace").rstrip("\r") for line in lines]

    def finish(self) -> list[str]:
        """The last line, when it had no end."""
        rest, self._rest = self._rest, b""
        return [rest.decode("utf-8", "replace")] if rest else []


class RawJson:
    """Reader of rawjson.

    It finds its way back after damage by one property of both forms that buildx prints: nothing but the
    beginning of an object has ``{`` in the first column, nothing but its end ``}``, and no JSON string
    holds a newline. A truncated object is given up when the next begins; text amid an object is text.
    """

    def __init__(self) -> None:
        """Begin with nothing read."""
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._open: list[str] = []
        self._size = 0
        self.lost = 0
        """How many objects could not be read."""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Never raises."""
        if b"\n" not in data and self._waiting < _LIMIT:
            self._pieces.append(data)  # to look at a long line anew with each piece would take the square of its length
            self._waiting += len(data)
            return []
        data, at = b"".join((*self._pieces, data)), 0
        found: list[Message] = []
        while True:
            if not self._open and data.startswith(b"{\n", at):
                end = data.find(b"\n}\n", at)
                if end < 0 and len(data) - at < _HELD:
                    break
                if end >= 0 and (value := _whole(data[at : end + 2])) is not None:
                    found += [value] if KNOWN.intersection(value) else []
                    at = end + 3
                    continue
            end = data.find(b"\n", at)
            if end < 0 and len(data) - at < _LIMIT:
                break
            end = end if end >= 0 else len(data)
            found.extend(self._line(data[at:end].decode("utf-8", "replace").rstrip("\r")))
            at = end + 1
        self._pieces = [data[at:]]
        self._waiting = len(self._pieces[0])
        return found

    def finish(self) -> list[Message]:
        """What was left when the stream ended."""
        rest, self._pieces, self._waiting = b"".join(self._pieces), [], 0
        lines = rest.decode("utf-8", "replace").split("\n") if rest else []
        lines = lines[:-1] if lines[-1:] == [""] else lines
        found = [message for line in lines for message in self._line(line.rstrip("\r"))]
        return [*found, *self._give_up()]

    def _line(self, line: str) -> Iterator[Message]:
        if line.startswith("{"):
            yield from self._give_up()
            yield from self._begin(line)
        elif not self._open:
            yield line
        elif line.startswith("}"):
            self._open.append("}")
            yield from self._close()
            if line[1:].strip():
                yield from self._line(line[1:].lstrip())
        elif line[:1] in (" ", "\t", ""):
            self._open.append(line)
            self._size += len(line)
            if self._size > _LIMIT:
                yield from self._give_up()
        else:
            yield line

    def _begin(self, line: str) -> Iterator[Message]:
        try:
            value, end = json.JSONDecoder().raw_decode(line)
        except (ValueError, RecursionError):
            self._open, self._size = [line], len(line)
            return
        if KNOWN.intersection(value):
            yield value
        if line[end:].strip():
            yield from self._line(line[end:].lstrip())

    def _close(self) -> Iterator[Message]:
        try:
            value = json.loads("\n".join(self._open))
        except (ValueError, RecursionError):
            yield from self._give_up()
            return
        self._open = []
        if KNOWN.intersection(value):
            yield value

    def _give_up(self) -> Iterator[Message]:
        lines, self._open = self._open, []
        if lines:
            self.lost += 1
        yield from (line for line in lines if not _JSON_LINE.match(line))


def _whole(text: bytes) -> dict[str, Any] | None:
    """The way nearly everything goes: a whole object, undamaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


_NUMBERED = re.compile(r"#([1-9]\d*) (.*)")
_DONE = re.compile(r"DONE ([\d.]+)s$")
_LOG = re.compile(r"(\d+\.\d+) (.*)")


class Plain:
    """Reader of ``--progress=plain``."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        """Begin with nothing read. ``clock`` gives the time, which the text does not tell."""
        self._lines = Lines()
        self._clock = clock
        self._steps: dict[str, tuple[str, float]] = {}
        self.lost = 0

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Never raises."""
        return [message for line in self._lines.feed(data) for message in self._line(line)]

    def finish(self) -> list[Message]:
        """What was left when the stream ended."""
        return [message for line in self._lines.finish() for message in self._line(line)]

    def _line(self, line: str) -> Iterator[Message]:
        found = _NUMBERED.match(line)
        if not found:
            yield line
            return
        number, rest = found.groups()
        now = self._clock()
        if number not in self._steps:
            self._steps[number] = (rest, now)
            yield self._vertex(number)
        elif rest not in ("...", self._steps[number][0]):
            yield self._event(number, rest, now)

    def _event(self, number: str, rest: str, now: float) -> Message:
        if rest == "CACHED":
            return self._vertex(number, completed=_stamp(now), cached=True)
        if done := _DONE.match(rest):
            return self._vertex(number, completed=_stamp(self._steps[number][1] + float(done[1])))
        if rest.startswith(("ERROR", "CANCELED")):
            error = rest.removeprefix("ERROR").removeprefix(": ")
            return self._vertex(number, completed=_stamp(now), error=error)
        if log := _LOG.fullmatch(rest):
            data = b64encode(log[2].encode() + b"\n").decode()
            at = _stamp(self._steps[number][1] + float(log[1]))
            return {"logs": [{"vertex": number, "stream": 1, "data": data, "timestamp": at}]}
        status = {"id": rest.removesuffix(" done"), "vertex": number}
        return {"statuses": [status | ({"completed": _stamp(now)} if rest.endswith(" done") else {})]}

    def _vertex(self, number: str, **more: object) -> Message:
        name, started = self._steps[number]
        return {"vertexes": [{"digest": number, "name": name, "started": _stamp(started), **more}]}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()
