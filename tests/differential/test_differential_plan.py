"""BuildKit judges whole plans: what it would make anew, ``doit plan`` must not call fresh.

Projects with parents, arguments, targets, ignore files, named contexts and bases from outside are built once. Then each
path and each setting is changed, in a copy at a new place: the plan is asked through the ``Run``, and BuildKit
builds the same images from a bake file that this module writes by itself. Where it runs a step of an image or gives
another configuration, that image must be stale. Where it finds everything in its cache, the image must be fresh or
only be named anew, but for the needless builds that ``docs/staleness.md`` lists.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import textwrap
import uuid
from collections.abc import Callable, Iterator, Mapping, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from doit_images.core.engine import plugins
from doit_images.core.engine.client import Engine
from doit_images.core.run import Run
from tests.conftest import Lab, docker
from tests.differential import buildkit, mutations
from tests.differential.mutations import Mutation
from tests.differential.still import Still

pytestmark = pytest.mark.engine

_STEP = re.compile(r"\[ *(?:(?P<image>[a-z]+) +)?(?:\S+ +)?[0-9]+/[0-9]+\] (?!FROM )")


@dataclass(frozen=True)
class Case:
    """A project: its ``files``; ``edges`` are parents that only a Dockerfile names, by image and reference; ``edits``
    are changes of settings, as a file, an old and a new text; ``needless`` are the changes after which we build
    although BuildKit would not, with the number of the reason in ``docs/staleness.md``."""

    name: str
    files: Mapping[str, str]
    edges: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    edits: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    needless: Mapping[str, int] = field(default_factory=dict)


CASES = [
    Case(
        "parents by context, by name and by tag",
        {
            "compose.yml": """
                name: PREFIX
                services:
                  base:
                    image: PREFIX/base
                    build: {context: base, args: {LEVEL: "${LEVEL:-1}", NOBODY: "1"}, tags: ["PREFIX/base:1.0"]}
                  app:
                    image: PREFIX/app
                    build: {context: app, target: run, additional_contexts: {under: "service:base"}}
                  tool: {image: PREFIX/tool, build: {context: tool, labels: {of: tests}}}
                """,
            ".env": "UNUSED=1\nSPARE=1\n",
            "base/Dockerfile": "FROM scratch\nARG LEVEL\nENV LEVEL=$LEVEL\nCOPY f /PREFIX/base/\n",
            "base/f": "f",
            "base/nobody": "",
            "app/Dockerfile": """
                FROM under AS first
                COPY one /PREFIX/app/one
                FROM scratch AS aside
                COPY two /PREFIX/app/two
                FROM first AS run
                COPY d /PREFIX/app/d
                FROM aside AS last
                COPY three /PREFIX/app/three
                """,
            "app/one": "1",
            "app/two": "2",
            "app/three": "3",
            "app/d/x": "x",
            "tool/Dockerfile": "FROM scratch\nCOPY --from=PREFIX/base:1.0 /PREFIX/base/f /PREFIX/tool/\n",
            "tool/nobody": "",
        },
        edges={"tool": {"PREFIX/base:1.0": "base"}},
        edits={
            "an argument that is used": ("compose.yml", '"${LEVEL:-1}"', '"2"'),
            "an argument that nobody declares": ("compose.yml", 'NOBODY: "1"', 'NOBODY: "2"'),
            "a variable of .env that is used": (".env", "SPARE=1", "LEVEL=3"),
            "a variable of .env that is not": (".env", "UNUSED=1", "UNUSED=2"),
            "another target": ("compose.yml", "target: run", "target: last"),
            "an equal target": ("compose.yml", "target: run", "target: RUN"),
            "a label": ("compose.yml", "of: tests", "of: others"),
            "one more tag": ("compose.yml", '["PREFIX/base:1.0"]', '["PREFIX/base:1.0", "PREFIX/base:2"]'),
        },
        needless={"an equal target": 10},
    ),
    Case(
        "ignore files, named folders and a Dockerfile elsewhere",
        {
            "compose.yml": """
                name: PREFIX
                services:
                  whole:
                    image: PREFIX/whole
                    build: {context: ., dockerfile: docker/whole.Dockerfile}
                  part:
                    image: PREFIX/part
                    build: {context: src, dockerfile: ../docker/part.Dockerfile, additional_contexts: {data: data}}
                """,
            "docker/whole.Dockerfile": "FROM scratch\nCOPY . /PREFIX/whole/\n",
            "docker/whole.Dockerfile.dockerignore": "*\n!src\nsrc/*.md\n",
            "docker/part.Dockerfile": """
                FROM scratch
                COPY *.txt /PREFIX/part/
                COPY --from=data . /PREFIX/data/
                """,
            ".dockerignore": "nobody reads this\n",
            "src/.dockerignore": "b.*\n",
            "src/a.txt": "a",
            "src/b.txt": "b",
            "src/c.md": "c",
            "data/.dockerignore": "hidden\n!hidden/but\n",
            "data/x": "x",
            "data/hidden/y": "y",
            "data/hidden/but": "but",
        },
        edits={
            "a rule that hides nothing more": ("src/.dockerignore", "b.*", "b.*\nnothing"),
            "a rule that hides a source": ("docker/whole.Dockerfile.dockerignore", "src/*.md", "src/a*\nsrc/*.md"),
            "an ignore file that is not in force": (".dockerignore", "nobody", "somebody"),
        },
        needless={"a rule that hides nothing more": 1},
    ),
    Case(
        "a base from outside, inline",
        {
            "compose.yml": """
                name: PREFIX
                services:
                  plain:
                    image: PREFIX/plain
                    build: {context: ctx, dockerfile_inline: "FROM OUTSIDE\\nCOPY f /PREFIX/plain/\\n"}
                  mounts: {image: PREFIX/mounts, build: ctx}
                """,
            "ctx/Dockerfile": """
                FROM BUSYBOX
                RUN --mount=type=bind,source=d,target=/d cat /d/x && echo /PREFIX/
                COPY --from=OUTSIDE /f /PREFIX/mounts
                """,
            "ctx/d/x": "x",
            "ctx/f": "f",
            "ctx/nobody": "",
        },
        edits={"an instruction that sets no file": ("ctx/Dockerfile", "COPY --from", "ENV A=b\nCOPY --from")},
    ),
]


class Court:
    """A project that was built, and the two who are asked about what became of it."""

    def __init__(self, case: Case, lab: Lab, busybox: str) -> None:
        self.case = case
        self.lab = lab
        self.outside = f"{lab.prefix}/outside:1"
        self.words = {"PREFIX": lab.prefix, "OUTSIDE": self.outside, "BUSYBOX": busybox}
        self.first = lab.folder / "first"
        for name, text in case.files.items():
            path = self.first / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(self.named(textwrap.dedent(text)))
        lab.environ["COMPOSE_FILE"] = str(self.first / "compose.yml")

    def named(self, text: str) -> str:
        for word, name in self.words.items():
            text = text.replace(word, name)
        return text

    def copy(self, *changes: Mutation, paths: str = "") -> Path:
        """The project as it was, but for ``changes``; the paths in its images end in ``paths``, so that no step of it
        is in any cache."""
        place = self.lab.folder / uuid.uuid4().hex
        shutil.copytree(self.first, place, symlinks=True, ignore=shutil.ignore_patterns(".doit-images"))
        for name in self.case.files if paths else ():
            text = (place / name).read_text()
            (place / name).write_text(text.replace(f"/{self.lab.prefix}/", f"/{self.lab.prefix}{paths}/"))
        for change in changes:
            try:
                change.apply(place)
            except FileNotFoundError:  # another change took it away
                continue
        return place

    def changes(self) -> Iterator[Mutation]:
        """Every path in every way, and every setting."""
        for one in mutations.all_of(self.copy()):
            if Path(one.path).name not in ("compose.yml", ".env", ""):
                yield one
        for name, (path, old, new) in self.case.edits.items():
            yield Mutation(name, "", self._edit(path, self.named(old), self.named(new)))

    @staticmethod
    def _edit(path: str, old: str, new: str) -> Callable[[Path], None]:
        def apply(root: Path) -> None:
            text = (root / path).read_text()
            assert old in text, f"{path} does not hold {old!r}: each edit needs a place of its own"
            (root / path).write_text(text.replace(old, new))

        return apply

    def plan(self, place: Path, engine: Engine | None = None) -> dict[str, str]:
        """What `doit plan` says of each image, with what this engine holds."""
        run = Run((place / "compose.yml",), dict(os.environ))
        run.engine = engine or Engine()
        return {name: one.action for name, one in run.planner.decisions().items()}

    def verdict(self, place: Path) -> dict[str, str]:
        """What BuildKit makes of each image: its configuration, and whether a step of it ran; or `broken`."""
        definition = json.dumps(self._bake(place))
        metadata = place / ".metadata.json"
        argv = ["docker", "buildx", "bake", "--builder=default", "--progress=rawjson", "--provenance=false", "--file=-"]
        argv += [f"--metadata-file={metadata}"]
        argv, env = plugins.direct(argv), {**os.environ, **buildkit.UNTRACED}
        done = subprocess.run(argv, input=definition.encode(), capture_output=True, check=False, cwd=place, env=env)
        if done.returncode:
            return dict.fromkeys(self._services(place), "broken")
        found = json.loads(metadata.read_text())
        # The next verdict takes the name away, and the image would be left behind without one.
        self.lab.nameless |= {found[name]["containerimage.config.digest"] for name in self._services(place)}
        steps = map(_STEP.match, buildkit.what_ran(done.stderr)[0])
        ran = {step["image"] for step in steps if step}
        return {
            name: f"{found[name]['containerimage.config.digest']} {'ran' if name in ran else ''}"
            for name in self._services(place)
        }

    def anew(self, same: Mapping[str, str], *changes: Mutation, expected: Set[str] = frozenset()) -> set[str]:
        """The images that BuildKit makes anew after ``changes``, where ``same`` is its verdict without them.

        It repeats what it has, now and then, while others build on the same base (moby/buildkit#6954): an image that
        is not ``expected`` counts if it is made anew once more, with paths in it that no cache has.
        """
        verdict = self.verdict(self.copy(*changes))
        found = {name for name, what in verdict.items() if what != same[name]}
        if found <= expected:
            return found
        paths = uuid.uuid4().hex[:8]
        self.verdict(self.copy(paths=paths))
        once_more = self.verdict(self.copy(paths=paths))
        verdict = self.verdict(self.copy(*changes, paths=paths))
        return {name for name in found if name in expected or verdict[name] != once_more[name]}

    def _services(self, place: Path) -> dict[str, Any]:
        text = (place / "compose.yml").read_text()
        level = (
            next(iter(re.findall(r"^LEVEL=(.*)$", (place / ".env").read_text(), re.M)), "1")
            if ".env" in self.case.files
            else ""
        )
        services: dict[str, Any] = yaml.safe_load(text.replace("${LEVEL:-1}", level))["services"]
        return services

    def _bake(self, place: Path) -> dict[str, Any]:
        targets = {}
        for name, service in self._services(place).items():
            said = service["build"]
            build: dict[str, Any] = {"context": said} if isinstance(said, str) else said
            contexts = {
                key: value.replace("service:", "target:") if value.startswith("service:") else str(place / value)
                for key, value in build.get("additional_contexts", {}).items()
            }
            contexts |= {self.named(ref): f"target:{parent}" for ref, parent in self.case.edges.get(name, {}).items()}
            context = place / build["context"]
            targets[name] = {
                "context": str(context),
                **({"dockerfile-inline": build["dockerfile_inline"]} if "dockerfile_inline" in build else {}),
                **({"dockerfile": str(context / build["dockerfile"])} if "dockerfile" in build else {}),
                **({"target": build["target"]} if "target" in build else {}),
                "args": build.get("args", {}),
                "labels": build.get("labels", {}),
                "contexts": contexts,
                "tags": [f"{self.lab.prefix}/judge:{name}"],
                "output": ["type=docker"],
            }
        return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _import(ref: str, folder: Path) -> None:
    archive = subprocess.run(["tar", "-C", str(folder), "-c", "f"], check=True, capture_output=True).stdout
    assert docker("import", "-", ref, stdin=archive).returncode == 0


@pytest.fixture
def court(request: pytest.FixtureRequest, lab: Lab, busybox: str) -> Court:
    court = Court(request.param, lab, busybox)
    lab.write({"outside/f": "outside of PREFIX\n", "moved/f": "another outside of PREFIX\n"})
    _import(court.outside, lab.folder / "outside")
    lab.build()
    return court


@pytest.mark.parametrize("court", CASES, ids=lambda case: case.name, indirect=True)
def test_a_plan_holds_before_buildkit(court: Court) -> None:
    court.verdict(court.copy())
    same = court.verdict(court.copy())
    assert not any(what.endswith("ran") for what in same.values()), "BuildKit repeats steps: it cannot be the judge"
    engine = Still()
    assert set(court.plan(court.copy(), engine).values()) == {"fresh"}

    quiet: list[Mutation] = []
    loud: dict[tuple[str, ...], tuple[Mutation, dict[str, str]]] = {}
    for change in court.changes():
        plan = court.plan(court.copy(change), engine)
        if "build" in plan.values() or "broken" in plan.values():
            loud.setdefault((change.path or change.kind, *plan.values()), (change, plan))
        else:
            quiet.append(change)
    assert quiet, "some change must not matter, or this test compares nothing"
    assert loud, "some change must matter, or this test compares nothing"

    if court.anew(same, *quiet):  # all at once: if BuildKit is idle then, each of them is right
        pytest.fail(f"missed: {[str(one) for one in quiet if court.anew(same, one)] or 'one of all together'}")

    wrong = []
    for change, plan in loud.values():
        if "broken" in plan.values():
            verdict = court.verdict(court.copy(change))
            wrong += [] if "broken" in verdict.values() else [f"{change}: broken to us only"]
            continue
        anew = court.anew(same, change, expected={name for name, action in plan.items() if action == "build"})
        wrong += [f"{change}: missed {name}" for name in anew if plan[name] != "build"]
        if not anew and not _needless(court, change):
            wrong.append(f"{change}: needless")
    assert not wrong


@pytest.mark.parametrize("court", CASES[2:], ids=lambda case: case.name, indirect=True)
def test_a_base_that_moved(court: Court) -> None:
    court.verdict(court.copy())
    same = court.verdict(court.copy())
    _import(court.outside, court.lab.folder / "moved")
    assert court.plan(court.copy()) == {"plain": "build", "mounts": "build"}
    verdict = court.verdict(court.copy())
    assert all(verdict[name] != same[name] for name in verdict)
    _import(court.outside, court.lab.folder / "outside")
    assert court.plan(court.copy()) == {"plain": "fresh", "mounts": "fresh"}


def _needless(court: Court, change: Mutation) -> bool:
    """Does ``docs/staleness.md`` say that we build here although BuildKit would not?"""
    if change.path.endswith(("Dockerfile", "ignore")):
        return True  # 1: their text counts as it is
    if change.kind == "chmod" and (court.first / change.path).is_dir():
        return True  # 6: BuildKit may have a folder of that name already, and then overlooks its mode
    return change.kind in court.case.needless
