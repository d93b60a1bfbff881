"""What was an image made of, and how, as a statement that other tools read? Pure.

SLSA's provenance (https://slsa.dev/spec/v1.0/provenance) in an in-toto statement, which ``attached`` signs. What the
build resolved are the ingredients of the fingerprint, one by one, so that whoever holds the sources can compare file by
file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from doit_images.ci.sbom.attached import PROVENANCE
from doit_images.core.base.timestamps import utc
from doit_images.core.history.store import Build
from doit_images.core.inputs.fingerprint import BuildInputs

_STATEMENT = "https://in-toto.io/Statement/v1"
_BUILD_TYPE = "urn:doit-images:docker-buildx:v1"
_BUILDER = "urn:doit-images:builder"


class Made(NamedTuple):
    """An image and its ingredients: its reference, its fingerprint, its own inputs, and the fingerprint of each parent
    by its reference."""

    ref: str
    fingerprint: str
    build_inputs: BuildInputs
    parents: Mapping[str, str]


def statement(digest: str, made: Made, build: Build, tool: str) -> dict[str, Any]:
    """The statement that what has this ``digest`` (``sha256:…``) was made so by this build; ``tool`` is what built
    it."""
    return {
        "_type": _STATEMENT,
        "subject": [{"name": made.ref, "digest": _digest(digest)}],
        "predicateType": PROVENANCE.predicate,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {"image": made.ref, "settings": made.build_inputs.settings},
                "internalParameters": {"fingerprint": made.fingerprint, "commit": build.commit},
                "resolvedDependencies": [*_files(made), *_bases(made), *_parents(made)],
            },
            "runDetails": {
                "builder": {"id": f"{_BUILDER}:{quote(build.builder or 'engine', safe='')}", "version": {tool: "1"}},
                "metadata": {
                    "invocationId": build.run,
                    "startedOn": utc(build.started),
                    "finishedOn": utc(build.ended),
                },
            },
        },
    }


def _files(made: Made) -> Iterable[dict[str, Any]]:
    """The files of the context; a remote one is known by its text alone."""
    for path, text in sorted(made.build_inputs.files.items()):
        kind, mode, digest = text.split(" ", 2)
        entry = {"name": path, "annotations": {"kind": kind, "mode": mode}}
        yield entry | {"uri": f"file:{quote(path)}", "digest": {"sha256": digest}}
    for remote in made.build_inputs.remotes:
        yield {"uri": remote}


def _bases(made: Made) -> Iterable[dict[str, object]]:
    """The external bases. One that is not pinned counts by its layers and configuration, which is no registry's
    digest."""
    for ref, content in sorted(made.build_inputs.bases.items()):
        pinned = ref.partition("@")[2]
        known = {"digest": _digest(pinned)} if pinned else {"annotations": {"content": content}}
        yield {"name": "base", "uri": _url(ref), **known}


def _parents(made: Made) -> Iterable[dict[str, object]]:
    for ref, number in sorted(made.parents.items()):
        yield {"name": "parent", "uri": _url(ref), "annotations": {"fingerprint": number}}


def _url(ref: str) -> str:
    return f"docker-image://{quote(ref, safe='/:@')}"


def _digest(text: str) -> dict[str, str]:
    algorithm, _, number = text.partition(":")
    return {algorithm: number}
