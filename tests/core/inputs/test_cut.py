"""Does a Dockerfile end just before the RUN that BuildKit told of, and hold all that came before it?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.compose.image import Image
from doit_images.core.inputs.cut import UNSET, Cut, Place, before
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.instructions import parse
from doit_images.core.inputs.syntax import FRONTENDS

TRIGGERS = ["COPY . /src", "WORKDIR /", "RUN make", "RUN make", "RUN make install"]
CONFIG = {"Env": ["PATH=/bin", 'A=$b "`', "B=1\n2"], "User": "app", "WorkingDir": "/src", "Shell": ["/bin/sh", "-ec"]}


def cut(text: str, place: Place, **image: Any) -> Cut | None:
    made = Image(name="app", ref="app:1", context="/ctx", dockerfile="Dockerfile", **image)
    inputs = ImageInputs(made, Path("/ctx"), dockerfile_text=text, platforms=("linux/amd64",))
    return before(inputs, place, lambda origin, platform: TRIGGERS if origin == "up" else (), lambda *_: CONFIG)


def text_of(found: Cut | None) -> str:
    assert found
    return found.text


FILE = """\
# escape=`
ARG V=1
FROM up AS one
ARG W `
    X=2
RUN one
FROM one AS two
ONBUILD RUN a
ONBUILD RUN b
COPY x /
FROM two
FROM scratch AS last
COPY y /
RUN last
"""


@pytest.mark.parametrize(
    ("place", "above", "shown"),
    [
        (Place("one", 9, line=6), 5, "RUN one"),
        (Place("one", 5), 5, "RUN one"),  # where BuildKit points at no line
        (Place("linux/amd64->arm64 last", 2), 13, "RUN last"),
        (Place("last", 2, line=1), 13, "RUN last"),
    ],
)
def test_it_ends_before_the_run(place: Place, above: int, shown: str) -> None:
    found = cut(FILE, place)
    assert found
    assert found.text.split("\n") == FILE.split("\n")[:above]
    assert found.shown == shown
    assert found.arguments == ("V", "W", "X")
    assert found.keeping(["V", "X"]).splitlines()[-1] == f'ENV V="${{V-{UNSET}}}" X="${{X-{UNSET}}}"'


@pytest.mark.parametrize(("rank", "line"), [(0, 0), (1, 0), (6, 0), (7, 3)])
def test_what_is_no_run_is_not_found(rank: int, line: int) -> None:
    assert cut(FILE, Place("one", rank, line)) is None
    assert cut(FILE, Place("nowhere", 2, line)) is None


def test_a_trigger_runs_behind_those_before_it_on_its_base_without_any() -> None:
    on_image = text_of(cut(FILE, Place("one", 3, line=1))).splitlines()
    assert on_image[:2] == ["# escape=`", "ARG V=1"]
    assert on_image[2:4] == ["FROM scratch", "COPY --from=up / /"]
    assert on_image[4:9] == [
        'ENV PATH="/bin"',
        'ENV A="`$b `"``"',
        'USER "app"',
        'WORKDIR "/src"',
        'SHELL ["/bin/sh", "-ec"]',
    ]
    assert on_image[9:] == TRIGGERS[:3]  # of two that are the same the second
    on_stage = text_of(cut(FILE, Place("", 2, line=1, nameless=True))).splitlines()
    assert on_stage[10:] == ["FROM one", "COPY x /", "RUN a"]


STATEMENTS = (
    "RUN one \\\n  # in between\n\n  two",
    "RUN <<A cat <<-B\nRUN no\nA\n\tFROM no\n\tB",
    "COPY <<E /x\nRUN no\nE",
    'RUN ["/bin/sh", "-c", "true"]',
    "# RUN no",
    "ONBUILD RUN <<E\nFROM no\nE",
    "FROM scratch AS s",
    "ENV A=\\\nRUN",
    "",
)


@given(st.lists(st.sampled_from(STATEMENTS)))
def test_nothing_else_changes(statements: list[str]) -> None:
    text = "\n".join(["FROM scratch", *statements, ""])
    every = parse(text, "Dockerfile", FRONTENDS[-1]).instructions
    for number, each in enumerate(every):
        if each.name == "RUN" and not each.trigger:
            found = cut(text, Place("", 0, line=each.line))
            assert found
            assert found.instruction == each
            assert parse(found.text, "Dockerfile", FRONTENDS[-1]).instructions == every[:number]
