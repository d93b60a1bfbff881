"""Which builds would BuildKit refuse, whatever their Dockerfiles say?

From 0.17 on, which is in Engine 27.4, it refuses all names of a context that are not UTF-8: of files, and what links
lead to. Older ones build them. What is not sent, because nothing copies it or an ignore file hides it, is no problem
for either. A secret whose file is not there is one for all, even where no step mounts it; an image that is here needs
none. Attestations have to be kept: the engine's own BuildKit makes none for the classic store.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from doit_images.core.compose.place import place
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.plan import Action, Decision

_SINCE = (27, 4)


@dataclass(frozen=True)
class Builds:
    """Who builds, and by which Compose ``files``: the engine of this ``version`` ("": not known), or not; ``attests``
    says whether it makes attestations."""

    version: str
    files: Sequence[Path]
    attests: Callable[[], bool]


def without(decided: Mapping[str, Decision], builds: Builds) -> dict[str, Decision]:
    """The same decisions, parents first, where what would be refused is broken, and what needs it."""
    decisions: dict[str, Decision] = {}
    for name, decision in decided.items():
        why = problem(decision.inputs, builds) if decision.builds else ""
        held_up = (parent for parent in decision.inputs.parents.values() if decisions[parent].action == Action.BROKEN)
        if not why and (parent := next(held_up, "")):
            why = f"needs `{parent}`, which is broken"
        if why and decision.action != Action.BROKEN:
            decision = Decision(name, Action.BROKEN, (why,), replace(decision.inputs, problem=why))
        decisions[name] = decision
    return decisions


def problem(inputs: ImageInputs, builds: Builds) -> str:
    """Why this image cannot be built; "" if nothing stands in its way, or if that is not known."""
    for secret in inputs.image.secrets:
        if secret.file and not os.path.exists(secret.file):  # noqa: PTH110  never raises
            where = place(builds.files, "secrets", secret.id, "file")
            return f"{where}: the secret {secret.id} is to be read from {secret.file}, which is not there"
    for key, asked in (("provenance", inputs.image.provenance), ("sbom", inputs.image.sbom)):
        if asked and not builds.attests():
            where = place(builds.files, "services", inputs.name, "build", key)
            what = f"build.{key} asks for an attestation, which the engine's classic store cannot keep"
            return f"{where}: {what} (leave it out, turn containerd's store on, or set BUILDER_DRIVER=docker-container)"
    path = next(_odd(inputs), "") if refuses(builds.version) else ""
    if not path:
        return ""
    what = f"the BuildKit of Engine {builds.version} refuses names that are not UTF-8"
    return f"{what}: {readable(path)} (rename it, or hide it in the ignore file)"


def refuses(engine: str) -> bool:
    """Whether an engine of this version has a BuildKit that refuses such names."""
    version = re.match(r"(\d+)\.(\d+)\.", engine)
    return version is not None and (int(version[1]), int(version[2])) >= _SINCE


def readable(path: str) -> str:
    r"""A path with the bytes that are not UTF-8 as ``\xff``.

    >>> readable(os.fsdecode(b"a/\xff"))
    'a/\\xff'
    """
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _odd(inputs: ImageInputs) -> Iterator[str]:
    """The inputs whose name, or what they lead to, is not UTF-8."""
    for part in filter(lambda part: part.sent, inputs.parts):
        for entry in part.selection.entries():
            path = f"{part.root}/{entry.path}"
            texts = (entry.path, os.readlink(path)) if entry.kind == "link" else (entry.path,)  # noqa: PTH115 as it is
            if not all(map(_is_text, texts)):
                yield os.path.relpath(path, inputs.directory)


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
