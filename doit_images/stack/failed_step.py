"""What did the RUN that failed meet? A shell in that state: ``doit shell --failed IMAGE``.

The history knows which RUN it was. A build of a Dockerfile that ends just before it (``inputs.cut``) comes out of the
builder's cache; a container of that image has the RUN's environment, user, folder and, as far as a container can, its
mounts (``run_mounts``).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError, meant, printable
from doit_images.core.base.events import CommandEnded
from doit_images.core.building import aside
from doit_images.core.buildkit.progress import first_word
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.engine.endpoint import leading_to
from doit_images.core.history.store import Status, StepRecord
from doit_images.core.inputs import bases
from doit_images.core.inputs.cut import COUNTED, UNSET, Cut, Place, before
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.instructions import mount_fields
from doit_images.core.local_images import LocalImages
from doit_images.core.planning.plan import Action
from doit_images.core.run import Run
from doit_images.stack import copies, one_container
from doit_images.stack.inside import has_terminal
from doit_images.stack.run_mounts import HELD, Mounts, hand_over

_PROXIES = re.compile("(HTTP|HTTPS|FTP|NO|ALL)_PROXY", re.IGNORECASE)
_FLAGS = re.compile("-[a-z]{1,6}")
_SHELL = ["/bin/sh", "-c"]


def shell(run: Run, words: Sequence[str], *, root: bool) -> None:
    """Open a shell, or run the command behind the image's name, in the state before the RUN that ended its last build.
    Its status becomes that of the run. Raises ``UserError`` when no RUN failed, and where that state cannot be had."""
    if not words:
        raise UserError("shell --failed needs the name of an image", remedy="doit shell --failed IMAGE [COMMAND …]")
    name, *command = words
    inputs, place = _failed(run, name)
    cut = _cut(run.engine, run.local_images, inputs, place)
    with contextlib.ExitStack() as stack:
        state, config = _state(run, inputs, cut, stack)
        mounts = _mounts(run, inputs, cut, config, stack)
        program = command or _interactive(config.get("Shell") or _SHELL)
        options = [*_options(inputs.image, cut, root=root), *_variables(run.build_environ, inputs.image, mounts, stack)]
        _tell(inputs, cut, config, mounts.said)
        made = one_container.created(run.engine, *options, *mounts.options, "--entrypoint", "", state, *program)
        container = stack.enter_context(made)
        hand_over(run.engine, container, "/", mounts.secrets)
        argv = ["docker", "start", "--attach", "--interactive", container]
        status = commands.show(argv, env=leading_to(run.engine.address))
        if status and _trouble(run.engine, container):
            raise UserError(f"{program[0]} cannot be run there", remedy=f"doit shell --failed {name} COMMAND …")
    if command or not has_terminal():
        run.events.emit(CommandEnded(status))


def _failed(run: Run, name: str) -> tuple[ImageInputs, Place]:
    """What stands in front of the RUN at which the last build of an image ended is made of, and where that RUN is.
    Raises ``UserError``."""
    if name not in run.project.images:
        raise UserError(f"no image is called {name!r}", remedy=meant(name, run.project.images))
    if run.settings.registry_only:
        raise UserError("a shell needs an engine, and images are built without one here")
    decision = run.planner.decide(name)
    inputs, last = decision.inputs, next(iter(run.history.recent(name, 1)), None)
    if last is None or last.status != Status.FAILED or last.ref != inputs.image.ref:
        raise UserError(f"{name} did not fail when it was last built here, so there is no step to look into")
    if decision.action == Action.BROKEN or last.fingerprint != inputs.fingerprint:
        why = "; ".join(decision.reasons) if decision.action == Action.BROKEN else "its inputs changed since it failed"
        raise UserError(f"{name}: {why}", remedy=f"doit build:{name} tells where it fails now")
    failed = sorted((step for step in last.steps if step.error), key=lambda step: "cancel" in step.error.lower())
    if not failed or _instruction(failed[0]) != "RUN":
        at = f" at {failed[0].name}" if failed else ""
        raise UserError(f"{name} failed{at}, which is no RUN, so there is no step to look into")
    if inputs.image.remote_context and inputs.image.dockerfile_inline is None:
        raise UserError(f"{name} is built from a Dockerfile that only BuildKit sees, in {inputs.image.context}")
    return _alone(inputs, failed[0]), _place(failed[0], last.steps)


def _instruction(step: StepRecord) -> str:
    return first_word(step.name.partition("] ")[2] if step.number else step.name)


def _place(step: StepRecord, steps: Sequence[StepRecord]) -> Place:
    """Where the step is, by how BuildKit numbered all: not FROM of a named context, and none of a stage that has only
    what its base hands on."""
    if not step.number:
        nameless = [each for each in steps if not each.number and _instruction(each) in COUNTED]
        return Place("", nameless.index(step) + 1, step.line, nameless=True)
    begins = any((each.stage, each.number, _instruction(each)) == (step.stage, 1, "FROM") for each in steps)
    return Place(step.stage, step.number - begins, step.line)


def _alone(inputs: ImageInputs, step: StepRecord) -> ImageInputs:
    """The inputs for what stands in front of the step, of the platform for which it failed."""
    image = replace(
        inputs.image,
        target=None,
        labels={},
        provenance="false",
        sbom="",
        no_cache_filter=(),
        # What BuildKit finds to object to is not the question here.
        args={**inputs.image.args, "BUILDKIT_DOCKERFILE_CHECK": "skip=all"},
    )
    return replace(inputs, image=image, platforms=(_platform(inputs.platforms, step.stage),))


def _platform(platforms: Sequence[str], stage: str) -> str:
    """Which of these platforms a stage is built for, as BuildKit calls it.

    >>> _platform(["linux/amd64", "linux/arm64"], "linux/amd64->arm64 builder")
    'linux/arm64'
    >>> _platform(["linux/amd64"], "builder")
    'linux/amd64'
    """
    word = next((word for word in stage.split() if "/" in word), "").rpartition("->")[2]
    return next((each for each in platforms if word in (each, each.partition("/")[2])), platforms[0])


def _cut(engine: Engine, local_images: LocalImages, inputs: ImageInputs, place: Place) -> Cut:
    """The Dockerfile that ends before the RUN there. Raises ``UserError``."""

    def triggers(origin: str, platform: str) -> Sequence[str]:
        return local_images.config_of(_held(local_images, inputs, origin, platform)[1]).onbuild

    def config(origin: str, platform: str) -> Mapping[str, Any]:
        return aside.configuration(engine, _held(local_images, inputs, origin, platform)[0])

    cut = before(inputs, place, triggers, config)
    if cut is None:
        raise UserError(f"{inputs.name}: BuildKit does not say which RUN of its Dockerfile failed")
    return cut


def _held(local_images: LocalImages, inputs: ImageInputs, origin: str, platform: str) -> tuple[str, LocalImage]:
    """What the engine calls the image that a Dockerfile's name means, and that image. Raises ``UserError``."""
    tag = inputs.parent_tags.get(origin, "")
    there = local_images.snapshot().get(tag) if tag else None
    ref = bases.external(inputs.image, origin)
    found = (tag, there) if there else local_images.base(ref, platform or inputs.platforms[0]) if ref else None
    if found is None:
        raise UserError(f"{inputs.name}: the engine does not hold its base {origin}", remedy=f"docker pull {origin}")
    return found


def _state(run: Run, inputs: ImageInputs, cut: Cut, stack: contextlib.ExitStack) -> tuple[str, Mapping[str, Any]]:
    """The image of what the step met, until the stack's end, and what it is set to. Raises ``UserError``."""
    state = stack.enter_context(aside.image(run, inputs, cut.keeping(cut.arguments), called="before"))
    config = aside.configuration(run.engine, state)
    unset = {name for name, _, value in (text.partition("=") for text in config.get("Env") or ()) if value == UNSET}
    if unset:
        kept = [name for name in cut.arguments if name not in unset]
        state = stack.enter_context(aside.image(run, inputs, cut.keeping(kept), called="before"))
        config = aside.configuration(run.engine, state)
    return state, config


def _mounts(run: Run, inputs: ImageInputs, cut: Cut, config: Mapping[str, Any], stack: contextlib.ExitStack) -> Mounts:
    """The mounts of the step, until the stack's end. Raises ``UserError``."""
    known = dict(text.split("=", 1) for text in config.get("Env") or ())
    said = [mount_fields(text, cut.escape, known, inputs.name) for text in cut.instruction.flags.get("mount", ())]
    held = any(mount.get("type", "bind") in ("bind", "cache") for mount in said)
    volume = stack.enter_context(copies.passing_volume(run.engine)) if held else ""
    mounts = Mounts(run, inputs.image, config.get("WorkingDir") or "/", volume, stack)
    for number, mount in enumerate(said):
        mounts.add(number, mount)
    if held:
        # At least an empty folder: an image without a layer is none.
        lines = ["FROM scratch", f"WORKDIR {HELD}", *mounts.copies, ""]
        with (
            aside.image(run, inputs, "\n".join([cut.text, *lines]), called="before") as image,
            one_container.created(run.engine, "--volume", f"{volume}:{HELD}", image, "none") as container,
        ):
            hand_over(run.engine, container, HELD, mounts.entries)
    return mounts


def _options(image: Image, cut: Cut, *, root: bool) -> list[str]:
    """How the step was to be run, as words of ``docker create``."""
    network = cut.instruction.flag("network") or image.network or "default"
    several = {
        "--add-host": image.extra_hosts,
        "--ulimit": image.ulimits,
        "--shm-size": [image.shm_size] if image.shm_size else [],
        "--device": [each.split(",")[0].removeprefix("name=") for each in cut.instruction.flags.get("device", ())],
        "--user": ["0:0"] if root else [],
    }
    words = [word for option, values in several.items() for value in values for word in (option, value)]
    words += ["--privileged"] if cut.instruction.flag("security") == "insecure" else []
    words += ["--tty"] if has_terminal() else []
    return ["--interactive", "--no-healthcheck", "--network", network, *words]


def _variables(environ: Mapping[str, str], image: Image, mounts: Mounts, stack: contextlib.ExitStack) -> list[str]:
    """What is in the environment of a RUN alone, handed over in a file: a command line may be seen."""
    proxies = {name: value for name, value in image.args.items() if _PROXIES.fullmatch(name)}
    given = {name: environ.get(name, "") if value is None else value for name, value in proxies.items()}
    lines = [f"{name}={value}" for name, value in {**given, **mounts.environ}.items()]
    if several := [line.partition("=")[0] for line in lines if "\n" in line]:
        mounts.said.append(f"not set here, since they have several lines: {', '.join(several)}")
    file = stack.enter_context(leftovers.folder("shell-")) / "environ"
    text = "".join(f"{line}\n" for line in lines if "\n" not in line)
    file.write_bytes(text.encode(errors="surrogateescape"))
    return ["--env-file", str(file)]


def _interactive(shell: Sequence[str]) -> list[str]:
    """A shell as SHELL names it, to be typed into: without the flag for one command, and it stays when that fails.

    >>> _interactive(["/bin/bash", "-euo", "pipefail", "-c"]), _interactive(["/bin/sh", "-ec"])
    (['/bin/bash', '-uo', 'pipefail'], ['/bin/sh'])
    """
    words = [re.sub("[ce]", "", word) if _FLAGS.fullmatch(word) else word for word in shell[1:]]
    return [shell[0], *(word for word in words if word != "-")]


def _tell(inputs: ImageInputs, cut: Cut, config: Mapping[str, Any], said: Sequence[str]) -> None:
    """Say what failed, so that it can be repeated, and how far this is what it met."""
    where = os.path.relpath(inputs.image.dockerfile, inputs.directory) if inputs.image.dockerfile else "its Dockerfile"
    as_it_is = json.dumps(cut.instruction.words[0], ensure_ascii=False) in cut.shown
    by = "" if as_it_is else f", run by `{' '.join(config.get('Shell') or _SHELL)}`"
    user, folder = config.get("User") or "root", config.get("WorkingDir") or "/"
    lines = [
        f"{inputs.name} failed at {where}:{cut.line}{by}:",
        "",
        *(f"    {printable(line)}" for line in cut.shown.split("\n")),
        "",
        *said,
        f"This is what it met, as {user} in {folder}; `exit` ends it.",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def _trouble(engine: Engine, container: str) -> str:
    """Why a container could not be started, "" if it was."""
    argv = ["docker", "container", "inspect", "--format", "{{.State.Error}}", container]
    done = commands.run(argv, env=leading_to(engine.address))
    return "" if done.status else done.stdout.strip()
