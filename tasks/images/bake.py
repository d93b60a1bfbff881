"""The same graph as a definition for ``docker buildx bake``: the way out for anyone who does not want doit.

Pure. Every buildx from 0.13 on can build it: parents become ``target:`` contexts, which Compose's own
``service:`` contexts are not for older ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tasks.content.survey import Surveyed
from tasks.images.buildx import entitlements, secret_line


def definition(surveyed: Mapping[str, Surveyed]) -> dict[str, Any]:
    """The content of a ``docker-bake.json`` that builds these images under their own names."""
    names: dict[str, str] = {}
    for name in surveyed:
        names[name] = name.replace(".", "_")
        while names[name] in list(names.values())[:-1]:
            names[name] += "_"
    targets = {names[name]: _target(one, names) for name, one in surveyed.items() if not one.problem}
    return {"group": {"default": {"targets": list(targets)}}, "target": targets}


def _target(one: Surveyed, names: Mapping[str, str]) -> dict[str, Any]:
    image = one.image
    contexts = {name: value for name, value in image.contexts.items() if not value.startswith("service:")}
    contexts |= {context: f"target:{names[parent]}" for context, parent in one.parents.items()}
    whole = {
        "context": image.context,
        "dockerfile": image.dockerfile,
        "dockerfile-inline": image.dockerfile_inline,
        "target": image.target,
        "args": {name: value for name, value in image.args.items() if value is not None},
        "contexts": contexts,
        "secret": [secret_line(secret) for secret in image.secrets],
        "ssh": list(image.ssh),
        "platforms": list(image.platforms),
        "labels": dict(image.labels),
        "network": image.network,
        "shm-size": image.shm_size,
        "ulimits": list(image.ulimits),
        "entitlements": list(entitlements(image)),
        "no-cache": image.no_cache,
        "pull": image.pull,
        "tags": list(image.names),
        "output": ["type=docker"],
    }
    return {key: value for key, value in whole.items() if value}
