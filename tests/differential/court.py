"""Compose is the judge: does an image become what ``docker compose build`` makes of the same files?

A project is built by us, changed, and planned anew. Compose then builds a copy of what it has become, at a new place;
after that we do. Each image must hold what Compose's holds: equal layers, which both have from BuildKit's cache, or
equal files, modes, owners, links and attributes; and an equal configuration. Our own labels and Compose's do not count,
nor do times.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import tarfile
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import ClassVar

from doit_images.core.base.errors import UserError
from doit_images.core.building import make, prune_lock
from doit_images.core.engine import plugins
from doit_images.core.engine.api import Api, NotFound
from doit_images.core.engine.client import Engine, host_platform
from doit_images.core.engine.labels import LABEL
from doit_images.core.run import Run
from tests.conftest import docker
from tests.differential.projects import Case, Project, Words, touch

_THEIRS = (LABEL, "com.docker.compose.")
# "#7 [s0 st1 1/2] COPY …"; where one service is built alone, some versions leave its name out.
_STEP = re.compile(r"#(?P<number>\d+) \[ *(?:(?P<service>s[0-9]) +)?(?:\S+ +)?[0-9]+/[0-9]+\] (?!FROM )")
# What Compose and BuildKit refuse, though nothing is wrong with it: a stage on another image of the project for a
# platform; a folder in a stage's place, which is for no processor unless one is named.
_ONLY_THEIRS = re.compile("unsupported context source target|missing architecture|value set by DOCKER_DEFAULT_PLATFORM")
# It is there, yet for no processor, as such a folder is: who builds on it for a platform looks in the registry.
_NOT_FOR_IT = re.compile(r"failed to resolve source metadata for \S+/(?P<parent>s[0-9]):")
# An image with .env, and what needs it; what newer Compose takes from the folder that it is called in.
_ON_PURPOSE = re.compile("which may hold passwords|the build's context is empty")
_KNOWS_SERVICES = (2, 27)


@dataclass(frozen=True)
class Verdict:
    """What is to be said of one image after a change, the action that the plan had for it, and how the two differ.

    ``what`` is missed (not built, though it had to be), wrong (built, and not what Compose makes), refused (only
    Compose builds it), lenient (only we do), unknown (no image to us) or needless (built, though Compose made it of its
    cache and it came out the same).
    """

    image: str
    what: str
    action: str
    how: str = ""

    NEEDLESS: ClassVar[str] = "needless"

    @property
    def is_failure(self) -> bool:
        return self.what != self.NEEDLESS

    def __str__(self) -> str:
        return f"{self.image}: {self.what} (plan: {self.action}) {self.how}"


@dataclass
class Judged:
    """What Compose made: the services that it built, those that it could not, and those of which a step ran (``""``:
    one that it did not name)."""

    built: set[str] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    ran: set[str] = field(default_factory=set)


class Court:
    """The two sides of many cases, one after the other."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.mark = f"tst-{uuid.uuid4().hex[:8]}"
        self.count = 0

    def try_case(self, case: Case) -> list[Verdict]:
        """Both sides' images after the change of a case, compared."""
        self.count += 1
        uniq = f"{self.mark[4:]}{self.count}"
        ours = _Ours(self.work / f"o{uniq}", Words(f"{self.mark}o{self.count}", uniq))
        judge = _Judge(self.work / f"j{uniq}", Words(f"{self.mark}j{self.count}", uniq))
        ours.lay(case.before)
        before = ours.build()
        ours.change(case)
        plan = ours.plan()
        judged = judge.build(case, plan)
        failed = ours.finish(plan)
        failed |= {name: ours.reasons[name] for name, action in plan.items() if action == "broken"}
        found = list(_compare(plan, before, judged, failed, (ours.words.name, judge.words.name)))
        for side in (ours, judge):
            shutil.rmtree(side.root)
            _remove(side.words.name)
        return found


class _Ours:
    """The project as we build it, in this process."""

    def __init__(self, root: Path, words: Words) -> None:
        self.root, self.words = root, words
        self.environ: dict[str, str] = {}
        self.reasons: dict[str, str] = {}

    def lay(self, project: Project) -> None:
        self.root.mkdir()
        self.words.lay(self.root, project.tree)
        self.environ = {**os.environ, **self.words.environ(project.environ)}

    def change(self, case: Case) -> None:
        self.words.lay(self.root, case.tree)
        touch(self.root, map(self.words.put, case.touched))
        self.environ = {**os.environ, **self.words.environ(case.after.environ)}

    def run(self) -> Run:
        return Run(None, self.environ, self.root)

    def build(self) -> dict[str, str]:
        """Build what is not fresh; the ids of the images that are there then."""
        try:
            run = self.run()
            self._make(run)
            run.local_images.changed()
            found = {name: run.local_images.snapshot().get(image.ref) for name, image in run.project.images.items()}
        except UserError:
            return {}
        return {name: image.id for name, image in found.items() if image}

    def plan(self) -> dict[str, str]:
        """What is said of each image, and ``""`` of the project where it cannot be read."""
        try:
            decisions = self.run().planner.decisions()
        except UserError as error:
            return {"": str(error)}
        self.reasons = {name: "; ".join(one.reasons) for name, one in decisions.items()}
        return {name: str(one.action) for name, one in decisions.items()}

    def finish(self, plan: Mapping[str, str]) -> dict[str, str]:
        """Build what the plan calls stale; why that failed, by image."""
        if not {"build", "retag"} & {*plan.values()}:
            return {}
        try:
            return self._make(self.run())
        except UserError as error:
            return dict.fromkeys(plan, str(error))

    @staticmethod
    def _make(run: Run) -> dict[str, str]:
        failed: dict[str, str] = {}
        with prune_lock.shared(run.engine, lambda: None) as pruning:
            for name in run.planner.decisions():
                try:
                    make.make_image(run, name, pruning)
                except UserError as error:
                    failed[name] = str(error)
        return failed


class _Judge:
    """The project as Compose builds it, in a copy."""

    def __init__(self, root: Path, words: Words) -> None:
        self.root, self.words = root, words

    def build(self, case: Case, plan: Iterable[str]) -> Judged:
        """What Compose makes of it. Where images build on others, which no Compose here puts in order by itself, they
        are asked for one after the other: each one's name is after those of its parents."""
        if not _compose_knows_services():
            self.words = Words(self.words.name, self.words.uniq, f"docker-image://{self.words.name}/")
        self.root.mkdir()
        for tree in (case.before.tree, case.tree):  # a folder stays when its last file goes
            self.words.lay(self.root, tree)
        judged, project = Judged(), case.after
        texts = [entry if isinstance(entry, str) else "" for entry in project.tree.values()]
        parents = {name for text in texts for name in re.findall(r"(?:SERVICE:|(?:FROM|from=).*NAME/)(s[0-9])", text)}
        for name in sorted(parents):
            self._ask(project, judged, name)
        if self._ask(project, judged):
            for name in filter(None, plan):
                self._ask(project, judged, name)
        judged.built = {name.removeprefix(f"{self.words.name}/") for name in _named(f"{self.words.name}/s*")}
        return judged

    def _ask(self, project: Project, judged: Judged, *services: str) -> int:
        """``docker compose build`` of these services, or of all; its exit status."""
        argv = [*_compose(), "--progress=plain", "build", *services]
        env = {**os.environ, "BUILDX_NO_DEFAULT_ATTESTATIONS": "1", **self.words.environ(project.environ)}
        done = subprocess.run(argv, cwd=self.root, env=env, capture_output=True, check=False)
        said = (done.stdout + done.stderr).decode("utf-8", "replace")
        steps = {found["number"]: found["service"] or "" for found in map(_STEP.match, said.splitlines()) if found}
        cached = {line[1:].partition(" ")[0] for line in said.splitlines() if line.endswith(" CACHED")}
        judged.ran |= {service for number, service in steps.items() if number not in cached}
        for name in services or ("",):
            judged.failed.pop(name, None)
            if done.returncode:
                judged.failed[name] = said[-600:]
        return done.returncode


@cache
def _compose_knows_services() -> bool:
    found = re.match(r"v?(\d+)\.(\d+)", docker("compose", "version", "--short").stdout)
    return found is not None and (int(found[1]), int(found[2])) >= _KNOWS_SERVICES


@cache
def _compose() -> tuple[str, ...]:
    """Compose without the docker command, which looks at all its plugins first."""
    plugin = plugins.identity("docker-compose").partition(" ")[0]
    return (plugin,) if plugin else ("docker", "compose")


@dataclass(frozen=True)
class _Image:
    """What of an image its users see."""

    id: str
    layers: tuple[str, ...]
    config: str

    @cached_property
    def files(self) -> dict[str, str]:
        """What it holds, by path: kind, mode, owner, link and content."""
        container = docker("create", self.id, "none").stdout.strip()
        done = subprocess.run(["docker", "export", container], capture_output=True, check=True)
        docker("rm", "--volumes", container)
        found = {}
        with tarfile.open(fileobj=io.BytesIO(done.stdout), errors="surrogateescape") as tar:
            for member in tar:
                file = tar.extractfile(member) if member.isreg() else None
                content = hashlib.sha256(_same_words(file.read())).hexdigest()[:12] if file else member.linkname
                extended = {key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr")}
                what = f"{member.type!r} {member.mode:o} {member.uid}:{member.gid} {content} {extended or ''}"
                found[member.name.strip("/")] = what
        return found


def _remove(name: str) -> None:
    """Remove the images of one side: the more the engine holds, the longer it takes to list them."""
    api = Api(Engine().address)
    filters = urllib.parse.quote(json.dumps({"reference": [f"{name}/*"]}))
    for image in api.call("GET", f"/images/json?filters={filters}"):
        with contextlib.suppress(UserError):
            api.call("DELETE", f"/images/{image['Id']}?force=true")


def _same_words(data: bytes) -> bytes:
    """What a file holds, with the same words on both sides."""
    return re.sub(rb"tst-[0-9a-f]{8}[oj][0-9]+", b"NAME", data).replace(b"docker-image://NAME/s", b"service:s")


def _named(pattern: str) -> list[str]:
    """The names of images that are like this, without ``:latest``."""
    filters = urllib.parse.quote(json.dumps({"reference": [pattern]}))
    listed = Api(Engine().address).call("GET", f"/images/json?filters={filters}")
    return [tag.removesuffix(":latest") for image in listed for tag in image["RepoTags"] or ()]


def _inspected(names: Iterable[str]) -> dict[str, _Image]:
    """The images of these names or ids, as far as they are there."""
    found: dict[str, _Image] = {}
    api = Api(Engine().address)
    for name in names:
        try:
            one = api.call("GET", f"/images/{name}/json")
        except NotFound:
            continue
        # Of a folder that takes a stage's place BuildKit makes an image for no processor, unless it is told one.
        platform = [one["Os"], one["Architecture"] or host_platform().partition("/")[2], one.get("Variant") or ""]
        config = {**(one["Config"] or {}), "platform": platform, "author": one.get("Author")}
        labels = {key: value for key, value in (config.get("Labels") or {}).items() if not key.startswith(_THEIRS)}
        layers = tuple((one["RootFS"] or {}).get("Layers") or ())
        told = json.dumps({**config, "Labels": labels}, sort_keys=True)
        image = _Image(one["Id"], layers, _same_words(told.encode()).decode())
        found |= dict.fromkeys([one["Id"], *(tag.removesuffix(":latest") for tag in one["RepoTags"])], image)
    return found


def _compare(
    plan: Mapping[str, str],
    before: Mapping[str, str],
    judged: Judged,
    failed: Mapping[str, str],
    names: tuple[str, str],
) -> Iterator[Verdict]:
    if "" in plan:
        if "" not in judged.failed:
            yield Verdict("", "refused", "", plan[""])
        return
    ours, theirs = names
    images = _inspected([*before.values(), *(f"{side}/{name}" for side in names for name in plan)])
    for name in sorted(judged.built - {*judged.failed} - {*plan}):
        yield Verdict(name, "unknown", "", "Compose builds it")
    for name, action in plan.items():
        mine, wanted = images.get(f"{ours}/{name}"), images.get(f"{theirs}/{name}")
        for verdict in _said(name, action, failed.get(name), judged, mine, wanted, images.get(before.get(name, ""))):
            if verdict.what != "refused" or not any(_ON_PURPOSE.search(why) for why in failed.values()):
                yield verdict


def _said(name, action, failure, judged: Judged, mine: _Image | None, wanted: _Image | None, old: _Image | None):
    if why := judged.failed.get(name) or ("Compose builds it not" if name not in judged.built else ""):
        # It may name one that failed before it, whether its Dockerfile reads that or not.
        if any(other < name for other in judged.failed if other) or _ONLY_THEIRS.search(why):
            return
        if (looked := _NOT_FOR_IT.search(why)) and looked["parent"] in judged.built:
            return
        if action in ("fresh", "retag"):
            yield Verdict(name, "missed", action, f"it cannot be built: {why}")
        elif action == "build" and not failure:
            yield Verdict(name, "lenient", action, why)
    elif failure:
        yield Verdict(name, "refused", action, failure)
    elif not mine or not wanted:
        yield Verdict(name, "wrong", action, f"ours {mine}, Compose's {wanted}")
    elif how := different(mine, wanted):
        yield Verdict(name, "missed" if action in ("fresh", "retag") else "wrong", action, how)
    elif action == "build" and old and not {name, ""} & judged.ran and not different(old, wanted):
        yield Verdict(name, Verdict.NEEDLESS, action)


def different(one: _Image, other: _Image) -> str:
    """In what two images differ, "" for nothing that anybody sees."""
    if one.config != other.config:
        ours, theirs = json.loads(one.config), json.loads(other.config)
        keys = [key for key in {*ours, *theirs} if ours.get(key) != theirs.get(key)]
        if keys := [key for key in keys if (ours.get(key) or None) != (theirs.get(key) or None)]:
            return "; ".join(f"{key}: {ours.get(key)} for {theirs.get(key)}" for key in keys)
    if one.layers == other.layers or one.files == other.files:
        return ""
    paths = [path for path in {*one.files, *other.files} if one.files.get(path) != other.files.get(path)]
    return "; ".join(f"{path}: {one.files.get(path)} for {other.files.get(path)}" for path in sorted(paths)[:5])
