"""What is BuildKit to build, in Compose's own words?

For whoever judges our plan: what reads the project for the plan (``compose.project``, ``inputs``) has no part in it, so
what that passes over is not passed over here. Compose resolves its files, and what it answers about a ``build:`` is put
into the words of ``docker buildx bake``, key by key. Pure.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

# What bake calls the keys that it takes as Compose has them.
_SAME = {
    "target": "target", "args": "args", "additional_contexts": "contexts", "platforms": "platforms", "labels": "labels",
    "dockerfile_inline": "dockerfile-inline", "network": "network", "shm_size": "shm-size", "ssh": "ssh",
}  # fmt: skip
# The options of `docker buildx build` that say the same as bake's keys.
_OPTIONS = {
    "dockerfile": "--file", "target": "--target", "platforms": "--platform", "network": "--network",
    "shm-size": "--shm-size", "secret": "--secret", "ssh": "--ssh", "ulimits": "--ulimit", "extra-hosts": "--add-host",
    "entitlements": "--allow",
}  # fmt: skip
_PAIRS = {"contexts": "--build-context", "labels": "--label"}


def targets(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """By service, what ``docker compose config`` (its answer is ``config``) says of its build, as a target of bake.
    A context may still be ``service:NAME``, which an older bake does not know."""
    services, secrets = config.get("services") or {}, config.get("secrets") or {}
    return {name: _target(one, secrets) for name, one in services.items() if one.get("build")}


def refs(config: Mapping[str, Any]) -> dict[str, str]:
    """By service, the name of the image that it builds."""
    services = config.get("services") or {}
    return {name: one.get("image") or f"{config['name']}-{name}" for name, one in services.items() if one.get("build")}


def options(target: Mapping[str, Any], environ: Mapping[str, str]) -> list[str]:
    """The options of ``docker buildx build`` that say the same as a target, its context last. A value that is in the
    environment is left to it: others may read a command line."""
    words = []
    for name, value in (target.get("args") or {}).items():
        given = value is None or environ.get(name) == value
        words += ["--build-arg", name if given else f"{name}={value}"]
    for key, option in _OPTIONS.items():
        value = target.get(key) or ()
        words += [word for one in ([value] if isinstance(value, str) else value) for word in (option, str(one))]
    for key, option in _PAIRS.items():
        words += [word for pair in (target.get(key) or {}).items() for word in (option, "=".join(pair))]
    return [*words, target["context"]]


def _target(service: Mapping[str, Any], secrets: Mapping[str, Any]) -> dict[str, Any]:
    build = service["build"]
    found = {new: build.get(key) for key, new in _SAME.items()}
    context = build.get("context") or "."
    dockerfile = build.get("dockerfile") or "Dockerfile"
    if build.get("dockerfile_inline") is None:
        # A remote context comes with its Dockerfile.
        found["dockerfile"] = os.path.join(context, dockerfile) if context.startswith("/") else dockerfile  # noqa: PTH118
    found["context"] = context
    found["platforms"] = found["platforms"] or list(filter(None, [service.get("platform")]))
    found["secret"] = list(_secrets(build.get("secrets") or (), secrets))
    found["ulimits"] = list(_ulimits(build.get("ulimits") or {}))
    found["extra-hosts"] = [host.replace("=", ":", 1) for host in _listed(build.get("extra_hosts"))]
    found["ssh"] = list(_listed(build.get("ssh")))
    more = ["security.insecure"] * bool(build.get("privileged")) + ["network.host"] * (build.get("network") == "host")
    found["entitlements"] = [*(build.get("entitlements") or ()), *more]
    return {key: value for key, value in found.items() if value}


def _secrets(named: Any, declared: Mapping[str, Any]) -> Iterator[str]:
    for one in named:
        one = {"source": one} if isinstance(one, str) else one
        origin = declared.get(one["source"]) or {}
        where = f"src={origin['file']}" if origin.get("file") else f"env={origin.get('environment')}"
        yield f"id={one.get('target') or one['source']},{where}"


def _ulimits(value: Mapping[str, object]) -> Iterator[str]:
    for name, limit in value.items():
        yield f"{name}={limit['soft']}:{limit['hard']}" if isinstance(limit, Mapping) else f"{name}={limit}"


def _listed(value: Any) -> Iterator[str]:
    """A list that Compose writes as ``["a=b"]`` or as ``{"a": ["b"]}``, depending on its version."""
    if not isinstance(value, Mapping):
        yield from value or ()
        return
    for name, inner in value.items():
        for one in inner if isinstance(inner, list) else [inner]:
            yield f"{name}={one}" if one else name
