"""The same graph as a definition for ``docker buildx bake``: the way out for anyone who does not want doit.

Pure. Every buildx from 0.13 on can build it: parents become ``target:`` contexts, which Compose's own
``service:`` contexts are not for older ones. What a definition cannot say, or an older buildx passes over in silence,
``untold`` says.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.masking import safe_arguments
from doit_images.core.buildkit.buildx import entitlements, is_at_least, secret_line
from doit_images.core.compose.image import Image
from doit_images.core.inputs.image_inputs import ImageInputs

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# Keys that bake did not know from the beginning, and the version of buildx from which on it does.
_SINCE = {"network": (0, 17), "entitlements": (0, 17), "extra-hosts": (0, 25)}
ASKS_SINCE = (0, 19)
"""From which version on bake asks for what ``allowances`` says."""


def definition(images: Mapping[str, ImageInputs], stand_ins: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The content of a ``docker-bake.json`` that builds these images under their own names; ``stand_ins`` is what the
    engine has for bases under names other than theirs."""
    names: dict[str, str] = {}
    for name in images:
        names[name] = name.replace(".", "_")
        while names[name] in list(names.values())[:-1]:
            names[name] += "_"
    whole = {name: inputs for name, inputs in images.items() if not inputs.problem}
    targets = {names[name]: _target(inputs, names, stand_ins or {}) for name, inputs in whole.items()}
    content: dict[str, Any] = {"group": {"default": {"targets": list(targets)}}, "target": targets}
    # An argument without a value has it from the environment, which bake looks into for its variables only.
    taken = sorted({name for inputs in whole.values() for name in _from_environment(inputs.image)})
    return {"variable": {name: {"default": None} for name in taken}, **content} if taken else content


def untold(content: Mapping[str, Any], images: Mapping[str, ImageInputs], buildx: str) -> list[str]:
    """What these images ask for and ``docker buildx bake`` does not do with this definition, as sentences. ``buildx``
    is what ``docker buildx version`` prints."""
    sentences = []
    for key, since in _SINCE.items():
        names = [name for name, target in content["target"].items() if key in target]
        if names and not is_at_least(buildx, since):
            version = ".".join(map(str, since))
            sentences.append(f"bake passes over {key} of {', '.join(names)} before buildx {version}, which is not here")
    for name, inputs in images.items():
        lost = {arg for arg, value in inputs.image.args.items() if value is None} - set(_from_environment(inputs.image))
        sentences += [f"bake cannot give {name} the argument {arg} from the environment" for arg in sorted(lost)]
        hidden = [arg for arg, value in _shown(inputs.image).items() if value is None and inputs.image.args[arg]]
        sentences += [f"bake has {arg} of {name}, which may be a secret, from the environment" for arg in hidden]
        if inputs.ignore:
            sentences.append(f"bake copies the folder {OWN_FOLDER} into {name}: its ignore file does not hide it")
    return sentences


def unknown(target: Collection[str], buildx: str) -> list[str]:
    """The keys of a target that this buildx would pass over."""
    return [key for key, since in _SINCE.items() if key in target and not is_at_least(buildx, since)]


def allowances(content: Mapping[str, Any], folder: Path) -> list[str]:
    """The options with which ``docker buildx bake`` builds this definition without asking, in ``folder``.

    From 0.19 on it asks for what it is to read outside that folder, for SSH agents, and for entitlements.
    """
    targets = content["target"].values()
    paths = {Path(path).resolve() for target in targets for path in _read(target)} - {folder.resolve()}
    outside = sorted(
        path for path in paths if not paths.intersection(path.parents) and folder.resolve() not in path.parents
    )
    more = {word for target in targets for word in target.get("entitlements", ())}
    more |= {"ssh" for target in targets for agent in target.get("ssh", ()) if "=" not in agent}
    return [f"--allow={word}" for word in [*(f"fs.read={path}" for path in outside), *sorted(more)]]


def _read(target: Mapping[str, Any]) -> Iterator[str]:
    """The absolute paths that bake reads for this target: contexts, a Dockerfile elsewhere, secrets and SSH keys."""
    named = (value.removeprefix("oci-layout://") for value in target.get("contexts", {}).values())
    keys = (path for agent in target.get("ssh", ()) for path in agent.partition("=")[2].split(","))
    secrets = (field for line in target.get("secret", ()) for field in next(csv.reader([line])))
    files = (field.removeprefix("src=") for field in secrets if field.startswith("src="))
    for path in (target["context"], target.get("dockerfile", ""), *named, *keys, *files):
        if path.startswith("/"):
            yield path.replace("$${", "${").replace("%%{", "%{")


def _shown(image: Image) -> dict[str, str | None]:
    """The arguments as they may be shown: None for a value that may be a secret."""
    safe = safe_arguments(image.args)
    return {name: value if safe[name] == value else None for name, value in image.args.items()}


def _target(inputs: ImageInputs, names: Mapping[str, str], stand_ins: Mapping[str, str]) -> dict[str, Any]:
    image = inputs.image
    contexts = {name: value for name, value in image.contexts.items() if not value.startswith("service:")}
    contexts |= {context: f"target:{names[parent]}" for context, parent in inputs.parents.items()}
    contexts |= {ref: f"docker-image://{stand_ins[ref]}" for ref in inputs.bases if stand_ins.get(ref, ref) != ref}
    attestations = (("provenance", image.provenance), ("sbom", image.sbom))
    whole = {
        "context": image.context,
        "dockerfile": image.dockerfile,
        "dockerfile-inline": image.dockerfile_inline,
        "target": image.target,
        "args": {name: value for name, value in _shown(image).items() if value is not None},
        "contexts": contexts,
        "secret": [secret_line(secret) for secret in image.secrets],
        "ssh": list(image.ssh),
        "platforms": list(image.platforms),
        "labels": dict(image.labels),
        "network": image.network,
        "shm-size": image.shm_size,
        "ulimits": list(image.ulimits),
        "extra-hosts": hosts(image.extra_hosts),
        "cache-from": list(image.cache_from),
        "cache-to": list(image.cache_to),
        "entitlements": list(entitlements(image)),
        "attest": [attestation(kind, value) for kind, value in attestations if value],
        "no-cache-filter": list(image.no_cache_filter),
        "no-cache": image.no_cache,
        "pull": image.pull,
        "tags": list(image.names),
        "output": ["type=docker"],
    }
    target: dict[str, Any] = {key: plain(value) for key, value in whole.items() if value}
    for name in _from_environment(image):
        target.setdefault("args", {})[name] = f"${{{name}}}"
    return target


def attestation(kind: str, value: str) -> str:
    """An attestation of this kind, as bake has it."""
    return f"type={kind}" if value.lower() in ("true", "t", "1") else f"type={kind},{value}"


def plain(value: object) -> Any:
    """A value with its texts as bake must read them: it expands ``${…}`` and ``%{…}``."""
    if isinstance(value, str):
        return value.replace("${", "$${").replace("%{", "%%{")
    if isinstance(value, list):
        return [plain(item) for item in value]
    return {plain(key): plain(item) for key, item in value.items()} if isinstance(value, dict) else value


def _from_environment(image: Image) -> list[str]:
    return [name for name, value in _shown(image).items() if value is None and _VARIABLE.fullmatch(name)]


def hosts(lines: Iterable[str]) -> dict[str, str]:
    """Names of hosts with their addresses, as bake has them."""
    addresses: dict[str, str] = {}
    for line in lines:
        name, _, address = line.partition(":")
        addresses[name] = f"{addresses[name]},{address}" if name in addresses else address
    return addresses
