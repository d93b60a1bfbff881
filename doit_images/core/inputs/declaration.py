"""What of an image's declaration can change it, besides the files that its Dockerfile reads?"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doit_images.core.base.masking import HIDDEN, safe_arguments
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import PROXIES, dockerfile_text
from doit_images.core.engine.endpoint import configuration
from doit_images.core.inputs import reads as reading
from doit_images.core.inputs.reads import Reads

OCI_LAYOUT = "oci-layout://"
# Arguments that tell a Dockerfile where it is built; what is built by another processor may be another image.
_BUILD_PLATFORM = {f"BUILD{part}" for part in ("PLATFORM", "OS", "OSVERSION", "ARCH", "VARIANT")}


def settings(
    image: Image,
    reads: Reads | None,
    platforms: tuple[str, ...],
    built_on: tuple[str, ...],
    environ: Mapping[str, str],
) -> dict[str, Any]:
    """The build settings that can change the result. An argument that no reached stage declares cannot; one without
    a value has it from the environment of the build. Where it is built counts where the Dockerfile asks for it."""
    asks = reads is None or bool(_BUILD_PLATFORM & {*reads.args})
    args = {
        name: environ.get(name) if value is None else value
        for name, value in image.args.items()
        if reads is None or name in reads.args
    }
    whole = {
        "args": _proxies(reads, environ) | safe_arguments(args),
        "target": image.target or "",
        "dockerfile": image.dockerfile if image.remote_context else "",
        "platforms": ", ".join(platforms),
        "build_platform": ", ".join(built_on) if asks else "",
        "labels": safe_arguments(image.labels),
        "secrets": [secret.id for secret in image.secrets],
        "ssh": list(image.ssh),
        "network": image.network,
        "shm_size": image.shm_size,
        "extra_hosts": list(image.extra_hosts),
        "ulimits": list(image.ulimits),
        "entitlements": list(image.entitlements),
        "privileged": image.privileged,
        "provenance": image.provenance,
        "sbom": image.sbom,
        "unsupported": safe_arguments(image.unsupported),
        "contexts": {name: value for name, value in image.contexts.items() if not value.startswith("/")},
    }
    return {key: value for key, value in whole.items() if value}


def _proxies(reads: Reads | None, environ: Mapping[str, str]) -> dict[str, str | None]:
    """The proxies that the docker command's configuration gives every build, where the Dockerfile declares one."""
    asked = [name for name in (reads.args if reads else ()) if name.upper() in PROXIES]
    if not asked or not (known := configuration(environ).get("proxies")):
        return {}
    return dict.fromkeys(asked, HIDDEN + hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest())


def remotes(image: Image, reads: Reads | None, directory: Path) -> tuple[str, ...]:
    """The sources that only a build can look at, each as a text; ``directory`` is the project's."""
    sources = [image.context] if image.remote_context else []
    if reads:
        sources += [remote.text for remote in reads.remotes if not remote.pinned]
        plain = ("service:", "docker-image://", "/")
        named = [image.contexts[name] for name in reads.contexts]
        sources += [_layout(value, directory) for value in named if not value.startswith(plain)]
    return tuple(sources)


def _layout(value: str, directory: Path) -> str:
    """An image in a folder (``oci-layout://PATH[:TAG]``) with the digest of the list that says what its tag is; any
    other source as it is."""
    path = value.removeprefix(OCI_LAYOUT)
    if path == value or "@" in path:
        return value
    name, _, tag = path.rpartition(":")
    try:
        index = (directory / (name if name and "/" not in tag else path) / "index.json").read_bytes()
    except OSError:
        return value  # the build says what is wrong
    return f"{value} sha256:{hashlib.sha256(index).hexdigest()[:12]}"


def local_text(image: Image) -> str:
    """The Dockerfile that is given to a remote context from here, "" if it comes with the context."""
    return dockerfile_text(image) if image.dockerfile_inline is not None or image.dockerfile.startswith("/") else ""


def unseen(image: Image) -> Reads:
    """What the Dockerfile of a remote context reads here: it cannot be looked at, so all that it could."""
    folders = [name for name, value in image.contexts.items() if value.startswith("/")]
    return reading.unseen(image.contexts, folders, {*image.args, *_BUILD_PLATFORM, *PROXIES})
