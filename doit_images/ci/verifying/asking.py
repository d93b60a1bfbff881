"""Would BuildKit take an image that is called fresh from its cache, step for step?

Whoever doubts the plan can have it judged on their own project: BuildKit is given what Compose itself says of the image
(``composed``) in a build whose result goes nowhere, and which ends as soon as a step begins that is not in the cache.
What our reader makes of the project has no part in it, but for how a dedicated builder gets parents and bases.

A step that would have run is a difference only if the cache still holds what that step gave when the image was built:
else the cache is gone, and BuildKit's word says nothing. A step that is stopped may have been quick enough to be in the
cache from now on, so what was said of it is kept, and stands until the image is another one.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from doit_images.ci import cache_records
from doit_images.ci.verifying import composed
from doit_images.core.base import checked_json, commands, leftovers
from doit_images.core.base.command_line import last_words
from doit_images.core.building import build_target, prune_lock
from doit_images.core.buildkit.progress import Progress, Vertex, brief
from doit_images.core.compose import env_files
from doit_images.core.compose.answer import PLATFORMS
from doit_images.core.compose.project import Project
from doit_images.core.compose.stack import Compose
from doit_images.core.engine import plugins
from doit_images.core.engine.client import CacheRecord, Engine
from doit_images.core.history.store import KEEP, History
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run
from doit_images.stack import secrets

_PLATFORM = "DOCKER_DEFAULT_PLATFORM"
_SLACK = 1.0  # seconds: a record of the cache is made when its step begins, or just before


class BuildKitAnswer(NamedTuple):
    """What BuildKit said of an image: ``step`` is the first one that it would have run, "" for none; ``unasked`` is why
    its word says nothing, "" where it does. ``steps`` are those that it named, and whether each was cached."""

    name: str
    ref: str
    fingerprint: str
    image_id: str
    step: str = ""
    unasked: str = ""
    steps: tuple[tuple[str, bool], ...] = ()

    @property
    def same(self) -> bool | None:
        """Whether BuildKit agrees; None if that cannot be known."""
        return None if self.unasked else not self.step


class Declared(NamedTuple):
    """What Compose says is built: targets and names of images, by service."""

    targets: Mapping[str, Mapping[str, Any]]
    refs: Mapping[str, str]

    @classmethod
    def of(cls, files: tuple[Path, ...], environ: Mapping[str, str]) -> Declared:
        """What it says of these files, asked now. ``UserError`` where it refuses them."""
        config = Compose(files, "", environ).config()
        return cls(composed.targets(config), composed.refs(config))


def report_of(folder: Path, name: str) -> Path:
    """Where the report of an image lies that BuildKit would have built otherwise."""
    return folder / "differences" / f"{name}.json"


def keep(folder: Path, answer: BuildKitAnswer, **more: object) -> Path:
    """Keep an answer, with ``more`` of what it is about, for as long as the image is the same; where it lies."""
    path = report_of(folder, answer.name)
    path.parent.mkdir(parents=True, exist_ok=True)
    checked_json.remember(path, {**answer._asdict(), **more})
    return path


def hider(environ: Mapping[str, str], project: Project, target: Mapping[str, Any]) -> Callable[[str], str]:
    """What hides secrets in BuildKit's words: a step is called by the values of its arguments."""
    given = {name: value for name, value in (target.get("args") or {}).items() if value}
    return secrets.hider(project.directory, {**environ, **given})


def ask(run: Run, name: str, declared: Declared) -> BuildKitAnswer:
    """Ask BuildKit about one image. ``UserError`` where the engine or the builder does not answer."""
    decision = run.planner.decisions()[name]
    inputs, local_image = decision.inputs, decision.local_image
    answer = BuildKitAnswer(name, inputs.image.ref, inputs.fingerprint, local_image.id if local_image else "")
    if decision.action != Action.FRESH:
        return answer._replace(unasked=f"the plan does not call it fresh: {decision.action}")
    kept = checked_json.recall(report_of(run.folder, name)) or {}
    if (kept.get("fingerprint"), kept.get("image_id")) == (answer.fingerprint, answer.image_id):
        return answer._replace(step=str(kept.get("step")), unasked=str(kept.get("unasked")))
    environ = env_files.with_values(run.files, run.environ, [_PLATFORM])
    platform = environ.get(PLATFORMS) or environ.get(_PLATFORM) or run.local_images.snapshot().platform
    with prune_lock.shared(run.engine, lambda: None), leftovers.folder("asking-") as folder:
        target = _seen(run.common, platform, declared, name, folder)
        around = build_target.around(run, inputs)
        status, progress = _build(run.project.directory, run.build_environ, around, target)
    hide = hider(run.environ, run.project, declared.targets[name])
    steps = tuple((hide(step.name), step.cached) for step in progress.steps if step.work)
    answer = answer._replace(steps=steps)
    if step := next(iter(progress.begun()), None):
        known = [*_told_by_image(run.engine, decision, step), *_told_by_history(run.history, decision, step)]
        if not (why := _gone(known, lambda: cache_records.of(run.settings, run.engine, run.environ), step)):
            return answer._replace(step=hide(step.name))
        answer = answer._replace(unasked=hide(why))
        keep(run.folder, answer)
    elif status:
        answer = answer._replace(unasked=f"BuildKit cannot be asked: {hide(last_words(progress.tail))}")
    return answer


def _seen(common: Path, platform: str, declared: Declared, name: str, folder: Path) -> dict[str, Any]:
    """The target as BuildKit gets it, with what is made for this question in ``folder``. Contexts go by links that no
    build had: of those that it knows, BuildKit's client would not send what only looks alike."""
    target = dict(declared.targets[name])
    root = target["context"]
    target.setdefault("platforms", [platform])
    contexts = {}
    for key, value in target.get("contexts", {}).items():
        parent = declared.refs.get(value.removeprefix("service:"), "") if value.startswith("service:") else ""
        contexts[key] = f"docker-image://{parent}" if parent else _linked(folder, value)
    if root.startswith("/"):
        target["dockerfile"] = str(_dockerfile(common, target, folder))
    elif "dockerfile-inline" in target:
        target["dockerfile"] = "-"
    return {**target, "context": _linked(folder, root), "contexts": contexts}


def _dockerfile(common: Path, target: Mapping[str, Any], folder: Path) -> Path:
    """The Dockerfile, its policy and the ignore file, copied side by side: there our own folder is hidden, as in every
    build."""
    root, file = Path(target["context"]), folder / "Dockerfile"
    named = Path(target.get("dockerfile", root / "Dockerfile"))
    inline = target.get("dockerfile-inline")
    with contextlib.suppress(OSError):  # BuildKit says what is not there
        file.write_bytes(inline.encode(errors="surrogateescape") if inline else named.read_bytes())
        if not inline:
            Path(f"{file}.rego").write_bytes(Path(f"{named}.rego").read_bytes())
    beside = [Path(f"{named}.dockerignore")] if not inline else []
    text = next((path.read_bytes() for path in (*beside, root / ".dockerignore") if path.is_file()), b"")
    ours = os.path.relpath(common.resolve(), root.resolve())
    hidden = b"" if ours.startswith(".." + os.sep) or ours == "." else b"\n" + os.fsencode(ours) + b"\n"
    Path(f"{file}.dockerignore").write_bytes(text + hidden)
    return file


def _linked(folder: Path, value: str) -> str:
    if not value.startswith("/"):
        return value
    link = folder / os.urandom(8).hex()
    link.symlink_to(os.path.realpath(value))
    return str(link)


def _build(cwd: Path, env: Mapping[str, str], around: list[str], target: Mapping[str, Any]) -> tuple[int, Progress]:
    """Build it until the first step begins that is not cached: the exit status, and what BuildKit said."""
    *options, context = composed.options(target, env)
    argv = ["docker", "buildx", "build", "--progress=rawjson", "--output=type=cacheonly", *options, *around, context]
    stdin = target["dockerfile-inline"].encode() if target.get("dockerfile") == "-" else None
    progress = Progress()
    with commands.start(plugins.direct(argv, env), cwd=cwd, env=env, stdin=stdin) as process:
        for data in process.output():
            progress.feed(data)
            if any(step.inputs for step in progress.begun()):
                process.stop()
                break
    progress.finish()
    return process.returncode, progress


class _Made(NamedTuple):
    """When what a step gave was made, seconds since the epoch, and what the step was called then."""

    text: str
    begin: float
    end: float

    def is_in(self, record: CacheRecord) -> bool:
        """Whether this is that record of the cache: those of RUN are called after what ran, without its flags."""
        called = record.what.partition("] ")[2] == self.text
        ran = self.text.startswith("RUN ") and record.what.startswith("mount / from exec ")
        return (called or ran) and self.begin - _SLACK <= record.made <= self.end + _SLACK


def _gone(known: Sequence[_Made], records: Callable[[], Sequence[CacheRecord]], step: Vertex) -> str:
    """Why it says nothing that this step would run; "" if the cache still holds what it gave when the image was
    built."""
    if not known:
        return f"the cache does not hold `{step.label}`, and nobody here knows when it was made"
    if any(made.is_in(record) for record in records() for made in known):
        return ""
    return f"the cache is gone: it does not hold what `{step.label}` gave when the image was built"


def _told_by_image(engine: Engine, decision: Decision, step: Vertex) -> Iterator[_Made]:
    """By an image of the engine, which says by which steps it was made, wherever it was built."""
    word, _, rest = brief(step.text).partition(" ")
    for made_by, when in engine.steps(decision.local_image.id) if decision.local_image else ():
        if made_by == step.text or (word == "RUN" and made_by.startswith("RUN ") and made_by.endswith(f" {rest}")):
            yield _Made(step.text, when, when + 1)


def _told_by_history(history: History, decision: Decision, step: Vertex) -> Iterator[_Made]:
    """By the builds of this checkout, back to the last one that ran the step at this place. So it is known of a stage
    that the image holds nothing of, and of a step whose words hold another argument now. One that was cached may be of
    a stage that another image of the same run built."""
    builds = [build for build in history.recent(decision.name, limit=KEEP) if build.action == Action.BUILD]
    ours = next((at for at, one in enumerate(builds) if one.fingerprint == decision.inputs.fingerprint), len(builds))
    place = (step.stage, step.number, step.total)
    for build in builds[ours:]:
        for one in build.steps:
            if (one.stage.strip(), one.number, one.total) == place:
                text, began = one.name.partition("] ")[2], one.started or build.started
                if not one.cached:
                    yield _Made(text, began, began + one.seconds)
                    return
                yield _Made(text, build.started - build.waited, build.ended)
