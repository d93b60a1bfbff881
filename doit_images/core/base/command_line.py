"""How is a command shown, and what does its output say of the reason why it failed? Both without secrets."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from doit_images.core.base.masking import masked_word, masker

# What stands before the reason in the output of docker, buildx, Compose and apt.
_MARKS = ("Error response from daemon: ", "ERROR: ", "Error: ", "E: ", "dpkg: ")


def last_words(text: str, nothing: str = "it gives no reason") -> str:
    """What the output of a failed command says of the reason: its last line that is marked as an error, else its last,
    without warnings of Compose and hints of uv; ``nothing`` if it is empty.

    >>> last_words("ERROR: no such builder\\nsee docker buildx --help"), last_words(" \\n")
    ('no such builder', 'it gives no reason')
    """
    lines = [line.strip() for line in text.splitlines() if "level=warning" not in line]
    lines = [line for line in lines if line and not line.startswith("hint:")]
    last = next((line for line in reversed(lines) if line.startswith(_MARKS)), lines[-1] if lines else nothing)
    while mark := next((mark for mark in _MARKS if last.startswith(mark)), ""):
        last = last.removeprefix(mark).lstrip()
    return last


def pasteable(
    argv: Sequence[str | Path],
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: bytes | None = None,
) -> str:
    """A command as it can be pasted into a shell that has the environment and the folder of this process; ``***`` in
    place of secrets.

    >>> pasteable(["echo", "a b"], Path("/"), {**os.environ, "API_TOKEN": "x", "B": "c d"})
    "(cd / && API_TOKEN='***' B='c d' echo 'a b')"
    """
    import shlex  # only who looks at commands needs it

    ours = os.environ
    env = ours if env is None else env
    mask = masker({**ours, **env})
    changed = [masked_word(f"{name}={value}", mask) for name, value in env.items() if ours.get(name) != value]
    words = [f"{name}={shlex.quote(value)}" for name, _, value in (text.partition("=") for text in changed)]
    if gone := [name for name in ours if name not in env]:
        words = ["env", *(word for name in gone for word in ("-u", shlex.quote(name))), *words]
    line = " ".join([*words, *(shlex.quote(masked_word(str(word), mask)) for word in argv)])
    if stdin is not None:
        line = f"printf %s {shlex.quote(mask(stdin.decode(errors='replace')))} | {line}"
    return f"(cd {shlex.quote(str(cwd))} && {line})" if cwd and cwd.absolute() != Path.cwd() else line
