"""``doit verify --plan``: does BuildKit agree that images are fresh? As text, as JSON, and in a report where not."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doit_images.ci.verifying import asking
from doit_images.ci.verifying.asking import BuildKitAnswer, Declared
from doit_images.ci.verifying.verify import chosen
from doit_images.core.base import commands
from doit_images.core.base.errors import UserError, printable
from doit_images.core.base.masking import safe_arguments
from doit_images.core.local_images import LocalImages
from doit_images.core.run import Run
from doit_images.stack import checkout
from doit_images.ui import plan_view


def check(run: Run, images: Sequence[str], *, as_json: bool) -> None:
    """Ask about these images (default: all), and print each answer as soon as it is known. ``UserError`` where BuildKit
    would have run a step of one that is called fresh."""
    run.settings.need_engine()
    names = chosen(run.project, checkout.project_of(run), images)
    declared, answers, reports = Declared.of(run.files, run.environ), list[BuildKitAnswer](), dict[str, Path]()
    for name in names:
        answers.append(asking.ask(run, name, declared))
        if answers[-1].same is False:
            reports[name] = _reported(run, answers[-1], declared)
        elif answers[-1].same:
            asking.report_of(run.folder, name).unlink(missing_ok=True)
        if not as_json:
            print(printable(text(answers[-1])), flush=True)
    if as_json:
        print(json.dumps({"images": [as_data(each, reports.get(each.name)) for each in answers]}, indent=2))
    if reports:
        lines = [f"{name}: {path}" for name, path in reports.items()]
        raise UserError(
            "\n".join(
                [
                    "BuildKit would run a step of an image that counts as fresh; these files hold what an issue needs:",
                    *lines,
                ]
            ),
            remedy="doit rebuild builds it all the same",
        )


def text(answer: BuildKitAnswer) -> str:
    """An answer for people, in one line."""
    if answer.unasked:
        return f"{answer.name}: not known: {answer.unasked}"
    if answer.step:
        return f"{answer.name}: differs: BuildKit would have run {answer.step}"
    return f"{answer.name}: BuildKit has each of its {len(answer.steps)} steps in its cache"


def as_data(answer: BuildKitAnswer, report: Path | None) -> dict[str, object]:
    """An answer for JSON."""
    told = answer._asdict() | {"steps": len(answer.steps)}
    return {**told, "same": answer.same, "report": str(report) if report else None}


def _reported(run: Run, answer: BuildKitAnswer, declared: Declared) -> Path:
    """Leave what an issue needs as a file, without secrets; one that is there of the same difference stays."""
    if not answer.steps:  # it was found before, and is kept
        return asking.report_of(run.folder, answer.name)
    decisions = plan_view.chosen(run.planner.decisions(), [run.project.image(answer.name)])
    plan = plan_view.promised(plan_view.Plan(run.project.name, decisions, {}, run.settings.build_jobs))
    target = dict(declared.targets[answer.name])
    target |= {key: safe_arguments(target[key]) for key in ("args", "labels") if key in target}
    content = {
        "found": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "composed": target,
        "plan": plan,
        "versions": _versions(run.local_images),
    }
    hide = asking.hider(run.environ, run.project, declared.targets[answer.name])
    return asking.keep(run.folder, answer, **json.loads(hide(json.dumps(content))))


def _versions(local_images: LocalImages) -> dict[str, Any]:
    own = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=10", "HEAD"]
    return {
        "engine": local_images.snapshot().version,
        "containerd_store": local_images.containerd_store,
        "buildx": commands.answer(["docker", "buildx", "version"]),
        "compose": commands.answer(["docker", "compose", "version", "--short"]),
        "tasks": commands.answer(own),
    }
