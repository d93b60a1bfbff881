"""What does a test see? Told as an image, so that the fingerprint of images covers it.

A stage is the image with another target. A command sees the finished image with its inputs, so that is an image too:
the one that the test runs in. What else its declaration says is a label of it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import replace

from tasks.compose.project import Image, Project
from tasks.testing.declared import MOUNTED, ImageTest

_SUFFIX = "/test"
_LABEL = "vllm-swarm.test"
_IMAGE = "tested"


def name_of(test: ImageTest) -> str:
    """What this is called beside images: no image has such a name."""
    return f"{test.name}{_SUFFIX}"


def with_tests(project: Project, tests: Mapping[str, ImageTest], declared: str = "") -> Project:
    """The project with what its tests see as further images; ``declared`` counts for those that need services."""
    several = {name_of(test): _variant(project, test, declared) for test in tests.values() if not test.problem}
    return project._replace(images={**project.images, **several})


def _variant(project: Project, test: ImageTest, declared: str) -> Image:
    image = project.images[test.service]
    told = [test.declaration(), declared if test.services else ""]
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    name, ref = name_of(test), f"localhost:0/tests/{test.name.lower()}"
    if test.target:
        labels = {**image.labels, _LABEL: digest}
        return replace(image, name=name, ref=ref, tags=(), duplicate_of="", target=test.target, labels=labels)
    copies = (json.dumps([path, f"{MOUNTED}/{path}"]) for path in test.inputs)
    return Image(
        name,
        ref,
        context=str(project.directory),
        dockerfile_inline="\n".join([f"FROM {_IMAGE}", *(f"COPY {copy}" for copy in copies), ""]),
        contexts={_IMAGE: f"service:{test.service}"},
        platforms=image.platforms,
        labels={_LABEL: digest},
        problem=image.problem,
    )
