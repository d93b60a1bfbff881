"""The parser of BuildKit's progress, on output captured from real builds (``tests/buildkit``) and on damage to it."""

from __future__ import annotations

import json
import subprocess
from base64 import b64encode
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base.formatting import clean, size_text
from doit_images.core.buildkit.progress import Progress
from tests.conftest import ROOT

CAPTURED = ROOT / "tests/buildkit"
COLD = (CAPTURED / "cold.rawjson").read_bytes()
FAIL = (CAPTURED / "fail.rawjson").read_bytes()


def parsed(data: bytes) -> tuple[Progress, list[str]]:
    progress = Progress()
    changes = [*progress.feed(data), *progress.finish()]
    return progress, [change.line for change in changes]


def objects(data: bytes) -> list[bytes]:
    """The captured stream cut between its objects."""
    return [b"{" + part.rstrip() for part in b"\n".join([b"", data]).split(b"\n{")[1:]]


def outcome(progress: Progress) -> object:
    steps = [(s.digest, s.name, s.stage, s.number, s.cached, s.error, s.spans) for s in progress.steps]
    return steps, progress.summary(), progress.tail, [progress.log_lines(s) for s in progress.steps]


def test_a_cold_build_is_understood() -> None:
    progress, lines = parsed(COLD)
    summary = progress.summary()
    assert (summary.total, summary.cached, summary.executed, summary.done) == (5, 0, 5, 5)
    install = next(step for step in progress.steps if step.number == 4)
    assert install.label.startswith("builder 4/4 RUN echo installing && sleep 2")
    assert (install.stage, install.total, install.instruction, install.cached) == ("builder", 4, "RUN", False)
    assert 2.0 < install.seconds < 2.5
    assert progress.log_lines(install) == ["installing", "c", "done"]  # a\rb\rc: what a terminal would show
    assert progress.current() is None
    assert progress.failed() is None
    assert (progress.lost, progress.tail) == (0, "")
    assert "#8 2.131 done" in lines
    assert "#11 exporting layers done" in lines


def test_what_began_is_told_from_what_buildkit_only_looked_for() -> None:
    def vertex(name: str, *inputs: str, cached: bool = False) -> dict[str, object]:
        at = "2026-12-01T09:08:07.1Z"
        return {"digest": name, "name": name, "inputs": inputs, "started": at, "completed": at, "cached": cached}

    looked, copied = vertex("[a 1/2] WORKDIR /x"), vertex("[a 2/2] COPY f /x", "[a 1/2] WORKDIR /x", cached=True)
    for vertexes, begun in (
        ([looked, copied], []),
        ([looked], ["[a 1/2] WORKDIR /x"]),
        ([looked, vertex("[a 2/2] COPY f /x", "[a 1/2] WORKDIR /x")], ["[a 2/2] COPY f /x"]),
    ):
        progress, _ = parsed(json.dumps({"vertexes": vertexes}).encode() + b"\n")
        assert [step.name for step in progress.begun()] == begun
    assert [step.number for step in parsed(COLD)[0].begun()] == [2, 3, 4, 2, 3]
    assert parsed((CAPTURED / "warm.rawjson").read_bytes())[0].begun() == []


def test_a_warm_build_is_all_cached() -> None:
    progress, lines = parsed((CAPTURED / "warm.rawjson").read_bytes())
    summary = progress.summary()
    assert (summary.cached, summary.executed) == (5, 0)
    assert sum(line.endswith(" CACHED") for line in lines) == 5
    assert {progress.reason(step) for step in progress.steps} == {""}


def test_a_failed_step_is_found_with_its_output_and_the_text_after_the_json() -> None:
    progress, _ = parsed(FAIL)
    step = progress.failed()
    assert step is not None
    assert step.error.endswith("did not complete successfully: exit code: 3")
    assert progress.log_lines(step) == ["one", "two", "cat: /nonexistent: No such file or directory"]
    assert progress.tail.startswith("Fail.Dockerfile:3\n----")
    assert progress.tail.splitlines()[-1].startswith("ERROR: failed to solve: process")


def test_why_a_step_was_executed() -> None:
    progress, _ = parsed(COLD)
    reasons = {f"{step.stage} {step.number}": progress.reason(step) for step in progress.steps if step.number}
    assert reasons["builder 4"] == "follows builder 3/4 COPY requirements.txt ."
    assert reasons["builder 2"].startswith("new here")
    assert reasons["builder 1"] == ""  # FROM is no work
    missing, _ = parsed((CAPTURED / "missing.rawjson").read_bytes())
    failed = missing.failed()
    assert failed is not None
    assert missing.reason(failed) == "its files or its base changed"


def test_a_label_leaves_out_what_is_only_mounted() -> None:
    name = "[builder 1/2] RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=ca pip install x"
    step = parsed(json.dumps({"vertexes": [{"digest": "d", "name": name}]}).encode())[0].steps[0]
    assert step.label == "builder 1/2 RUN pip install x"


def test_a_stage_of_ten_steps_has_its_name_without_the_space_before_the_number() -> None:
    step = parsed(json.dumps({"vertexes": [{"digest": "d", "name": "[builder  2/10] RUN x"}]}).encode())[0].steps[0]
    assert (step.stage, step.number, step.total) == ("builder", 2, 10)


def test_the_current_step_is_the_instruction_that_runs() -> None:
    whole = objects(COLD)
    at = next(i for i, part in enumerate(whole) if b"aW5zdGFsbGluZwo=" in part)
    progress = Progress()
    progress.feed(b"\n".join(whole[: at + 1]) + b"\n")
    step = progress.current()
    assert step is not None
    assert step.number == 4
    assert step.running


def test_compact_objects_on_one_line() -> None:
    compact = b"".join(json.dumps(json.loads(part)).encode() for part in objects(COLD))
    spread = b"\n".join(json.dumps(json.loads(part)).encode() for part in objects(COLD))
    assert outcome(parsed(compact)[0]) == outcome(parsed(spread)[0]) == outcome(parsed(COLD)[0])


def test_thousands_of_objects_on_one_line() -> None:
    vertex = json.dumps({"vertexes": [{"digest": "d", "name": "x"}]}).encode()
    progress, _ = parsed(b"{} " * 5000 + vertex + b" more")
    assert ([step.name for step in progress.steps], progress.tail, progress.lost) == (["x"], "more", 0)


def test_warnings_and_transfers() -> None:
    short = b64encode(b"FromAsCasing: 'as' and 'FROM' do not match").decode()
    message = {
        "vertexes": [{"digest": "d", "name": "[1/2] FROM x", "started": "2026-01-01T00:00:00Z"}],
        "statuses": [{"id": "sha256:1", "vertex": "d", "name": "downloading", "current": 30, "total": 90}],
        "warnings": [{"vertex": "d", "level": 1, "short": short}],
    }
    progress, lines = parsed(json.dumps(message).encode())
    assert progress.transfer(progress.steps[0]) == (30, 90)
    assert "WARN: FromAsCasing: 'as' and 'FROM' do not match" in lines


def test_several_platforms_are_stages_of_their_own() -> None:
    names = ["[linux/arm64 builder 2/3] RUN x", "[2/2] COPY a b", "[auth] x/y:pull token", "exporting to image"]
    message = {"vertexes": [{"digest": name, "name": name} for name in names]}
    steps = parsed(json.dumps(message).encode())[0].steps
    assert [(s.stage, s.number, s.exporting) for s in steps] == [
        ("linux/arm64 builder", 2, False),
        ("", 2, False),
        ("", 0, False),
        ("", 0, True),
    ]


def test_terminal_escapes_of_a_build_do_not_reach_the_terminal() -> None:
    assert clean("\x1b[31mred\x1b[0m \x1b]0;title\x07x\x9b2J\x00") == "red x2J"


@given(st.lists(st.integers(1, 400), min_size=1, max_size=60))
def test_it_does_not_matter_how_the_stream_is_cut(sizes: list[int]) -> None:
    progress = Progress()
    position = 0
    for size in sizes:
        progress.feed(FAIL[position : position + size])
        position += size
    progress.feed(FAIL[position:])
    progress.finish()
    assert outcome(progress) == outcome(parsed(FAIL)[0])


@given(st.integers(0, len(COLD)))
def test_a_truncated_stream_keeps_every_whole_step(end: int) -> None:
    progress, _ = parsed(COLD[:end])
    whole = Progress()
    for part in objects(COLD):
        if COLD.find(part) + len(part) <= end:
            whole.feed(part + b"\n")
    known = {step.digest: step for step in progress.steps}
    for step in whole.steps:
        assert known[step.digest].name == step.name
        assert known[step.digest].completed == step.completed


NOISE = st.one_of(
    st.sampled_from(
        [
            b"WARNING: the command line says something",
            b'{"unknown": [1, {"deep": {}}]}',
            b'{"vertexes": 3, "statuses": {"a": 1}, "logs": [null, 7, {}], "warnings": "x"}',
            b'{"vertexes": [{"digest": 5}, {"digest": "", "name": []}, {"digest": "q", "started": "yesterday"}]}',
            b'{"logs": [{"vertex": "q", "data": "!!!"}], "statuses": [{"vertex": "q", "id": 9}]}',
            b'{\n  "vertexes": [\n    {\n      "digest": "sha256:cut',
            b'{"vertexes": [{"digest": "z", "started": "0001-01-01T00:00:00Z", "completed": "9999-12-31T23:59:59Z"}]}',
            b"[" * 3000,
            b'{"vertexes":' + b"[" * 3000,
            b"{",
            b"}",
            b"\xff\xfe{\x00}",
        ]
    ),
    st.binary(max_size=60),
)


@given(st.lists(st.tuples(st.integers(0, 80), NOISE), max_size=12))
def test_noise_between_objects_never_raises_and_never_loses_a_step(noise: list[tuple[int, bytes]]) -> None:
    parts = objects(FAIL)
    for position, junk in sorted(noise, key=lambda item: -item[0]):
        parts.insert(min(position, len(parts)), junk)
    progress, _ = parsed(b"\n".join(parts))
    known = {step.digest: step for step in progress.steps}
    for step in parsed(FAIL)[0].steps:
        assert known[step.digest].name == step.name
        assert known[step.digest].error == step.error
    failed = progress.failed()
    assert failed is not None
    assert progress.log_lines(failed)[:2] == ["one", "two"]
    assert "ERROR: failed to solve: process" in progress.tail


@given(st.binary(max_size=2000))
def test_any_bytes_are_survived(data: bytes) -> None:
    parsed(data)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)
    )
)
def test_any_json_under_the_known_keys_is_survived(value: object) -> None:
    keys = ("vertexes", "statuses", "logs", "warnings")
    fields = ("digest", "vertex", "name", "id", "started", "completed", "data", "short", "current", "total", "inputs")
    for key in keys:
        parsed(json.dumps({key: value}).encode())
        parsed(json.dumps({key: [dict.fromkeys(fields, value) | {"digest": "d", "vertex": "d"}]}).encode())


def test_text_amid_a_pretty_object_is_text_and_the_object_is_kept() -> None:
    part = objects(FAIL)[0].split(b"\n")
    part.insert(3, b"WARNING: between")
    progress, _ = parsed(b"\n".join(part))
    assert [step.name for step in progress.steps] == ["[internal] load build definition from Fail.Dockerfile"]
    assert progress.tail == "WARNING: between"


def test_sizes() -> None:
    assert [size_text(n) for n in (0, 45, 1500, 231_000_000, 5e9)] == ["0B", "45B", "1.5kB", "231MB", "5GB"]


@pytest.mark.engine
def test_the_installed_buildx_is_understood(tmp_path: Path) -> None:
    """A real build of nothing but a file, through the real command line."""
    (tmp_path / "Dockerfile").write_text("FROM scratch AS one\nCOPY a /a\nFROM scratch\nCOPY --from=one /a /b\n")
    (tmp_path / "a").write_text("content")
    argv = ["docker", "buildx", "build", "--progress=rawjson", "--no-cache", "--output=type=cacheonly", str(tmp_path)]
    run = subprocess.run(argv, capture_output=True, check=True)
    progress, _ = parsed(run.stderr)
    assert (progress.summary().total, progress.summary().executed) == (2, 2)
    assert progress.lost == 0
