"""What are the tasks called here?

In this package each has one plain name: ``build``, ``up``. A project may give them others, all with one prefix or some
of them, so that they are in nobody's way.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

_SAID = re.compile(r"(?<=\bdoit )[a-z_]+")


@dataclass(frozen=True)
class TaskNames:
    """The name here of each task, by its plain name; those that are not listed have their plain one."""

    here: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, plain: str) -> str:
        """The name here of a task; of one of its parts, too.

        >>> TaskNames({"build": "build_images"})("build:web")
        'build_images:web'
        """
        name, colon, part = plain.partition(":")
        return f"{self.here.get(name, name)}{colon}{part}"

    def in_text(self, text: str) -> str:
        """A text for people with the names here.

        >>> TaskNames({"up": "docker_up"}).in_text("nothing runs (`doit up` starts it, doit updates nothing)")
        'nothing runs (`doit docker_up` starts it, doit updates nothing)'
        """
        return _SAID.sub(lambda word: self.here.get(word[0], word[0]), text) if self.here else text


PLAIN = TaskNames()
