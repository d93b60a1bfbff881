"""What is BuildKit given to build, where it is to judge our plan?

What Compose itself says of the project (``docker compose config``), in bake's words: bake of buildx 0.13 and Compose
2.26 do not know ``service:`` contexts, which later ones turn into ``target:``. An image that a Dockerfile calls by the
name of another service's image is built on that one, too: a judge that took what the engine has under that name would
take our own result. Nothing of ours reads the project here, so what our reader passes over is missed, and said.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from doit_images.ci.verifying import composed
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose

ENVIRON = {"BUILDX_NO_DEFAULT_ATTESTATIONS": "1", "BUILDX_BAKE_ENTITLEMENTS_FS": "0"}
"""What bake is to do without: attestations, and questions about the folders that a definition names."""


def targets(files: tuple[Path, ...], environ: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """By service, what is built, those that others build on first. ``UserError`` where Compose refuses the files,
    or two images are built on each other."""
    config = Compose(files, "", environ).config()
    found, refs = composed.targets(config), composed.refs(config)
    for name, target in found.items():
        contexts = {context: _joined(value) for context, value in target.get("contexts", {}).items()}
        text = _text(target)
        others = {ref.removesuffix(":latest"): other for other, ref in refs.items() if other != name}
        contexts |= {ref: f"target:{other}" for ref, other in others.items() if _named(ref, text)}
        target["contexts"] = contexts
    graph = TopologicalSorter({name: parents(target) & found.keys() for name, target in found.items()})
    try:
        return {name: found[name] for name in graph.static_order()}
    except CycleError as error:
        raise UserError(f"images are built on each other: {', '.join(error.args[1])}", where=str(files[0])) from None


def parents(target: Mapping[str, Any]) -> set[str]:
    """The services on whose images this one builds."""
    values = target.get("contexts", {}).values()
    return {value.removeprefix("target:") for value in values if value.startswith("target:")}


def definition(targets: Mapping[str, Mapping[str, Any]], environ: Mapping[str, str], **more: Any) -> bytes:
    """The bake file that builds these targets, each with ``more`` keys."""
    content = {called(name): _target(target, environ) | more for name, target in targets.items()}
    # Bake expands what looks like a variable.
    text = json.dumps({"group": {"default": {"targets": list(content)}}, "target": content})
    return text.replace("${", "$${").replace("%{", "%%{").encode()


def called(name: str) -> str:
    """What bake calls the target of a service: a dot may not be in it."""
    return name.replace(".", "_")


def _target(target: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    given = {name: environ.get(name) if value is None else value for name, value in target.get("args", {}).items()}
    contexts = {
        name: f"target:{called(value.removeprefix('target:'))}" if value.startswith("target:") else value
        for name, value in target["contexts"].items()
    }
    hosts = dict(line.split(":", 1) for line in target.get("extra-hosts", ()))
    args = {name: value for name, value in given.items() if value is not None}
    changed = {"args": args, "contexts": contexts, "extra-hosts": hosts}
    return {**target, **{key: value for key, value in changed.items() if key in target}}


def _joined(value: str) -> str:
    return f"target:{value.removeprefix('service:')}" if value.startswith("service:") else value


def _text(target: Mapping[str, Any]) -> str:
    """The text of its Dockerfile; "" where that is not here."""
    file = Path(target.get("dockerfile", ""))
    inline: str = target.get("dockerfile-inline", "")
    return inline or (file.read_text(errors="replace") if file.is_file() else "")


def _named(ref: str, text: str) -> bool:
    return re.search(rf"(?<![\w./-]){re.escape(ref)}(?![\w./-])", text) is not None
