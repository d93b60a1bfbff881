"""Where is the engine, and how is the docker command configured to reach it?"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def context(environ: Mapping[str, str] = os.environ) -> str:
    """The Docker context that leads to the engine: ``default`` where ``DOCKER_HOST`` names one, or nothing does."""
    if environ.get("DOCKER_HOST"):
        return "default"
    return environ.get("DOCKER_CONTEXT") or configuration(environ).get("currentContext") or "default"


def endpoint(environ: Mapping[str, str] = os.environ) -> str:
    """Where the engine listens: ``DOCKER_HOST``, else the current Docker context, else the default socket."""
    if environ.get("DOCKER_HOST"):
        return environ["DOCKER_HOST"]
    return str(_declared(environ).get("Host") or "unix:///var/run/docker.sock")


def leading_to(address: str, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The environment in which the docker command talks to the engine at ``address``: as it is where that leads there,
    because ``DOCKER_HOST`` takes the place of a context with its certificates."""
    return dict(environ) if address == endpoint(environ) else {**environ, "DOCKER_HOST": address}


def tls(environ: Mapping[str, str] = os.environ) -> dict[str, Any] | None:
    """What the current Docker context holds for TLS, as the SDK's ``TLSConfig`` takes it; None where ``DOCKER_HOST``
    counts, or the context has none."""
    declared = _declared(environ)
    if not declared:
        return None
    folder = configuration_folder(environ) / "contexts" / "tls" / _digest(context(environ)) / "docker"
    files = (folder / name for name in ("ca.pem", "cert.pem", "key.pem"))
    ca, cert, key = (str(file) if file.is_file() else "" for file in files)
    verify = not declared.get("SkipTLSVerify")
    options = {"client_cert": (cert, key) if cert or key else None, "ca_cert": ca or None, "verify": verify}
    return options if ca or cert or key or not verify else None


def _declared(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the current context says of its engine; nothing for the default one, or where it cannot be read."""
    name = context(environ)
    if name != "default":
        meta = configuration_folder(environ) / "contexts" / "meta" / _digest(name) / "meta.json"
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            return dict(json.loads(meta.read_text())["Endpoints"]["docker"])
    return {}


def _digest(name: str) -> str:
    """The folder of a context in the docker command's store."""
    return hashlib.sha256(name.encode()).hexdigest()


def configuration(environ: Mapping[str, str]) -> dict[str, Any]:
    """What the docker command is configured with; nothing where that cannot be read, of which it warns itself."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((configuration_folder(environ) / "config.json").read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def configuration_folder(environ: Mapping[str, str]) -> Path:
    """Where the docker command keeps its configuration, contexts and the user's plugins."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/root") / ".docker")
