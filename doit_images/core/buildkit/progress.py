"""What is BuildKit doing?

``Progress`` is fed with what ``docker buildx build`` writes to standard error and knows at any moment
which steps there are, which of them run, came from the cache, are done or failed, and what they printed.
It is pure: no file, no terminal. Damaged, unknown or interleaved input never raises and never takes away
a step that was known.
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from doit_images.core.base.formatting import clean, size_text
from doit_images.core.base.timestamps import epoch_seconds
from doit_images.core.buildkit.rawjson import Message, RawJson

LOG_LINES = 400
"""How many of its last lines are kept of each step; the log file has them all."""

_NAME = re.compile(r"\[(?:(?P<stage>[^\]]*?) )?(?P<number>\d+)/(?P<total>\d+)\] (?P<text>.*)", re.DOTALL)
_EXPORT = re.compile(r"(exporting|pushing|sending|importing to|unpacking|naming|writing) ")
_MOUNT = re.compile(r"--(?:mount|network|security)=\S+\s+")


@dataclass
class Vertex:
    """One vertex of BuildKit's graph. Times are seconds since the epoch, ``None`` for not yet."""

    digest: str
    name: str = ""
    stage: str = ""
    number: int = 0
    total: int = 0
    index: int = 0
    """The order in which steps began, from 1; 0 for not begun. Log lines carry it."""
    started: float | None = None
    completed: float | None = None
    cached: bool = False
    error: str = ""
    inputs: tuple[str, ...] = ()
    spans: dict[float, float] = field(default_factory=dict, repr=False)
    """When it worked: from → to. BuildKit begins some steps more than once."""

    @property
    def text(self) -> str:
        """The name without what is in brackets: ``RUN pip install …``."""
        match = _NAME.fullmatch(self.name)
        return match["text"] if match else self.name

    @property
    def instruction(self) -> str:
        """The Dockerfile's word in capitals (``RUN``), or "" for steps that no Dockerfile has."""
        return first_word(self.text) if self.number else ""

    @property
    def label(self) -> str:
        """The name for people, in one line, without flags of RUN: ``builder 4/11 RUN pip install …``."""
        place = f"{self.stage} {self.number}/{self.total} ".lstrip() if self.number else ""
        return " ".join((place + brief(self.text)).split())

    @property
    def exporting(self) -> bool:
        """Whether it writes the result rather than makes it."""
        return not self.number and _EXPORT.match(self.name) is not None

    @property
    def work(self) -> bool:
        """Whether it can be cached or executed at all: an instruction other than ``FROM``."""
        return self.number > 0 and self.instruction != "FROM"

    @property
    def running(self) -> bool:
        """Whether it has begun and not ended."""
        return self.started is not None and self.completed is None

    @property
    def seconds(self) -> float:
        """How long it has worked, without pauses between."""
        return sum(end - begin for begin, end in self.spans.items())


class ProgressKind(StrEnum):
    """What a change is of."""

    STARTED = "started"
    CACHED = "cached"
    DONE = "done"
    FAILED = "failed"
    LOG = "log"
    """A step printed a line."""
    STATUS = "status"
    """A part of a step is done."""
    WARNING = "warning"
    TEXT = "text"
    """A line of the command itself, without a step."""


@dataclass(frozen=True)
class ProgressEvent:
    """One thing that happened. ``line`` is how the log file says it."""

    kind: ProgressKind
    line: str
    step: Vertex | None = None

    @property
    def notable(self) -> bool:
        """Whether a step began, ended or got on; else there was only something to read."""
        return self.kind not in (ProgressKind.LOG, ProgressKind.WARNING, ProgressKind.TEXT)


@dataclass(frozen=True)
class Summary:
    """How many instruction steps (``FROM`` not counted) are known, cached and executed."""

    total: int
    cached: int
    executed: int

    @property
    def done(self) -> int:
        """How many need no more work."""
        return self.cached + self.executed


class Progress:
    """The state of one build."""

    def __init__(self, shown: Mapping[str, str] | None = None) -> None:
        """Begin with nothing known. ``shown`` maps names that mean something in this build only to those that people
        know."""
        self._shown = dict(shown or {})
        self._reader = RawJson()
        self._steps: dict[str, Vertex] = {}
        self._begun = 0
        self._logs: dict[str, deque[str]] = {}
        self._partial: dict[tuple[str, object], str] = {}
        self._transfers: dict[str, dict[str, tuple[int, int]]] = {}
        self._done: set[tuple[str, str]] = set()
        self._text: deque[str] = deque(maxlen=LOG_LINES)

    def feed(self, data: bytes) -> list[ProgressEvent]:
        """Take the next bytes, however they are cut, and tell what they changed."""
        return [change for message in self._reader.feed(data) for change in self._take(message)]

    def finish(self) -> list[ProgressEvent]:
        """Tell what was still waiting for its end. Call it once, after the last feed."""
        changes = [change for message in self._reader.finish() for change in self._take(message)]
        for digest in list(dict.fromkeys(digest for digest, _ in self._partial)):
            changes.extend(self._flush(self._steps[digest]))
        return changes

    @property
    def steps(self) -> list[Vertex]:
        """All steps in the order in which BuildKit named them."""
        return list(self._steps.values())

    @property
    def lost(self) -> int:
        """How many messages were too damaged to be read."""
        return self._reader.lost

    @property
    def tail(self) -> str:
        """The last lines of text that were not progress: the error, and the Dockerfile's lines around it."""
        return "\n".join(self._text)

    def current(self) -> Vertex | None:
        """The step to show: the latest running instruction, else whatever runs, else ``None``."""
        running = sorted((step for step in self._steps.values() if step.running), key=lambda step: step.index)
        return next((step for step in reversed(running) if step.number), running[-1] if running else None)

    def begun(self) -> list[Vertex]:
        """The instructions that ran or run, in the order in which they began. BuildKit looks for a result without
        inputs (a WORKDIR on nothing) as if it ran it, and calls it cached only where somebody wants it: such a one
        counts only where it is the last."""
        used = {digest for step in self._steps.values() for digest in step.inputs}
        steps = [step for step in self._steps.values() if step.work and step.started is not None and not step.cached]
        ran = [step for step in steps if step.inputs or step.digest not in used]
        return sorted(ran, key=lambda step: step.index)

    def failed(self) -> Vertex | None:
        """The step that ended the build; one that was only stopped because of another comes last."""
        failed = [step for step in self._steps.values() if step.error]
        return min(failed, key=lambda step: "cancel" in step.error.lower(), default=None)

    def log_lines(self, step: Vertex) -> list[str]:
        """The last lines that a step printed."""
        return list(self._logs.get(step.digest, ()))

    def transfer(self, step: Vertex) -> tuple[int, int]:
        """How many bytes of how many a step has moved (layers pulled, context sent); (0, 0) when not told."""
        parts = self._transfers.get(step.digest, {}).values()
        return sum(current for current, _ in parts), sum(total for _, total in parts)

    def summary(self) -> Summary:
        """Count the instruction steps."""
        work = [step for step in self._steps.values() if step.work]
        return Summary(
            total=len(work),
            cached=sum(step.cached for step in work),
            executed=sum(not step.cached and not step.error and step.completed is not None for step in work),
        )

    def reason(self, step: Vertex) -> str:
        """Why a step was executed and not cached, as far as the graph tells; "" when it was not executed."""
        if not step.work or step.cached or step.started is None:
            return ""
        inputs = [self._steps[digest] for digest in step.inputs if digest in self._steps]
        for before in inputs:
            if before.work and not before.cached:
                return f"follows {before.label}"
        files = any("load build context" in before.name for before in inputs)
        base = any(before.instruction == "FROM" or before.name.startswith("[context ") for before in inputs)
        if files:
            return "its files or its base changed" if base else "its files changed"
        return f"new here: the instruction{', its base' if base else ''} or an argument changed, or the cache was gone"

    def _take(self, message: Message) -> list[ProgressEvent]:
        if isinstance(message, str):
            line = self._known(message)
            self._text.append(line)
            return [ProgressEvent(ProgressKind.TEXT, line)]
        takers = {"vertexes": self._vertex, "statuses": self._status, "logs": self._log, "warnings": self._warning}
        return [change for key, take in takers.items() for each in _dicts(message, key) for change in take(each)]

    def _known(self, text: str) -> str:
        for temporary, shown in self._shown.items():
            text = text.replace(temporary, shown)
        return clean(text)

    def _step(self, digest: object) -> Vertex | None:
        if not isinstance(digest, str) or not digest:
            return None
        return self._steps.setdefault(digest, Vertex(digest))

    def _begin(self, step: Vertex) -> list[ProgressEvent]:
        if step.index:
            return []
        self._begun += 1
        step.index = self._begun
        return [ProgressEvent(ProgressKind.STARTED, f"#{step.index} {' '.join(step.name.split())}", step)]

    def _vertex(self, vertex: dict[str, object]) -> list[ProgressEvent]:
        step = self._step(vertex.get("digest"))
        if step is None:
            return []
        name, inputs, error = vertex.get("name"), vertex.get("inputs"), vertex.get("error")
        if isinstance(name, str) and name:
            step.name = self._known(name)
            if match := _NAME.fullmatch(step.name):
                step.stage = (match["stage"] or "").strip()
                step.number, step.total = int(match["number"]), int(match["total"])
        if isinstance(inputs, list):
            step.inputs = tuple(value for value in inputs if isinstance(value, str))
        started, completed = epoch_seconds(vertex.get("started")), epoch_seconds(vertex.get("completed"))
        if not started:
            return []
        changes = self._begin(step)
        step.started = started if step.started is None else min(step.started, started)
        step.cached = step.cached or vertex.get("cached") is True
        step.error = self._known(error) if isinstance(error, str) and error else step.error
        if not completed:
            if started not in step.spans:
                step.completed = None
            return changes
        # BuildKit ends its own steps and FROM once at once (resolved) and again when they have really worked
        news = step.completed is None and (
            step.work or step.exporting or step.cached or bool(step.error) or completed - started >= 0.001
        )
        step.spans[started] = max(started, completed)
        step.completed = max(step.spans.values())
        return [*changes, *(self._end(step) if news else [])]

    def _end(self, step: Vertex) -> list[ProgressEvent]:
        flushed = self._flush(step)
        kind, word = ProgressKind.DONE, f"DONE {step.seconds:.1f}s"
        if step.error:
            kind, word = ProgressKind.FAILED, f"ERROR: {step.error}"
        elif step.cached:
            kind, word = ProgressKind.CACHED, "CACHED"
        return [*flushed, ProgressEvent(kind, f"#{step.index} {word}", step)]

    def _status(self, status: dict[str, object]) -> list[ProgressEvent]:
        step, name = self._step(status.get("vertex")), status.get("id")
        if step is None or not isinstance(name, str):
            return []
        current, total = status.get("current"), status.get("total")
        if isinstance(current, int) and isinstance(total, int) and total > 0:
            self._transfers.setdefault(step.digest, {})[name] = (current, total)
        if not epoch_seconds(status.get("completed")) or (step.digest, name) in self._done:
            return []
        self._done.add((step.digest, name))
        size = f" {size_text(current)}" if isinstance(current, int) and current > 0 else ""
        return [
            *self._begin(step),
            ProgressEvent(ProgressKind.STATUS, f"#{step.index} {self._known(name)}{size} done", step),
        ]

    def _log(self, log: dict[str, object]) -> list[ProgressEvent]:
        step, data = self._step(log.get("vertex")), log.get("data")
        if step is None or not isinstance(data, str):
            return []
        key = (step.digest, str(log.get("stream")))
        *lines, rest = (self._partial.pop(key, "") + _decode(data)).split("\n")
        if rest:
            self._partial[key] = rest
        at = epoch_seconds(log.get("timestamp"))
        return [*self._begin(step), *(self._printed(step, line, at) for line in lines)]

    def _flush(self, step: Vertex) -> list[ProgressEvent]:
        keys = [key for key in self._partial if key[0] == step.digest]
        return [self._printed(step, self._partial.pop(key), step.completed) for key in keys]

    def _printed(self, step: Vertex, line: str, at: float | None) -> ProgressEvent:
        text = clean(line.rstrip("\r").rpartition("\r")[2])
        self._logs.setdefault(step.digest, deque(maxlen=LOG_LINES)).append(text)
        since = f"{max(0.0, at - step.started):.3f} " if at and step.started else ""
        return ProgressEvent(ProgressKind.LOG, f"#{step.index} {since}{text}", step)

    def _warning(self, warning: dict[str, object]) -> list[ProgressEvent]:
        short = warning.get("short")
        if not isinstance(short, str):
            return []
        return [ProgressEvent(ProgressKind.WARNING, f"WARN: {clean(_decode(short)).strip()}")]


def first_word(text: str) -> str:
    """The word in capitals with which an instruction begins; of what a base hands on the one after ``ONBUILD``, which
    newer BuildKits say."""
    words = text.upper().split(None, 2)
    return next(iter(words[1:] if words[:1] == ["ONBUILD"] else words), "")


def brief(name: str) -> str:
    """A step's name without the flags of RUN that say how and not what: mounts, network, security."""
    return _MOUNT.sub("", name)


def _dicts(message: dict[str, object], key: str) -> list[dict[str, object]]:
    values = message.get(key)
    return [value for value in values if isinstance(value, dict)] if isinstance(values, list) else []


def _decode(data: str) -> str:
    try:
        return b64decode(data).decode("utf-8", "replace")
    except ValueError:
        return data
