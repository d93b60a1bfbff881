"""Dockerfiles, ignore files, Compose's answers and env files of every kind: an answer or one sentence."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base import settings
from doit_images.core.base.errors import UserError
from doit_images.core.buildkit import bake, buildx
from doit_images.core.compose import project
from doit_images.core.compose.stack import services_of
from doit_images.core.inputs import dockerfile
from doit_images.core.inputs.ignorefile import IgnoreFile
from doit_images.core.inputs.reads import Reads
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from doit_images.stack import secrets
from tests.faults.fuzzing import cases, damaged, mutated, watched

WORDS = [
    "FROM", "from", "COPY", "ADD", "RUN", "ARG", "ENV", "ONBUILD", "USER", "SHELL", "AS", "scratch", "a", "b", "/", ".",
    "a.txt", "*", "?", "[a-", "[^a]", "**", "**/", "!", "--from=", "--from=a", "--from=0", "--from=-1", "--platform=",
    "--platform=$X", "--mount=", "--mount=type=bind,from=a,source=/x", '--mount="', "--exclude=", "--parents", "--link",
    "--checksum=", "$", "${", "${a", "${a:-", "${a:-${b}}", "${a%%*}", "${a//x/y}", "\\", "`", '"', "'", "<<E", "<<-E",
    "E", "<<", "#", "# syntax=x", "# escape=`", "# check=skip=all", "=", "a=b", "a=$a", "[", "]", '["a", "b"]', "{",
    "\ufeff", "\r", "\t", "\v", "\x00", "\x1b", "é", "https://x/y", "git@x:y#z", "https://x.git#a:b", "a@sha256:0", ":",
]  # fmt: skip
LINES = st.lists(st.lists(st.sampled_from(WORDS) | st.text(max_size=6), max_size=7).map(" ".join), max_size=12)
FILES = LINES.map(lambda lines: "\n".join(lines).encode(errors="replace")) | st.binary(max_size=200)
GOOD = b"""\
# syntax=docker/dockerfile:1
ARG VERSION=1
FROM --platform=$BUILDPLATFORM base:${VERSION} AS builder
COPY --from=other --chown=1:1 /x /y
RUN --mount=type=bind,source=a,target=/a --mount=type=cache,target=/c <<EOF
echo $VERSION
EOF
FROM builder
COPY ["a.txt", "d/*.txt", "/"]
ADD --checksum=sha256:0 https://example.org/x /x
ONBUILD COPY . /src
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fuzz")
    for name in ("a.txt", "a", "d/b.txt", "d/e/c", "é", "x y"):
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(name)
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY . /\n")
    (folder / "up").symlink_to("..")
    (folder / "circle").symlink_to("circle")
    (folder / ".doit-images").mkdir()
    return folder


@cases()
@given(FILES | damaged(GOOD), st.sampled_from(["", "builder", "0", "é"]), FILES)
def test_dockerfiles(root: Path, whole: bytes, target: str, ignore: bytes) -> None:
    text, ignored = (data.decode(errors="surrogateescape") for data in (whole, ignore))
    with watched(), contextlib.suppress(UserError):
        named = ("base", "docker.io/library/x::linux/arm64")
        read = dockerfile.reads(text, where="Dockerfile", target=target or None, args={"a": "${b}"}, named=named)
        assert Reads.from_json(read.to_json()) == read
        ours = [each for each in read.copies if not each.context]
        selection = select(View(Tree(root, FileIndex()), IgnoreFile(ignored)), ours, "Dockerfile")
        assert selection.digest
        assert {entry.path for entry in selection.entries()} >= set(selection.files())


RULES = [
    "*", "**", "**/", "/", "!", "a", "[", "]", "^", "-", "\\", ".", "..", "#", " ", "\t", "?", "d", "é", "\ufeff",
    "\x85", "a/b", "\x00", "\udcff",
]  # fmt: skip
PATTERNS = st.lists(st.lists(st.sampled_from(RULES), max_size=14).map("".join), max_size=12).map("\n".join)
NAMES = st.text("abd./*é\n\\[", min_size=1, max_size=60)


@cases()
@given(PATTERNS | st.text(max_size=100), NAMES)
def test_ignore_files(root: Path, text: str, path: str) -> None:
    with watched():
        ignore = IgnoreFile(text, root / ".dockerignore", ".doit-images")
        hidden = ignore.hides(path)
        assert ignore.hides(path) == hidden
        assert (ignore.hider(path) is not None) == hidden
        ignore.may_show_below(path)
        assert ignore.hides(".doit-images")


ANSWER = {
    "name": "shop",
    "services": {
        "base": {"image": "shop/base:1", "build": {"context": "ROOT", "dockerfile": "Dockerfile"}},
        "web": {
            "image": "shop/web",
            "platform": "linux/amd64",
            "depends_on": {"base": {"condition": "service_started"}},
            "ports": [{"target": 80, "published": "8080", "protocol": "tcp"}],
            "volumes": [{"type": "volume", "source": "data", "target": "/data"}],
            "deploy": {"replicas": 2},
            "develop": {"watch": [{"path": "ROOT", "action": "sync", "target": "/x", "ignore": ["a"]}]},
            "build": {
                "context": "ROOT",
                "dockerfile_inline": "FROM base\nCOPY a.txt /\n",
                "args": {"A": "1", "B": None},
                "additional_contexts": {"base": "service:base", "d": "ROOT/d", "i": "docker-image://x"},
                "secrets": [{"source": "token", "target": "t"}, "token"],
                "ssh": ["default=/x"],
                "platforms": ["linux/amd64", "linux/arm64"],
                "labels": {"a": "b"},
                "extra_hosts": ["a=1.2.3.4"],
                "ulimits": {"nofile": {"soft": 1, "hard": 2}, "nproc": 3},
                "tags": ["shop/web:2"],
                "cache_from": ["x"],
                "no_cache_filter": ["s"],
                "shm_size": "1000",
                "provenance": True,
            },
        },
    },
    "secrets": {"token": {"name": "token", "environment": "TOKEN"}},
    "networks": {"default": {"name": "shop_default"}},
}


def _rooted(value: object, root: Path) -> object:
    if isinstance(value, dict):
        return {key: _rooted(inner, root) for key, inner in value.items()}
    if isinstance(value, list):
        return [_rooted(inner, root) for inner in value]
    return value.replace("ROOT", str(root)) if isinstance(value, str) else value


@cases()
@given(mutated(ANSWER))
def test_answers_of_compose(root: Path, answer: object) -> None:
    with watched(root / ".doit-images"):
        with contextlib.suppress(UserError):
            known = project.resolved(_rooted(answer, root), (root / "compose.yml",), {})
            assert project._from_json(project._to_json(known)) == known
            resolved = InputResolver(known, root / ".doit-images", {}).resolve("linux/amd64", lambda ref, wanted: None)
            assert resolved.keys() == known.images.keys()
            sound = {name: each for name, each in resolved.items() if not each.problem}
            for each in sound.values():
                buildx.build_argv(each.image, parents={}, labels={}, iidfile="/x", environ={})
            bake.definition(resolved)
        with contextlib.suppress(UserError):
            services_of(_rooted(answer, root))


ENV = b"BUILD_JOBS=4\nexport CACHE_MAX_SIZE='10 GB'\n# x\nTOKEN=\"a\\\nb\"\nCACHE_REGISTRY=${X:-localhost:5000}\n"
SIGNS = ["=", "\n", "'", '"', "${", "}", "#", "export ", "\\", " ", "change-me", "1", "GB", "\x00", "\r"]
PIECES = st.lists(
    st.sampled_from([entry.upper() for entry in settings.Settings.__dataclass_fields__])
    | st.sampled_from(SIGNS)
    | st.text(max_size=5),
    max_size=20,
).map(lambda pieces: "".join(pieces).encode(errors="replace"))


@cases()
@given(PIECES | damaged(ENV) | st.binary(max_size=60), PIECES)
def test_env_files(root: Path, whole: bytes, example: bytes) -> None:
    (root / ".env").write_bytes(whole)
    (root / ".env.example").write_bytes(example)
    with watched():
        for ask in (settings.load, secrets.check):
            with contextlib.suppress(UserError):
                ask(root, {})
        secrets.needed(root)
        secrets.hider(root, {})
        secrets.filled(example.decode(errors="surrogateescape"))
        with contextlib.suppress(UserError):
            project.compose_files({}, root)
