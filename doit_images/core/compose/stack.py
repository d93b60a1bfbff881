"""What does Compose run, and how is it told?

The exact command lines of ``docker compose``, and what its answer to ``config`` says of each service that it would
run. Compose creates and removes containers; what became of them is looked at through the engine (``containers``).
Nothing of a service's environment is kept: it may hold secrets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.shapes import fits
from doit_images.core.engine.endpoint import endpoint

_REQUIRED = re.compile(r"required variable (\w+) is missing a value(?:: (.*))?")
_AS_IT_IS = ("missing", "if_not_present", "never", "build")
_ANYTHING = "1"  # may be a port, a number of containers, a tag


class Unset(UserError):
    """Variables that a Compose file requires have no value; ``names`` are theirs."""

    def __init__(self, unset: Mapping[str, str], file: Path) -> None:
        self.names = tuple(sorted(unset))
        told = ", ".join(f"{name} ({unset[name]})" if unset[name] else name for name in self.names)
        remedy = "set them in the environment, or in the .env beside the Compose file"
        super().__init__(f"these variables are required and have no value: {told}", where=str(file), remedy=remedy)


@dataclass(frozen=True)
class Command:
    """What ``sync+exec`` runs in the containers of a service, and as whom; ``environment`` may hold secrets."""

    words: tuple[str, ...]
    user: str = ""
    privileged: bool = False
    working_dir: str = ""
    environment: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Sync:
    """A rule of ``develop.watch``: what is done when ``path`` changes. ``target`` is where it lies in the container.

    Of what lies in ``path`` it covers what an ``include`` matches (all, if there is none) and no ``ignore`` does.
    """

    action: str
    path: Path
    target: str = ""
    ignore: tuple[str, ...] = ()
    include: tuple[str, ...] = ()
    command: Command | None = None


@dataclass(frozen=True)
class Service:
    """A service as Compose resolved it.

    ``replicas`` is how many containers it has when the stack is up (0 for an image that others build on, or if a
    ``provider`` runs it),
    ``builds`` whether it has a ``build:`` section, ``volumes`` where the engine's name of each named volume is mounted,
    ``ports`` the ports of the container that are published. ``context`` and ``dockerfile`` are those of the build,
    absolute, where they are on this machine. ``further`` are the images, beside its own, that its containers mount
    (volumes of ``type: image``) or that run before them (``pre_start``). ``attach`` is whether its log is of interest,
    ``pulls`` whether its image is pulled although it is here.
    """

    name: str
    image: str
    builds: bool
    replicas: int
    volumes: Mapping[str, str]
    ports: tuple[int, ...] = ()
    watch: tuple[Sync, ...] = ()
    context: Path | None = None
    dockerfile: Path | None = None
    further: tuple[str, ...] = ()
    attach: bool = True
    pulls: bool = False

    @property
    def images(self) -> tuple[str, ...]:
        """All images that it takes to start it."""
        return (self.image, *self.further)


@dataclass(frozen=True)
class Compose:
    """One Compose project, as the ``docker compose`` command is told about it: files, name ("": as the files say) and
    environment. ``only`` are the services that are meant, with what they need (default: all of the active profiles);
    ``alone``: without that; ``folder`` is the project's, where that is not the first file's."""

    files: tuple[Path, ...]
    project: str
    environ: Mapping[str, str]
    only: tuple[str, ...] = ()
    alone: bool = False
    folder: Path | None = None

    @property
    def directory(self) -> Path:
        """The project's folder, where Compose looks for ``.env`` and relative paths start."""
        return self.folder or self.files[0].parent

    def argv(self, *words: str) -> list[str]:
        """The command line of ``docker compose`` with these words, for this project and none else."""
        argv = ["docker", "compose"]
        for file in self.files:
            argv += ["--file", str(file)]
        # An override may lie in another folder; the first file's is the project's.
        argv += ["--project-directory", str(self.directory)]
        return [*argv, *(["--project-name", self.project] if self.project else []), *words]

    @property
    def env(self) -> dict[str, str]:
        """The environment of these commands: the files are said by ``--file``, and never once more."""
        return {name: value for name, value in self.environ.items() if name != "COMPOSE_FILE"}

    def config(self, *options: str) -> dict[str, Any]:
        """What ``docker compose config``, with these ``options`` before it, says of this project with its active
        profiles; of services those that are meant and, even if they are ``alone``, what they need. ``UserError`` with
        its own words when it refuses the files."""
        variables = self.directory / ".env"
        if variables.exists() and not variables.is_file():  # Compose would wait for whoever writes into a pipe
            raise UserError("this is not a file", where=str(variables))
        return self._answer(self.argv(*options, "config", "--format", "json", *self.only))

    def values(self, names: Iterable[str]) -> dict[str, str]:
        """What this environment and Compose's env files set these variables to, as Compose reads them; without those
        that none of them sets. ``UserError`` as ``config``."""
        asked = {"image": "asked", "environment": [name.replace("$", "$$") for name in names]}
        argv = ["docker", "compose", "--file", "-", "--project-directory", str(self.directory)]
        text = json.dumps({"name": "asked", "services": {"asked": asked}})
        answer = self._answer([*argv, "config", "--format", "json"], text.encode())
        given: Mapping[str, str | None] = answer["services"]["asked"]["environment"]
        return {name: value for name, value in given.items() if value is not None}

    def _answer(self, argv: Sequence[str], stdin: bytes | None = None) -> dict[str, Any]:
        done, unset = self._asked(argv, stdin)
        if unset:
            raise Unset(unset, self.files[0])
        if done.status and re.search("is not a docker command|unknown (shorthand )?flag", done.stderr):
            raise UserError("Docker Compose v2 is not installed", remedy="install the docker-compose-plugin")
        if done.status:
            endpoint(self.env)  # without its context the docker command does nothing: that is not the file's fault
            raise UserError(f"Compose refuses it: {done.why}", where=str(self.files[0]))
        # Compose doubles every `$` of its answer, so that the answer can itself be interpolated.
        answer: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))
        return answer

    def _asked(self, argv: Sequence[str], stdin: bytes | None) -> tuple[commands.Done, dict[str, str]]:
        """What Compose says, and which required variables have no value, with its files' words about them. It stops at
        the first: each gets some value, and it is asked again."""
        unset: dict[str, str] = {}
        while True:
            env = {**self.env, **dict.fromkeys(unset, _ANYTHING)}
            done = commands.run(argv, cwd=self.directory, env=env, stdin=stdin)
            found = _REQUIRED.search(done.stderr) if done.status else None
            if not found or found[1] in unset:
                return done, unset
            unset[found[1]] = found[2] or ""

    def services(self) -> dict[str, Service]:
        """The services that are meant of this project; ``UserError`` as ``config``."""
        return self.meant(self.config())

    def meant(self, config: Mapping[str, object]) -> dict[str, Service]:
        """The same, of what ``config`` answered."""
        services = services_of(config)
        return {name: services[name] for name in self.only} if self.alone else services

    def run(
        self, *words: str, stdin: IO[bytes] | None = None, stdout: IO[bytes] | int = commands.PIPE
    ) -> commands.Done:
        """Run a command for this project and catch what it says, unless it goes into a file."""
        return commands.run(self.argv(*words), cwd=self.directory, env=self.env, stdin=stdin, stdout=stdout)


def create_argv(compose: Compose, *, pull: str = "") -> list[str]:
    """Create what is missing and recreate what changed, in the order of ``depends_on``, and start nothing of it. Never
    builds: the plan does. ``pull`` is the policy for all images, instead of each service's own."""
    return compose.argv(*_creating(pull), *_meant(compose))


def recreate_argv(compose: Compose, services: Iterable[str], *, pull: str = "") -> list[str]:
    """The same, for these services and no others, whose containers are made anew whatever they are."""
    return compose.argv(*_creating(pull), "--force-recreate", "--no-deps", *sorted(services))


def _creating(pull: str) -> list[str]:
    words = ["--progress", "plain", "up", "--no-start", "--no-build", "--quiet-pull"]
    return [*words, *(["--pull", pull] if pull else [])]


def pull_argv(compose: Compose, services: Iterable[str]) -> list[str]:
    """Pull the images of these services, and not of what they need."""
    return compose.argv("--progress", "plain", "pull", "--quiet", *sorted(services))


def start_argv(compose: Compose) -> list[str]:
    """Start what was created."""
    if not compose.alone:
        return compose.argv("--progress", "plain", "start", *compose.only)
    # `start` takes no service without what it depends on.
    return compose.argv(
        "--progress", "plain", "up", "--detach", "--no-build", "--no-recreate", "--pull", "missing", *_meant(compose)
    )


def _meant(compose: Compose) -> list[str]:
    return [*(["--no-deps"] if compose.alone else []), *compose.only]


def down_argv(project: str, *, volumes: bool) -> list[str]:
    """Remove what carries the project's label: containers and networks, with ``volumes`` its data too. Without the
    files, whose volumes Compose would remove by their names, whoever's they are."""
    words = ["--progress", "plain", "--project-name", project, "down", "--remove-orphans"]
    return ["docker", "compose", *words, *(["--volumes"] if volumes else [])]


def logs_argv(
    compose: Compose,
    services: Sequence[str] = (),
    *,
    follow: bool = False,
    tail: str = "all",
    since: str = "",
    color: bool = False,
) -> list[str]:
    """Print what containers wrote. ``color`` for a terminal: the command itself only sees a pipe."""
    words = ["--ansi", "always" if color else "never", "--profile", "*", "logs", "--tail", tail]
    words += ["--follow"] if follow else []
    words += ["--since", since] if since else []
    return compose.argv(*words, *services)


def services_of(config: Mapping[str, Any]) -> dict[str, Service]:
    """The services in Compose's answer to ``config --format json``, by name. ``UserError`` for an answer of a form that
    no Compose is known to give."""
    try:
        volumes = {key: str((value or {}).get("name") or key) for key, value in (config.get("volumes") or {}).items()}
        declared = sorted((config.get("services") or {}).items())
        services = {name: _service(name, service, config["name"], volumes) for name, service in declared}
        odd = [name for name, service in services.items() if not fits(service, Service)]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        odd = [f"{type(error).__name__}: {error}"]
    if odd:
        raise UserError(f"Compose's answer has an unknown form: {', '.join(odd)}")
    return services


def _service(name: str, declared: Mapping[str, Any], project: str, volumes: Mapping[str, str]) -> Service:
    replicas = 0 if declared.get("provider") else declared.get("scale")
    if replicas is None:
        replicas = (declared.get("deploy") or {}).get("replicas")
    build = declared.get("build") or {}
    context = Path(build.get("context") or "")
    named = "" if build.get("dockerfile_inline") else build.get("dockerfile") or "Dockerfile"
    sources = [mount for mount in declared.get("volumes") or () if mount.get("source")]
    mounts = [mount for mount in sources if mount.get("type") == "volume"]
    return Service(
        name=name,
        image=declared.get("image") or f"{project}-{name}",
        builds=bool(declared.get("build")),
        replicas=1 if replicas is None else int(replicas),
        volumes={mount["target"]: volumes.get(mount["source"], mount["source"]) for mount in mounts},
        ports=tuple(sorted({int(port["target"]) for port in declared.get("ports") or ()})),
        watch=tuple(_syncs((declared.get("develop") or {}).get("watch") or ())),
        context=context if context.is_absolute() else None,
        dockerfile=context / named if context.is_absolute() and named else None,
        further=tuple(_further(declared, sources, project)),
        attach=declared.get("attach") is not False,
        pulls=declared.get("pull_policy") not in (None, "", *_AS_IT_IS),
    )


def _further(declared: Mapping[str, Any], sources: Iterable[Mapping[str, str]], project: str) -> Iterable[str]:
    for source in (mount["source"] for mount in sources if mount.get("type") == "image"):
        yield from (source, f"{project}-{source}")  # for Compose 5 it may be a service whose image has no other name
    yield from (hook["image"] for hook in declared.get("pre_start") or () if hook.get("image"))


def _syncs(rules: Iterable[Mapping[str, Any]]) -> Iterable[Sync]:
    for rule in rules:
        yield Sync(
            action=rule["action"],
            path=Path(rule["path"]),
            target=rule.get("target") or "",
            ignore=tuple(rule.get("ignore") or ()),
            include=tuple(rule.get("include") or ()),
            command=_command(rule.get("exec") or {}),
        )


def _command(hook: Mapping[str, Any]) -> Command | None:
    if not hook.get("command"):
        return None
    environment = {name: value for name, value in (hook.get("environment") or {}).items() if value is not None}
    return Command(
        words=tuple(hook["command"]),
        user=str(hook.get("user") or ""),
        privileged=bool(hook.get("privileged")),
        working_dir=hook.get("working_dir") or "",
        environment=tuple(environment.items()),
    )
