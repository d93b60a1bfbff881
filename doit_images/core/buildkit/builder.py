"""Which BuildKit builds?

The engine's own (``BUILDER_DRIVER=docker``, nothing to set up), or a dedicated one: in a container of this engine, at
the other end of a network, in a Kubernetes cluster; one node or several, each with the platforms that are native
there. What a dedicated builder is made from is kept as one digest in ``.doit-images/builder.json``: it is made again
when that changes, and left alone otherwise.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doit_images.core.base import checked_json, commands
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
from doit_images.core.base.platforms import normalise
from doit_images.core.base.settings import BuilderDriver, Settings, root
from doit_images.core.engine.endpoint import context

CERTIFICATES = {"cacert": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
"""Driver options of a remote node, and the files of ``BUILDER_CERTS`` that they name."""

# Booting pulls an image where it is not there yet.
_BOOT_SECONDS = 180


@dataclass(frozen=True)
class BuilderNode:
    """One BuildKit of a builder: where it is ("" for here), and the platforms that it is asked to build."""

    endpoint: str = ""
    platforms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """What a dedicated builder is made from. ``config`` is the text of ``buildkitd.toml``, None where the driver takes
    none; ``options`` are the driver's."""

    name: str
    driver: BuilderDriver
    nodes: tuple[BuilderNode, ...]
    options: tuple[str, ...] = ()
    config: str | None = None
    config_path: str = ""

    @property
    def digest(self) -> str:
        """Changes whenever the builder has to be made again."""
        nodes = [[node.endpoint, list(node.platforms)] for node in self.nodes]
        whole = [self.name, self.driver, nodes, list(self.options), self.config]
        return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def name(settings: Settings) -> str:
    """What the history calls the builder: ``docker`` is the engine's own."""
    return settings.builder_name if settings.dedicated_builder else "docker"


def recipe(settings: Settings, folder: Path | None = None) -> Recipe:
    """What the settings ask for, with the files of a folder (default: the project's root); ``UserError`` where they do
    not fit together or ``buildkitd.toml`` has a mistake."""
    driver = settings.builder_driver
    nodes = tuple(_node(text) for text in settings.builder_endpoints) or (BuilderNode(),)
    if driver == BuilderDriver.REMOTE and not settings.builder_endpoints:
        raise UserError("a remote builder needs BUILDER_ENDPOINTS", remedy="such as tcp://builder.example.org:1234")
    for node in nodes:
        if driver == BuilderDriver.REMOTE and "://" not in node.endpoint:
            raise UserError(
                f"BUILDER_ENDPOINTS holds {node.endpoint!r}, which is not an address of BuildKit",
                remedy="tcp://HOST:PORT, unix:///PATH, docker-container://NAME or kube-pod://NAME",
            )
    options = list(settings.builder_options)
    for option in options:
        if "=" not in option:
            raise UserError(f"BUILDER_OPTIONS holds {option!r}", remedy="options look like network=host")
    if settings.builder_certs:
        options += _certificates(settings.builder_certs, driver)
    config, path = None, ""
    if driver in (BuilderDriver.DOCKER_CONTAINER, BuilderDriver.KUBERNETES):
        from doit_images.core.buildkit import buildkitd  # the engine's own builder has no such file

        file = (folder or root()) / settings.builder_config
        if file.is_file():
            config, path = file.read_text(), str(file)
            buildkitd.check(config, settings.builder_config)
        elif settings.builder_config != Settings.builder_config:  # without the default one BuildKit's own limits hold
            raise UserError("there is no such file", where=str(file), remedy="see BUILDER_CONFIG")
    return Recipe(settings.builder_name, driver, nodes, tuple(options), config, path)


def create_argv(made: Recipe) -> list[list[str]]:
    """The commands that make the builder: one for each node, the later ones appended to the first."""
    argvs = []
    for number, node in enumerate(made.nodes):
        argv = ["docker", "buildx", "create", "--name", made.name, "--driver", made.driver]
        argv += ["--node", f"{made.name}{number}"]
        if number:
            argv.append("--append")
        for option in made.options:
            argv += ["--driver-opt", option]
        if node.platforms:
            argv += ["--platform", ",".join(node.platforms)]
        if made.config_path:
            argv += ["--buildkitd-config", made.config_path]
        if node.endpoint:
            argv.append(node.endpoint)
        argvs.append(argv)
    return argvs


def argv(settings: Settings, environ: Mapping[str, str]) -> list[str]:
    """What the build command needs in order to use the builder, whichever one ``docker buildx use`` chose.

    The engine's own goes by the name of the Docker context that leads to the engine.
    """
    return ["--builder", settings.builder_name if settings.dedicated_builder else context(environ)]


def init(settings: Settings, folder: Path, environ: Mapping[str, str]) -> str:
    """Make, adopt or leave alone the dedicated builder, boot it, and say in one sentence which it was. ``UserError``
    when a setting or ``buildkitd.toml`` is wrong, and when the builder does not come up."""
    made, before = recipe(settings), state(folder)
    known, ours = before.get("digest"), bool(before.get("ours"))
    there = driver_of(made.name, environ)
    if known is None and there == made.driver:
        # Made by hand or by another checkout; what it was made from is not known.
        done, ours = f"adopted the builder {made.name!r} ({made.driver}) that was there", False
    elif there and known == made.digest:
        done = f"the builder {made.name!r} ({made.driver}) is as declared"
    else:
        if there:
            # The cache is the driver's volume, which costs more to make again than the container around it.
            keep = ["--keep-state"] if there == made.driver == BuilderDriver.DOCKER_CONTAINER else []
            _run(["docker", "buildx", "rm", *keep, made.name], environ)
        for command in create_argv(made):
            _run(command, environ)
        how = "made again, because its settings changed," if there else "made"
        nodes = f"{len(made.nodes)} node{'s' * (len(made.nodes) > 1)}"
        done, ours = f"{how} the builder {made.name!r} ({made.driver}, {nodes})", True
    content = {"name": made.name, "digest": made.digest, "platforms": _boot(made, environ), "ours": ours}
    checked_json.remember(_state(folder), content)
    return done


def ready(settings: Settings, folder: Path, environ: Mapping[str, str]) -> None:
    """See before a build that the dedicated builder is there as declared; costs one small file when it is."""
    if state(folder).get("digest") != recipe(settings).digest:
        init(settings, folder, environ)


def driver_of(name: str, environ: Mapping[str, str]) -> str:
    """The driver of a builder, which is not booted for it; "" if there is no such builder."""
    done = commands.run(["docker", "buildx", "inspect", name], env=environ)
    lines = (line.partition(":") for line in done.stdout.splitlines())
    return "" if done.status else next((value.strip() for key, _, value in lines if key == "Driver"), "")


def platforms(settings: Settings, folder: Path, engine: str) -> tuple[str, ...]:
    """The platforms that builds run on: the engine's, or those of the dedicated builder's nodes, as far as it was seen
    here. A Dockerfile may ask for them (``BUILDPLATFORM``)."""
    known = state(folder) if settings.dedicated_builder else {}
    return tuple(known.get("platforms") or ()) or (engine,)


def remove(name: str, environ: Mapping[str, str]) -> None:
    """Remove a builder with its cache. Raises ``UserError``."""
    _run(["docker", "buildx", "rm", name], environ)


def _boot(made: Recipe, environ: Mapping[str, str]) -> list[str]:
    """Let the builder come up; the platform that each of its nodes is of, each once."""
    try:
        argv = ["docker", "buildx", "inspect", "--bootstrap", made.name]
        done = commands.run(argv, env=environ, seconds=_BOOT_SECONDS)
    except commands.TimedOut:
        raise UserError(f"the builder {made.name!r} did not come up in {_BOOT_SECONDS} s") from None
    text = done.stdout + done.stderr
    # With several nodes buildx ends well although one of them is down.
    if done.status or any(line.startswith(("Error:", "ERROR:")) for line in text.splitlines()):
        why = last_words(text)
        raise UserError(f"the builder {made.name!r} does not come up: {why}", remedy=_hint(made, why))
    return native_platforms(text)


def native_platforms(inspected: str) -> list[str]:
    """What ``docker buildx inspect`` says of the nodes: a BuildKit names its own platform first, and a node is given
    what is native there (``*``).

    >>> native_platforms("Name: b\nPlatforms: linux/arm64*, linux/arm/v7\nPlatforms: linux/amd64, linux/amd64/v2")
    ['linux/amd64', 'linux/arm64']
    """
    return sorted({named[0] for named in _platforms(inspected) if named})


def runs(settings: Settings, environ: Mapping[str, str]) -> tuple[str, ...]:
    """The platforms whose programs the builder runs, natively or under emulation; none where it does not say."""
    done = commands.run(["docker", "buildx", "inspect", argv(settings, environ)[-1]], env=environ)
    return tuple(sorted({platform for named in _platforms(done.stdout) for platform in named}))


def _platforms(inspected: str) -> list[list[str]]:
    """The platforms of each node."""
    lines = (line.partition(":") for line in inspected.splitlines())
    nodes = [value.split(",") for key, _, value in lines if key.strip() == "Platforms"]
    return [[normalise(name) for text in named if (name := text.strip(" *"))] for named in nodes]


def _hint(made: Recipe, why: str) -> str:
    if made.driver == BuilderDriver.DOCKER_CONTAINER:
        return (
            "it runs the image moby/buildkit: docker pull it, or name another one with BUILDER_OPTIONS=image=…; "
            "BUILDER_DRIVER=docker needs none"
        )
    if "certificate" in why or "tls" in why.lower():
        return "BUILDER_CERTS names the folder with ca.pem, cert.pem and key.pem"
    if made.driver == BuilderDriver.REMOTE:
        return "does a buildkitd answer at BUILDER_ENDPOINTS?"
    return "see docs/caches.md"


def _run(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    commands.run(argv, env=environ).checked(f"{' '.join(argv[:3])} fails")


def _node(text: str) -> BuilderNode:
    endpoint, *platforms = (part.strip() for part in text.split(";"))
    for platform in platforms:
        if "/" not in platform:
            raise UserError(
                f"BUILDER_ENDPOINTS holds {text!r}", remedy="platforms such as linux/arm64 follow behind semicolons"
            )
    return BuilderNode(endpoint, tuple(platforms))


def _certificates(folder: str, driver: BuilderDriver) -> list[str]:
    if driver != BuilderDriver.REMOTE:
        raise UserError(f"BUILDER_CERTS is for remote builders, and BUILDER_DRIVER is {driver}")
    options = []
    for option, file in CERTIFICATES.items():
        path = (root() / folder / file).resolve()
        if not path.is_file():
            raise UserError("there is no such file", where=str(path), remedy="BUILDER_CERTS names its folder")
        options.append(f"{option}={path}")
    return options


def _state(folder: Path) -> Path:
    return folder / "builder.json"


def state(folder: Path) -> dict[str, Any]:
    """What was made here last: name and digest, and whether it is ``ours`` or was there; empty if nothing was."""
    return checked_json.recall(_state(folder)) or {}
