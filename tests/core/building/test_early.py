"""What an image can do before its parents are built: which stages, and that a worker who would be idle does it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project
from doit_images.core.inputs.dockerfile import reads
from doit_images.core.inputs.resolver import InputResolver
from tests.conftest import Lab, docker, printed
from tests.waiting import patience

STAGED = """
FROM debian AS tools
FROM tools AS builder
RUN --mount=from=wheels cp /x /y
FROM base AS service
COPY --from=builder /y /y
FROM service AS test
COPY --from=pytest /z /z
FROM service
"""


def test_what_each_stage_reaches() -> None:
    found = reads(STAGED, where="Dockerfile", named=["base", "wheels"])
    assert found.stages == {
        "tools": ("debian",),
        "builder": ("debian", "tools", "wheels"),
        "service": ("base", "builder", "debian", "tools", "wheels"),
    }


@pytest.mark.parametrize(
    ("contexts", "early"),
    [
        ({"base": "service:base"}, ("builder",)),
        ({"base": "service:base", "wheels": "service:base"}, ("tools",)),
        ({"base": "docker-image://base:1"}, ()),  # it waits for nobody
    ],
)
def test_the_stages_that_need_no_other_image(tmp_path: Path, contexts: dict[str, str], early: tuple[str, ...]) -> None:
    (tmp_path / "app").mkdir()
    (tmp_path / "app/Dockerfile").write_text(STAGED)
    (tmp_path / "base").mkdir()
    (tmp_path / "base/Dockerfile").write_text("FROM scratch\n")
    images = {
        "base": image(tmp_path, "base"),
        "app": image(tmp_path, "app", contexts={"wheels": "docker-image://wheels:1", **contexts}),
    }
    project = Project("x", tmp_path, (tmp_path / "compose.yml",), images)
    assert (
        InputResolver(project, tmp_path / ".doit-images").resolve("linux/amd64", lambda ref, some: None)["app"].early
        == early
    )


def image(folder: Path, name: str, **more: Any) -> Image:
    context = folder / name
    return Image(name=name, ref=f"x/{name}:1", context=str(context), dockerfile=str(context / "Dockerfile"), **more)


PROJECT = {
    "compose.yml": """
        name: PREFIX
        services:
          base: {image: PREFIX/base, build: {context: base}, scale: 0}
          app:
            image: PREFIX/app
            build: {context: app, additional_contexts: {base: "service:base"}}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nRUN sleep 3; date +%s > /base-PREFIX\n",
    "app/Dockerfile": """\
FROM tst-busybox:1 AS tools
RUN echo PREFIX; date +%s > /tools

FROM base
COPY --from=tools /tools /tools
""",
}


def moments(lab: Lab, workers: int) -> tuple[int, int]:
    """Build the project; when the child's early stage ran, and when its parent's last step did."""
    lab.environ["BUILD_JOBS"] = str(workers)
    lab.write({name: text.replace("sleep 3", f"sleep {patience(3):.0f}") for name, text in PROJECT.items()})
    assert lab.build() == {"base": "built", "app": "built"}
    tools, base = printed(lab.ref("app"), "sh", "-c", "cat /tools /base*").split()
    return int(tools), int(base)


@pytest.mark.engine
def test_a_stage_that_needs_no_parent_is_built_while_the_parent_is(lab: Lab, busybox: str) -> None:
    tools, base = moments(lab, workers=2)
    assert tools < base
    assert lab.actions() == {"base": "fresh", "app": "fresh"}


@pytest.mark.engine
def test_one_worker_builds_one_thing_after_the_other(lab: Lab, busybox: str) -> None:
    tools, base = moments(lab, workers=1)
    assert tools >= base


@pytest.mark.engine
def test_an_early_stage_that_fails_is_told_once_and_by_its_image(lab: Lab, busybox: str) -> None:
    lab.write({**PROJECT, "app/Dockerfile": PROJECT["app/Dockerfile"].replace("date", "nosuchprogram")})
    lab.environ["BUILD_JOBS"] = "2"
    done = lab.doit("build_optimized")
    assert done.returncode != 0
    assert done.stderr.count("failed app:") == 1
    assert "built base" in done.stderr
    assert "1 built, 1 failed (app)" in done.stderr


@pytest.mark.engine
def test_images_that_share_a_stage_make_it_once_beside_a_build_on_the_same_base(lab: Lab, busybox: str) -> None:
    """BuildKit that reads a base for the first time in several builds at once makes it twice (moby/buildkit#6954)."""
    # A base that this engine never read: the stages on it cannot be in its cache.
    (lab.folder / "new").mkdir()
    new = f"{lab.prefix}/new:1"
    (lab.folder / "new/Dockerfile").write_text(f"FROM {busybox}\nRUN echo {lab.prefix} > /new\n")
    docker("build", "--quiet", "--tag", new, str(lab.folder / "new"))
    shared = f"FROM {new} AS shared\nRUN sleep 1; head -c 9 /dev/urandom > /shared\n"
    copied = "COPY --from=shared /shared /shared\n"
    lab.write(
        {
            "compose.yml": """
                name: PREFIX
                services:
                  long: {image: PREFIX/long, build: {context: long}}
                  base: {image: PREFIX/base, build: {context: base}}
                  app: {image: PREFIX/app, build: {context: app, additional_contexts: {base: "service:base"}}}
                """,
            "long/Dockerfile": f"FROM {new}\nRUN sleep 6\n",
            "base/Dockerfile": f"{shared}FROM tst-busybox:1\n{copied}",
            "app/Dockerfile": f"{shared}FROM base\nCOPY --from=shared /shared /again\n",
        }
    )
    lab.environ["BUILD_JOBS"] = "2"
    assert lab.build() == {"long": "built", "base": "built", "app": "built"}
    assert docker("run", "--rm", lab.ref("app"), "cmp", "/shared", "/again").returncode == 0
