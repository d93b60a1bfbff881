"""What the fuzzers share: how many cases, strange values, and who notices a traceback, a slow case or a stray write."""

from __future__ import annotations

import copy
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
from hypothesis import HealthCheck
from hypothesis import strategies as st

_USUAL = 25
_A_MINUTE = 2_000  # cases of each fuzzer, in about that time
CASES = int(os.environ.get("FAULTS_CASES") or float(os.environ.get("FAULTS_MINUTES") or 0) * _A_MINUTE) or _USUAL
"""How many cases each fuzzer has."""
MANY = CASES > _USUAL
SLOW = 1.0  # seconds of the processor; looked at only where many cases are asked for, on a machine that has time

Test = TypeVar("Test", bound=Callable[..., None])
_WRITES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod")
_COMPILED = sys.pycache_prefix or "__pycache__"
figures: dict[str, tuple[int, float]] = {}
"""Of each fuzzer how many cases it had, and the seconds of the processor that the longest took."""
_written: list[str] = []
_watching = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    if not _watching:
        return
    if event == "open" and isinstance(args[0], str | bytes) and (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        _written.append(os.fsdecode(args[0]))
    elif event in _WRITES:
        _written.append(os.fsdecode(args[1 if event in ("os.rename", "os.link", "os.symlink") else 0]))
    elif event == "sqlite3.connect":
        _written.append(os.fsdecode(args[0]))


sys.addaudithook(_hook)


@contextmanager
def watched(allowed: Path | None = None) -> Iterator[None]:
    """For the block: nothing is written but below ``allowed``, and a case is not slow."""
    global _watching
    _written.clear()
    gc.disable()  # what Hypothesis remembers of all cases is looked through at any moment
    began, _watching = time.process_time(), True
    try:
        yield
    finally:
        _watching = False
        took = time.process_time() - began
        gc.enable()
    stray = [path for path in _written if not (allowed and path.startswith(f"{allowed}{os.sep}"))]
    # Hypothesis keeps what it knows of characters, Python its compiled modules.
    stray = [path for path in stray if not any(word in path for word in (".hypothesis", "__pycache__", _COMPILED))]
    assert not stray, stray[:5]
    name = os.environ.get("PYTEST_CURRENT_TEST", "").partition(" ")[0].rpartition(":")[2]
    count, longest = figures.get(name, (0, 0.0))
    figures[name] = count + 1, max(longest, took)
    if MANY:
        assert took < SLOW, "slow"


def cases(times: float = 1.0) -> Callable[[Test], Test]:
    """As many cases as were asked for, however the machine is doing."""
    return hypothesis.settings(
        max_examples=max(1, round(CASES * times)),
        deadline=None,
        database=None,  # it would be written to amid a case
        suppress_health_check=list(HealthCheck),
    )


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.sampled_from(["", "0", "{}", "a" * 300]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
"""Anything that JSON can say."""


@st.composite
def mutated(draw: st.DrawFn, template: Any, most: int = 3) -> Any:
    """Something that looks like ``template``, with parts of it exchanged, missing, or more than expected."""
    whole = [copy.deepcopy(template)]
    for _ in range(draw(st.integers(0, most))):
        places = list(_places(whole))
        holder, key = draw(st.sampled_from(places))
        match draw(st.integers(0, 3)):
            case 0 if isinstance(holder, dict):
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[draw(st.text(max_size=8))] = draw(JSON)
            case _:
                holder[key] = draw(JSON)
    return whole[0]


def _places(holder: Any) -> Iterator[tuple[Any, Any]]:
    items = holder.items() if isinstance(holder, dict) else enumerate(holder)
    for key, inner in list(items):
        yield holder, key
        if isinstance(inner, dict | list):
            yield from _places(inner)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Some bytes, cut, with noise in them, or with a piece twice."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        match draw(st.integers(0, 3)):
            case 0:
                del data[at:]
            case 1:
                data[at : at + 1] = draw(st.binary(max_size=8))
            case 2:
                data[at:at] = data[at : at + draw(st.integers(0, 200))]
            case _:
                del data[at : at + draw(st.integers(0, 50))]
    return bytes(data)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
