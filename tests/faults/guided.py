"""The fuzzers, led by Atheris: what a case reached that none had before is where the next ones begin.

``FAULTS_GUIDED=SECONDS`` gives each fuzzer so long, where Atheris is installed: it has no wheel for every Python that
these tests run on, so it is locked nowhere. Hypothesis draws each case from the bytes that Atheris gives.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from tests.faults.fuzzing import cases

SECONDS = int(os.environ.get("FAULTS_GUIDED") or 0)
"""How long each fuzzer is led, 0 for not at all."""
_LONGEST = 4096  # bytes of a case
_STUCK = 20  # seconds of the clock


def needed() -> None:
    """Raises ``pytest.UsageError`` where Atheris is asked for, and is not installed."""
    if SECONDS:
        try:
            import atheris  # noqa: F401
        except ImportError:
            raise pytest.UsageError("FAULTS_GUIDED needs Atheris: .venv/bin/pip install atheris") from None


def leads(item: pytest.Item) -> bool:
    """Whether this is a fuzzer that can be led: all but the one whose other half is a thread."""
    is_fuzzer = hasattr(getattr(item, "obj", None), "hypothesis") and item.path.name.startswith("test_fuzz_")
    return bool(SECONDS) and is_fuzzer and "wire" not in getattr(item, "fixturenames", ())


def lead(item: pytest.Function) -> str:
    """Let Atheris lead one fuzzer, in a process of its own, which it ends; its last words. Fails with what it met."""
    with tempfile.TemporaryFile() as said, tempfile.TemporaryDirectory() as folder:
        child = os.fork()
        if not child:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(_fuzz(item, folder))
        _, status = os.waitpid(child, 0)
        said.seek(0)
        words = said.read().decode(errors="replace")
    if status:
        pytest.fail(f"{item.name}:\n{words[-6000:]}", pytrace=False)
    return next((line for line in reversed(words.splitlines()) if " cov: " in line), "nothing was reached")


def _fuzz(item: pytest.Function, folder: str) -> int:
    """The exit status of the process that does it."""
    import atheris

    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # by which Atheris knows that a case takes too long
    try:
        for function in _functions():
            atheris.instrument_func(function)
        limits = [f"-max_total_time={SECONDS}", f"-max_len={_LONGEST}", "-len_control=0", f"-timeout={_STUCK}"]
        atheris.Setup([item.name, *limits, f"-artifact_prefix={folder}/"], _target(item))
        atheris.Fuzz()
    except SystemExit as end:
        return int(end.code or 0) % 256
    except BaseException:
        traceback.print_exc()
    return 1


def _target(item: pytest.Function) -> Callable[[bytes], object]:
    """One case from these bytes, with the fixtures that the fuzzer has."""
    fuzzer = item.obj.hypothesis
    fixtures = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}

    @cases()
    @given(**fuzzer._given_kwargs)
    def one(**drawn: Any) -> None:
        fuzzer.inner_test(**fixtures, **drawn)

    case: Callable[[bytes], object] = one.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
    return case


def _functions() -> Iterator[types.FunctionType]:
    """All that ``tasks`` defines, as far as it is loaded."""
    for name, module in sorted(sys.modules.items()):
        if name.startswith("tasks."):
            yield from _defined(module, name)


def _defined(holder: Any, module: str) -> Iterator[types.FunctionType]:
    for value in list(vars(holder).values()):
        plain = getattr(value, "__func__", getattr(value, "fget", getattr(value, "func", value)))
        if getattr(plain, "__module__", "") != module:
            continue
        if isinstance(plain, types.FunctionType) and Path(plain.__code__.co_filename).is_file():
            yield plain
        elif isinstance(plain, type):
            yield from _defined(plain, module)
