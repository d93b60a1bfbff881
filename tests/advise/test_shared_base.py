"""The rule of the shared base, how the Compose file declares it, and what both leave alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from doit_images.advise import shared_base, whole
from doit_images.advise.compose_edit import Base, with_base
from doit_images.advise.patch import Patch
from doit_images.core.run import Run
from tests.advise import examples
from tests.advise.test_proof import advised
from tests.ci.test_release import git
from tests.conftest import Lab
from tests.conftest import examples as share

COMPOSE = """\
# The stack.
services:
  # who
  web:
    image: x/web:1  # named
    build: web

  api:
    image: x/api:1
    build:
      context: ./api   # here
      args: {}
    ports: ["1:1"]
"""
WEB = """\
# The web.
ARG PYTHON=python:3.13
FROM ${PYTHON} AS web

# tools
RUN apt-get install -y git
ENV A=1

# own
COPY . /app
CMD x
"""
API = "ARG PYTHON=python:3.13\nFROM $PYTHON\nRUN apt-get install -y git\nENV A=1\nRUN make\n"
FILES = {"compose.yml": COMPOSE, "web/Dockerfile": WEB, "api/Dockerfile": API, "web/a": "1\n"}
BASE = """\
# What api and web build on.
ARG PYTHON=python:3.13
FROM $PYTHON
RUN apt-get install -y git
ENV A=1
"""
AFTER = """\
# The stack.
services:
  base-python:
    image: x/base-python:1
    scale: 0
    network_mode: none
    build:
      context: .
      args: {}
      dockerfile: base-python.Dockerfile

  # who
  web:
    image: x/web:1  # named
    build:
      context: web
      additional_contexts:
        base-python: "service:base-python"

  api:
    image: x/api:1
    build:
      context: ./api   # here
      args: {}
      additional_contexts:
        base-python: "service:base-python"
    ports: ["1:1"]
"""


def proposed(folder: Path, files: dict[str, str]) -> list[tuple[list[str], Patch]]:
    return [([*names], patch) for names, patch in shared_base.patches(examples.whole(folder, files))]


def test_what_two_images_do_first_becomes_a_base(tmp_path: Path) -> None:
    (names, patch), *_ = proposed(tmp_path, FILES)
    assert (names, patch.line, patch.text) == (["api", "web"], 3, "FROM base-python\nRUN make\n")
    assert {path.relative_to(tmp_path).as_posix(): text for path, text in patch.others.items()} == {
        "base-python.Dockerfile": BASE,
        "compose.yml": AFTER,
        "web/Dockerfile": "# The web.\nFROM base-python AS web\n\n# own\nCOPY . /app\nCMD x\n",
    }


def test_compose_reads_the_same_but_for_the_base(tmp_path: Path) -> None:
    before = examples.whole(tmp_path, FILES)
    (_, patch), *_ = shared_base.patches(before)
    run = Run((tmp_path / "compose.yml",), {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}, tmp_path)
    after = {**before.texts, **patch.others}
    assert whole.reads_same(run.files, run.environ, before, after)
    lost = after | {tmp_path / "compose.yml": AFTER.replace('    ports: ["1:1"]\n', "")}
    assert not whole.reads_same(run.files, run.environ, before, lost)
    other = after | {tmp_path / "compose.yml": AFTER.replace("context: web", "context: api")}
    assert not whole.reads_same(run.files, run.environ, before, other)


def one_context(text: str, other: str) -> dict[str, str]:
    services = "\n".join(
        f"  {name}: {{image: x/{name}, build: {{context: ., dockerfile: {name}.Dockerfile}}}}" for name in ("a", "b")
    )
    held = {"lock": "1\n", "more": "1\n"}
    return {"compose.yml": f"services:\n{services}\n", "a.Dockerfile": text, "b.Dockerfile": other, **held}


START = "FROM python:3\nCOPY lock /\nRUN install\n"


def test_files_of_one_context_may_be_part_of_it(tmp_path: Path) -> None:
    (names, patch), *_ = proposed(tmp_path, one_context(f"{START}COPY more /\n", f"{START}RUN x\n"))
    assert names == ["a", "b"]
    assert patch.text == "FROM base-python\nCOPY more /\n"
    compose = patch.others[tmp_path / "compose.yml"]
    assert "    build: {context: ., dockerfile: base-python.Dockerfile}\n" in compose
    assert 'dockerfile: b.Dockerfile, additional_contexts: {base-python: "service:base-python"}}}\n' in compose


@pytest.mark.parametrize(
    ("copied", "ignore", "after"),
    [(".", "x\n", "x\nbase-python.Dockerfile\n"), (".", "*Dockerfile\n", None), ("more", "x\n", None)],
)
def test_no_image_copies_the_new_dockerfile(tmp_path: Path, copied: str, ignore: str, after: str | None) -> None:
    files = one_context(f"{START}COPY {copied} /a/\n", f"{START}RUN x\n") | {".dockerignore": ignore}
    (_, patch), *_ = proposed(tmp_path, files)
    assert patch.others.get(tmp_path / ".dockerignore") == after


def test_its_name_is_no_stage_of_theirs(tmp_path: Path) -> None:
    (_, patch), *_ = proposed(tmp_path, one_context(f"FROM x AS base-python\n{START}", f"{START}RUN x\n"))
    assert patch.text == "FROM x AS base-python\nFROM base-python-2\n"


def test_those_that_share_most_come_first(tmp_path: Path) -> None:
    files = one_context(f"{START}RUN two\nRUN own\n", f"{START}RUN two\n")
    files |= {"c.Dockerfile": f"{START}RUN three\n"}
    files["compose.yml"] += "  c: {image: x/c, build: {context: ., dockerfile: c.Dockerfile}}\n"
    assert [names for names, _ in proposed(tmp_path, files)][:2] == [["a", "b"], ["a", "b", "c"]]


@pytest.mark.parametrize(
    ("text", "other", "compose"),
    [
        (START, "FROM python:3\nCOPY lock /\nRUN other\n", ()),
        (START, START.replace("python:3", "python:4"), ()),
        (START, START.replace("/\n", "/x\n"), ()),
        ("FROM python:3\nENV A=1\nCMD x\n", "FROM python:3\nENV A=1\nCMD y\n", ()),
        ("FROM python:3\nARG A\nRUN x\n", "FROM python:3\nARG A\nRUN x\n", ()),
        ("FROM --platform=linux/amd64 python:3\nRUN x\n", "FROM --platform=linux/amd64 python:3\nRUN x\n", ()),
        ("FROM p AS o\nFROM python:3\nRUN --mount=type=bind,from=o,target=/o x\n",) * 2 + ((),),
        ("# escape=`\nFROM python:3\nRUN x\n", "# escape=`\nFROM python:3\nRUN x\n", ()),
        (START, START, ("dockerfile: b.D", "args: {A: 1}, dockerfile: b.D")),
        (START, START, ("dockerfile: b.D", "tags: [x/y], dockerfile: b.D")),
        (START, START, ("b.Dockerfile", "a.Dockerfile")),
        (START, START, ("build: {context: ., dockerfile: b", "build: &b {context: ., dockerfile: b")),
        (START, START, ("build: {context: ., dockerfile: a", "build: {network: host, context: ., dockerfile: a")),
    ],
)
def test_what_is_not_the_same_or_not_clear_stays(
    tmp_path: Path, text: str, other: str, compose: tuple[str, ...]
) -> None:
    files = one_context(text, other)
    if compose:
        files["compose.yml"] = files["compose.yml"].replace(*compose)
    assert proposed(tmp_path, files) == []


def test_files_of_two_contexts_are_no_part_of_it(tmp_path: Path) -> None:
    own = dict.fromkeys(("web/Dockerfile", "api/Dockerfile"), START)
    assert proposed(tmp_path, FILES | own | {"web/lock": "1\n", "api/lock": "1\n"}) == []


STYLES = """\
x-build: &b
  context: .
services:
    one:
        build: *b
    two: {build: {<<: *b, target: x }}
    three:
        build:
            <<: *b
            dockerfile: x
            additional_contexts:
                a: b  # kept
            args:
              - A=b
"""


def test_each_style_of_a_compose_file_is_kept() -> None:
    after = with_base(STYLES.replace("\n", "\r\n"), Base("base", "", "base.Dockerfile"), ["one", "two", "three"])
    assert after is not None
    assert after.count("\r\n") == after.count("\n")
    lines = [line for line in after.splitlines() if line not in STYLES.splitlines()]
    assert lines == [
        "    base:",
        "        scale: 0",
        "        network_mode: none",
        "            dockerfile: base.Dockerfile",
        '                base: "service:base"',
        '    two: {build: {<<: *b, target: x, additional_contexts: {base: "service:base"} }}',
        '                base: "service:base"',
    ]


TEXTS = st.text("ab #:-'\"{}[],&*!|>%@\\n", min_size=1, max_size=6)
BUILDS = st.one_of(
    st.just("web"),
    st.fixed_dictionaries(
        {"context": st.sampled_from([".", "./a b", "a#b"])},
        optional={
            "args": st.one_of(st.dictionaries(TEXTS, TEXTS, max_size=3), st.lists(TEXTS, max_size=3)),
            "target": st.just("x"),
            "secrets": st.lists(st.one_of(TEXTS, st.dictionaries(TEXTS, TEXTS, min_size=1)), max_size=2),
            "additional_contexts": st.dictionaries(TEXTS, TEXTS, min_size=1, max_size=2),
        },
    ),
)


@share(1)
@given(
    builds=st.lists(BUILDS, min_size=1, max_size=3),
    style=st.sampled_from([None, False]),
    indent=st.sampled_from([2, 4]),
    more=st.dictionaries(TEXTS, TEXTS, max_size=2),
)
def test_yaml_reads_what_was_there_and_the_base(
    builds: list[Any], style: Any, indent: int, more: dict[str, str]
) -> None:
    services = {f"s{at}": {"image": f"x/s{at}", "build": build, "x": more} for at, build in enumerate(builds)}
    text = yaml.safe_dump({"services": services, "x": more}, default_flow_style=style, indent=indent, sort_keys=False)
    after = with_base(text, Base("base", "", "b.Dockerfile"), [*services])
    if after is None:  # such a style is left alone
        return
    read = yaml.safe_load(after)
    base = read["services"].pop("base")
    first = {"context": builds[0]} if builds[0] == "web" else {**builds[0]}
    first.pop("target", None)
    assert base == {
        "image": "x/base",
        "scale": 0,
        "network_mode": "none",
        "build": {**first, "dockerfile": "b.Dockerfile"},
    }
    for service in services.values():
        build = service["build"] = {"context": "web"} if service["build"] == "web" else {**service["build"]}
        build["additional_contexts"] = {**build.get("additional_contexts", {}), "base": "service:base"}
    assert read == {"services": services, "x": more}


@pytest.mark.parametrize(
    "text",
    [
        "services: {web: {build: web}}\n",
        "services:\n  web:\n    build: &b web\n",
        "services:\n  web:\n    build: {context: web, additional_contexts: [a=b]}\n",
        "services:\n  web:\n    build: {context: web, labels: [a=b]}\n",
        "services:\n  web: {build: web}\n  base: {image: x}\n",
        "services:\n  other: {build: web}\n",
        "services: [\n",
        "",
    ],
)
def test_what_cannot_be_edited_for_sure_is_not(text: str) -> None:
    assert with_base(text, Base("base", "", "base.Dockerfile"), ["web"]) is None


@pytest.mark.engine
def test_the_images_are_proved_on_the_base_and_built_on_it(lab: Lab, busybox: str) -> None:
    start = "FROM tst-busybox:1\nRUN mkdir /made && touch /made/it\nENV A=1\nWORKDIR /app\n"
    lab.write(
        {
            "compose.yml": "services:\n  web:\n    image: PREFIX/web\n    build: web\n  api:\n    image: PREFIX/api\n"
            "    build: api\n",
            "web/Dockerfile": f"{start}COPY a ./\n",
            "api/Dockerfile": f"{start}RUN touch own\n",
            "web/a": "1\n",
        }
    )
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        git(lab.folder, *words)
    (found,) = advised(lab, "shared-base", "--apply")
    assert {name: each["verdict"] for name, each in found["proofs"].items()} == {"web": "same", "api": "same"}
    assert found["files"].keys() == {"base-tst-busybox.Dockerfile", "compose.yml", "web/Dockerfile", "api/Dockerfile"}
    assert (lab.folder / "web/Dockerfile").read_text() == "FROM base-tst-busybox\nCOPY a ./\n"
    assert lab.build() == {"base-tst-busybox": "built", "web": "built", "api": "built"}
    assert advised(lab, "shared-base", "--prove") == []
