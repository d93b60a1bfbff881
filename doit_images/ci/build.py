"""How are images built where nobody watches? ``ci_build``.

Plain output, no terminal, an exit status, files to keep (in ``ci`` of the project's folder), and a summary in Markdown,
which GitHub shows beside the run when it is appended to ``$GITHUB_STEP_SUMMARY``.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from doit_images.core.base import files
from doit_images.core.base.again import doit
from doit_images.core.base.errors import UserError
from doit_images.core.base.formatting import cell, seconds_text, size_text
from doit_images.core.history.store import Build, Status
from doit_images.core.planning.plan import Action, Decision
from doit_images.core.run import Run

_HISTORY = 1000
_NOT_BUILT = "not built"


def build(run: Run) -> None:
    """Build everything that is stale, go on where one image fails, and leave report and summary. ``UserError`` when
    anything could not be built; the report and the summary say what, also then."""
    began, clock = time.time(), time.monotonic()
    planned = run.planner.decisions()
    status = doit(["run", "--continue", run.parts.names("build")])
    seconds = time.monotonic() - clock
    built = built_since(run.history.recent(limit=_HISTORY), began)
    report = build_report(run.project.name, planned, built, status, seconds)
    path = run.folder / "ci" / "build.json"
    files.write_json(path, report)
    tell(build_summary(report))
    if status:
        bad = [image["name"] for image in report["images"] if image["status"] in (Status.FAILED, _NOT_BUILT)]
        raise UserError(f"{', '.join(bad) or 'the build'} could not be built", remedy=f"the report is {path}")


def built_since(builds: Sequence[Build], began: float) -> dict[str, Build]:
    """The builds of the run that began next after this time, by image: the last of each. ``builds``: newest first."""
    first = {build.run: build.started for build in builds}
    ours = min((run for run, started in first.items() if started >= began), key=lambda run: first[run], default=None)
    return {build.image: build for build in reversed(builds) if build.run == ours}


def build_report(
    project: str, planned: Mapping[str, Decision], built: Mapping[str, Build], status: int, seconds: float
) -> dict[str, Any]:
    """What a build came to, as plain data."""
    return {
        "project": project,
        "status": "failed" if status else "passed",
        "exit_status": status,
        "seconds": round(seconds, 3),
        "images": [_image(decision, built.get(name)) for name, decision in planned.items()],
    }


def _image(planned: Decision, build: Build | None) -> dict[str, object]:
    status = build.status if build else _NOT_BUILT if planned.stale else Action.FRESH
    size, image_id = (build.size, build.image_id) if build else _kept(planned)
    return {
        "name": planned.name,
        "image": planned.inputs.image.ref,
        "action": planned.action,
        "reasons": list(planned.reasons),
        "status": status,
        "seconds": round(build.seconds, 3) if build else 0.0,
        "steps": build.work_steps if build else 0,
        "cached_steps": build.cached_steps if build else 0,
        "size": size,
        "fingerprint": planned.inputs.fingerprint,
        "image_id": image_id,
    }


def _kept(planned: Decision) -> tuple[int | None, str]:
    """The bytes of what there is of an image, and its id: where the registry alone keeps it, its digest."""
    if planned.local_image:
        return planned.local_image.size, planned.local_image.id
    if planned.offer and not planned.stale:
        return planned.offer.size, planned.offer.digest
    return None, ""


def build_summary(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    images: list[Mapping[str, Any]] = report["images"]
    fresh = sum(image["status"] == Action.FRESH for image in images)
    lines = [
        f"## Build of {cell(report['project'])}: {report['status']}",
        "",
        f"{len(images)} images in {seconds_text(report['seconds'])}, {fresh} of them fresh.",
        "",
        "| image | what | time | cached steps | size | why |",
        "|---|---|--:|--:|--:|---|",
    ]
    for image in images:
        what = image["status"] if image["status"] == Action.FRESH else f"{image['action']} {image['status']}"
        bold = f"**{what}**" if image["status"] not in (Action.FRESH, Status.DONE) else what
        cached = f"{image['cached_steps']} of {image['steps']}" if image["steps"] else "–"
        size = size_text(image["size"]) if image["size"] else "–"
        cells = [cell(image["name"]), bold, seconds_text(image["seconds"]), cached, size]
        lines.append(f"| {' | '.join([*cells, cell('; '.join(image['reasons']))])} |")
    return "\n".join([*lines, ""])


def tell(summary: str) -> None:
    """Print a summary to standard output, and append it to GitHub's."""
    print(summary)
    if os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(os.environ["GITHUB_STEP_SUMMARY"]).open("a") as file:
            file.write(f"{summary}\n")
