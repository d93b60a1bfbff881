"""Where is the engine, and how is the docker command configured to reach it?"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doit_images.core.base.errors import UserError, nearest, os_reason

_DEFAULT = "default"


def context(environ: Mapping[str, str] = os.environ) -> str:
    """The Docker context that leads to the engine: ``default`` where ``DOCKER_HOST`` names one, or nothing does."""
    if environ.get("DOCKER_HOST"):
        return _DEFAULT
    return environ.get("DOCKER_CONTEXT") or configuration(environ).get("currentContext") or _DEFAULT


def endpoint(environ: Mapping[str, str] = os.environ) -> str:
    """Where the engine listens: ``DOCKER_HOST``, else the current Docker context, else the default socket.
    ``UserError`` for a context that there is not, or that cannot be read: the docker command takes no other either."""
    if environ.get("DOCKER_HOST"):
        return environ["DOCKER_HOST"]
    return str(_declared(environ).get("Host") or "unix:///var/run/docker.sock")


def where_from(address: str, environ: Mapping[str, str] = os.environ) -> str:
    """What to do where nothing answers at this address, by who named it."""
    if address == environ.get("DOCKER_HOST"):
        return "DOCKER_HOST leads there: start that engine, or unset it"
    with contextlib.suppress(UserError):
        if context(environ) != _DEFAULT and address == endpoint(environ):
            return f"the context {context(environ)!r} leads there: start that engine, or use another one"
    return "start it, or let ./doitw do so"


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
    """What the current context says of its engine; nothing for the default one. ``UserError`` as ``endpoint``."""
    name = context(environ)
    if name == _DEFAULT:
        return {}
    meta = _contexts(environ) / _digest(name) / "meta.json"
    try:
        return dict(json.loads(meta.read_text())["Endpoints"]["docker"])
    except FileNotFoundError:
        raise UserError(f"there is no Docker context {name!r}", remedy=_meant(name, environ)) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = os_reason(error) if isinstance(error, OSError) else "it is damaged"
        sentence = f"the Docker context {name!r} cannot be read: {why}"
        raise UserError(sentence, where=str(meta), remedy="`docker context rm` it, and create it again") from None


def _meant(name: str, environ: Mapping[str, str]) -> str:
    """What to do about a context that there is not."""
    known = [_DEFAULT]
    for meta in _contexts(environ).glob("*/meta.json"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known.append(str(json.loads(meta.read_text())["Name"]))
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    unset = "unset DOCKER_CONTEXT" if environ.get("DOCKER_CONTEXT") else "`docker context use default`"
    return f"{unset}, or `docker context create` it"


def _contexts(environ: Mapping[str, str]) -> Path:
    return configuration_folder(environ) / "contexts" / "meta"


def _digest(name: str) -> str:
    """The folder of a context in the docker command's store."""
    return hashlib.sha256(name.encode()).hexdigest()


def configuration(environ: Mapping[str, str]) -> dict[str, Any]:
    """The configuration of the docker command; empty if it cannot be read, which the command itself warns about."""
    with contextlib.suppress(OSError, ValueError):
        content = json.loads((configuration_folder(environ) / "config.json").read_bytes())
        return content if isinstance(content, dict) else {}
    return {}


def configuration_folder(environ: Mapping[str, str]) -> Path:
    """Where the docker command keeps its configuration, contexts and the user's plugins."""
    return Path(environ.get("DOCKER_CONFIG") or Path(environ.get("HOME") or "/root") / ".docker")
