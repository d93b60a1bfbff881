"""What does a test see? Told as an image, so that the fingerprint of images covers it.

A stage is the image with another target. A command sees the finished image with its inputs, so that is an image too:
the one that the test runs in. What else its declaration says is a label of it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from doit_images.ci.testing.declared import MOUNTED, ImageTest
from doit_images.core.base.masking import HIDDEN
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project

_SUFFIX = "/test"
# On no image that is kept, but part of the fingerprints of tests: under another name each test would run once more.
_LABEL = "vllm-swarm.test"
_IMAGES, _SERVICES, _MOUNTED = f"{_LABEL}.images", f"{_LABEL}.services", f"{_LABEL}.mounted."
_WORDS = {
    _LABEL: "what is declared of it",
    _IMAGES: "the list of images that its services run",
    _SERVICES: "what Compose says of its services",
}
_OF_LABEL = re.compile(rf"^label `({re.escape(_LABEL)}(?:\.images|\.services|\.mounted\.([^`]*))?)`")
_IMAGE = "tested"


def name_of(test: ImageTest) -> str:
    """What this is called beside images: no image has such a name."""
    return f"{test.name}{_SUFFIX}"


class Around(NamedTuple):
    """What surrounds a test at a commit: the images that its services run, a digest of what Compose says of these, and
    a digest for each path that is mounted into them."""

    images: tuple[str, ...]
    declared: str
    mounted: Mapping[str, str]


def with_tests(project: Project, tests: Mapping[str, ImageTest], around: Mapping[str, Around] | None = None) -> Project:
    """The project with what its tests see as further images; ``around``: of some by name, what their services are."""
    several = {
        name_of(test): _variant(project, test, (around or {}).get(test.name))
        for test in tests.values()
        if not test.problem
    }
    return project._replace(images={**project.images, **several})


def images_around(image: Image) -> list[str]:
    """The images that the services of a test run, of what the test sees as an image."""
    return image.labels.get(_IMAGES, "").split()


def in_words(reason: str) -> str:
    """A difference of what a test sees, as people say it who know of no labels.

    >>> in_words("label `vllm-swarm.test` changed"), in_words("label `vllm-swarm.test.mounted.a/b` changed")
    ('what is declared of it changed', 'what is mounted from `a/b` changed')
    """
    return _OF_LABEL.sub(
        lambda told: _WORDS[told[1]] if told[1] in _WORDS else f"what is mounted from `{told[2]}`", reason
    )


def _labels(test: ImageTest, around: Around | None) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(test.declaration(), sort_keys=True).encode()).hexdigest()
    labels = {_LABEL: HIDDEN + digest}
    if around:
        labels |= {_IMAGES: " ".join(around.images), _SERVICES: HIDDEN + around.declared}
        labels |= {f"{_MOUNTED}{path}": HIDDEN + content for path, content in around.mounted.items()}
    return labels


def _variant(project: Project, test: ImageTest, around: Around | None) -> Image:
    image = project.images[test.service]
    labels = _labels(test, around)
    name, ref = name_of(test), f"localhost:0/tests/{test.name.lower()}"
    if test.target:
        labels = {**image.labels, **labels}
        return replace(image, name=name, ref=ref, tags=(), duplicate_of="", target=test.target, labels=labels)
    copies = (json.dumps([path, f"{MOUNTED}/{path}"]) for path in test.inputs)
    return Image(
        name,
        ref,
        context=str(project.directory),
        dockerfile_inline="\n".join([f"FROM {_IMAGE}", *(f"COPY {copy}" for copy in copies), ""]),
        contexts={_IMAGE: f"service:{test.service}"},
        platforms=image.platforms,
        labels=labels,
        problem=image.problem,
    )
