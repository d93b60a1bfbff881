"""What happens in a run, as lines of JSON for editors and agents: ``--events=json``.

One object a line, on standard output; docs/seeing-builds.md says which keys each has, and what is promised of them.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from doit_images.core.base.events import Said
from doit_images.core.base.task_names import TaskNames
from doit_images.core.building.events import ImageEnded, ImageNoted, ImagesPlanned, ImageStarted, StepsChanged
from doit_images.core.buildkit.progress import ProgressEvent
from doit_images.stack.events import HealthChecked


class EventLines:
    """Writes each event to a stream, as soon as it happens, from whatever thread."""

    def __init__(self, stream: TextIO, names: TaskNames) -> None:
        self._stream, self._names = stream, names
        self._lock = threading.Lock()
        self._health: Mapping[str, object] = {}

    def heard(self, event: object) -> None:
        """An event of the run (``base.events``)."""
        for kind, data in self._of(event):
            self.write(kind, **data)

    def write(self, kind: str, **data: object) -> None:
        """Write one line."""
        line = json.dumps({"event": kind, "time": round(time.time(), 3), **data})
        with self._lock:
            self._stream.write(f"{line}\n")
            self._stream.flush()

    def _of(self, event: object) -> Iterator[tuple[str, dict[str, Any]]]:
        match event:
            case Said(text):
                yield "said", {"text": self._names.in_text(text)}
            case ImagesPlanned(actions):
                images = {name: {"action": action, "seconds": seconds} for name, (action, seconds) in actions.items()}
                yield "planned", {"images": images}
            case ImageStarted(image, action, reasons, expected):
                yield "started", {"image": image, "action": action, "reasons": [*reasons], "seconds": expected}
            case ImageNoted(image, text):
                yield "noted", {"image": image, "text": text}
            case StepsChanged(image, _, changes):
                yield from (("step", {"image": image, **_step(change)}) for change in changes if _tells(change))
            case ImageEnded(image, state, _, size):
                yield "ended", {"image": image, "state": state, "bytes": size}
            case HealthChecked(verdicts, _):
                services = {name: {"state": one.state, "text": one.words} for name, one in verdicts.items()}
                if services != self._health:
                    self._health = services
                    yield "health", {"services": services}


def _tells(change: ProgressEvent) -> bool:
    return change.notable and change.kind != "status" and change.step is not None and change.step.number > 0


def _step(change: ProgressEvent) -> dict[str, object]:
    step = change.step
    return {"step": step.label, "state": change.kind, "seconds": round(step.seconds, 3)} if step else {}
