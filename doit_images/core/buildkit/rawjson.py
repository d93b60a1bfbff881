"""Where does one message of BuildKit's progress end and the next begin?

``docker buildx build --progress=rawjson`` writes concatenated JSON objects to standard error, pretty
printed or compact, with plain text between and after them: warnings of the command line, and at the
end the piece of Dockerfile that failed and the error. ``RawJson`` turns that stream of bytes into
messages: a ``dict`` as in BuildKit's ``SolveStatus``, or a ``str``, one line of text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

Message = dict[str, object] | str
_DECODER = json.JSONDecoder()

KNOWN = frozenset({"vertexes", "statuses", "logs", "warnings"})
"""The keys of a ``SolveStatus``; an object with none of them says nothing that we know."""

_LIMIT = 32 * 1024 * 1024  # an object longer than this is a stray brace in some text, a line is taken in parts
_HELD = 1024 * 1024  # so much of an object is waited for before it is looked at line by line
_NO_BLANK = re.compile(r"\S")
_JSON_LINE = re.compile(r'\s*(["\[\]{}]|-?\d+[.,\d]*$|(true|false|null),?$)')


class RawJson:
    """Reader of rawjson.

    It finds its way back after damage by one property of both forms that buildx prints: nothing but the
    beginning of an object has ``{`` in the first column, nothing but its end ``}``, and no JSON string
    holds a newline. A truncated object is given up when the next begins; text amid an object is text.
    """

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._open: list[str] = []
        self._size = 0
        self.lost = 0
        """How many objects could not be read."""

    def feed(self, data: bytes) -> list[Message]:
        """The messages that ``data`` completes. Never raises."""
        if b"\n" not in data and self._waiting < _LIMIT:
            self._pieces.append(
                data
            )  # to look at a long line with each of its pieces would take the square of its length
            self._waiting += len(data)
            return []
        data, at = b"".join((*self._pieces, data)), 0
        messages: list[Message] = []
        while True:
            if not self._open and data.startswith(b"{\n", at):
                end = data.find(b"\n}\n", at)
                if end < 0 and len(data) - at < _HELD:
                    break
                if end >= 0 and (value := _whole(data[at : end + 2])) is not None:
                    messages += [value] if KNOWN.intersection(value) else []
                    at = end + 3
                    continue
            end = data.find(b"\n", at)
            if end < 0 and len(data) - at < _LIMIT:
                break
            end = end if end >= 0 else len(data)
            messages.extend(self._line(data[at:end].decode("utf-8", "replace").rstrip("\r")))
            at = end + 1
        self._pieces = [data[at:]]
        self._waiting = len(self._pieces[0])
        return messages

    def finish(self) -> list[Message]:
        """What was left when the stream ended."""
        rest, self._pieces, self._waiting = b"".join(self._pieces), [], 0
        lines = rest.decode("utf-8", "replace").split("\n") if rest else []
        lines = lines[:-1] if lines[-1:] == [""] else lines
        messages = [message for line in lines for message in self._line(line.rstrip("\r"))]
        return [*messages, *self._give_up()]

    def _line(self, line: str) -> Iterator[Message]:
        """What a line says: an object, or what goes on with one or ends it, and whatever follows that."""
        at = end = 0
        while True:
            if line.startswith("{", at):
                yield from self._give_up()
                value, end = _first(line, at)
                if end == at:
                    self._open, self._size = [line[at:]], len(line) - at
                elif KNOWN.intersection(value):
                    yield value
            elif not self._open:
                yield line[at:]
            elif line.startswith("}", at):
                self._open.append("}")
                yield from self._close()
                end = at + 1
            elif line[at : at + 1] in (" ", "\t", ""):
                yield from self._goes_on(line)
            else:
                yield line[at:]
            more = _NO_BLANK.search(line, end)
            if end == at or more is None:
                return
            at = end = more.start()

    def _goes_on(self, line: str) -> Iterator[Message]:
        self._open.append(line)
        self._size += len(line)
        if self._size > _LIMIT:
            yield from self._give_up()

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


def _whole(text: bytes) -> dict[str, object] | None:
    """The way nearly everything goes: a whole object, undamaged."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _first(line: str, at: int) -> tuple[dict[str, object], int]:
    """The object that begins at a place of a line, and where it ends; the same place, if it does not."""
    try:
        return _DECODER.raw_decode(line, at)
    except (ValueError, RecursionError):
        return {}, at
