"""Is a stage that says ``network: none`` without one?

BuildKit enforces it for a step that says ``RUN --network=none``. A stage often installs what its tests need first, and
that needs a network; so it is the last step of what only the test reaches that must say so.
"""

from __future__ import annotations

from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.stages import stages_of


def problem(inputs: ImageInputs, image: ImageInputs) -> str:
    """Why the test that sees ``inputs`` is not without network, "" if it is; ``image`` is what is tested."""
    stages = stages_of(inputs)
    own = own_stages(inputs, image)
    steps = [
        step
        for stage in stages.all
        if stage.name in own
        for step in stage.commands
        if step.name == "RUN" and not step.trigger
    ]
    if not steps or steps[-1].flag("network") == "none":
        return ""
    return f"{stages.at(steps[-1].line)}: the test is to have no network, so this must be `RUN --network=none`"


def own_stages(inputs: ImageInputs, image: ImageInputs) -> tuple[str, ...]:
    """The stages that the test reaches and its image does not, and the test itself, which an image may build on."""
    theirs = {*image.stages, (image.image.target or "").lower(), ""}
    target = (inputs.image.target or "").lower()
    return (*(name for name in inputs.stages if name not in theirs), target)
