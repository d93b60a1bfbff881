"""Which settings are there, and what are they set to?

Every setting comes from the environment, else from the ``.env`` beside ``dodo.py``, else from the
default in the table below; ``.env.example`` shows the same table to people, and a test holds both
together.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any

from doit_images.core.base import files, platforms
from doit_images.core.base.errors import UserError
from doit_images.core.base.forks import fork
from doit_images.core.base.timestamps import DAY

# Where pip, Python's ssl and requests look for a certificate bundle, in this order.
SYSTEM_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"  # of Debian and its children
_BUNDLES = ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")


def root() -> Path:
    """The project's root: the folder of its dodo file, which doit makes the working folder before it loads that."""
    return Path.cwd()


class _Hidden(ValueError):
    """What is wrong with a value that may hold a password: the value itself is not shown."""


def _matching(
    pattern: str, wanted: str, read: Callable[[str], Any] = str, error: type[ValueError] = ValueError
) -> Callable[[str], Any]:
    """The parser of values that match ``pattern``; ``wanted`` says in words what does."""

    def parse(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise error(wanted)
        return read(text)

    return parse


_count = _matching(r"[1-9][0-9]{0,3}", "a whole number from 1 to 9999", int)
_trust = _matching(r"any|signed|[1-9]", "any, signed, or how many builders must sign, from 1 to 9")
_stack = _matching(r"[a-z0-9][a-z0-9_-]{0,62}", "a name for Compose: lower-case letters, digits, - and _")
_yes_no = _matching("(?i:[01]|yes|no|true|false)", "1 or 0", lambda text: text.lower() in ("1", "yes", "true"))
_redis = _matching(
    r"(rediss?(\+(sentinel|cluster))?|unix)://(?s:.*)",
    "a Redis URL such as rediss://:PASSWORD@redis.example.org:6379/0",
    error=_Hidden,
)
_registry = _matching(
    r"(?!.*://)[\w.\[\]:-]+(/[\w./-]+)?",
    "a registry such as registry.example.org:5000/team (the password belongs to docker login)",
    lambda text: text.rstrip("/"),
)


# As docker/go-units reads sizes on disks (FromHumanSize), and IEC's units for what memory is counted in.
_UNITS = {"": 1} | {unit: 1000**power for power, unit in enumerate("KMGT", 1)}
_UNITS |= {f"{unit}I": 1024**power for power, unit in enumerate("KMGT", 1)}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*((?:[KMGT]i?)?)B?", text, re.IGNORECASE)
    if not match:
        raise ValueError("a size such as 500MB or 10GiB")
    return int(float(match[1]) * _UNITS[match[2].upper()])


def age(text: str) -> float:
    """An age such as ``12h`` or ``7d`` in seconds; ``ValueError`` says what it would have to be."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?)\s*([smhd])", text, re.IGNORECASE)
    if not match:
        raise ValueError("an age such as 12h or 7d")
    return float(match[1]) * _SPANS[match[2].lower()]


def _limit(text: str) -> float:
    return 0.0 if text == "0" else age(text)


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _platforms(text: str) -> tuple[str, ...]:
    try:
        platforms.targets([text], "linux")
    except UserError:
        raise ValueError("platforms such as linux/amd64,linux/arm64") from None
    return _list(text)


def _setting(default: object, parse: Callable[[str], Any], meaning: str) -> Any:
    return field(default=default, metadata={"parse": parse, "meaning": meaning})


def _choice(default: StrEnum, meaning: str) -> Any:
    choices = type(default)
    return _setting(default, _matching("|".join(choices), "one of " + ", ".join(choices), choices), meaning)


class BaseSource(StrEnum):
    """Where ``BASE_IMAGE`` comes from."""

    AUTO = "auto"
    REGISTRY = "registry"
    DEBIAN = "debian"


class BuilderDriver(StrEnum):
    """Which BuildKit builds, as buildx calls its drivers."""

    DOCKER = "docker"
    """The engine's own."""
    DOCKER_CONTAINER = "docker-container"
    REMOTE = "remote"
    KUBERNETES = "kubernetes"


class BuildOutput(StrEnum):
    """Where the results of builds go."""

    ENGINE = "engine"
    REGISTRY = "registry"
    """From the builder into ``CACHE_REGISTRY``, and nowhere else."""


class CacheBackend(StrEnum):
    """Where BuildKit's cache is exported to besides the builder itself."""

    AUTO = "auto"
    NONE = "none"
    INLINE = "inline"
    LOCAL = "local"
    REGISTRY = "registry"
    GHA = "gha"
    S3 = "s3"


@dataclass(frozen=True)
class Settings:
    """All settings, typed. A field's name in capitals is the name of its variable."""

    build_jobs: int = _setting(4, _count, "how many images are built side by side when -n is not given")
    build_timeout: float = _setting(
        0.0, _limit, "how long the build of one image may take, such as 30m; 0: as long as it takes"
    )
    build_memory: int = _setting(
        0,
        _size,
        "memory that builds may have together, of those whose needs x-build-needs tells; 0: what the engine has",
    )
    base_image: str = _setting(
        "python:3.13-slim-trixie", str, "the Debian-with-Python image that base-python starts from"
    )
    base_source: BaseSource = _choice(  # noqa: RUF009  a member of an enum never changes
        BaseSource.AUTO, "where BASE_IMAGE comes from: a registry, Debian's packages, or whichever answers"
    )
    platforms: tuple[str, ...] = _setting(
        (), _platforms, "the platforms that images are built for whose Compose file names none (default: the engine's)"
    )
    build_ca_cert: str = _setting(
        "",
        str,
        "certificate bundle for TLS inside builds that get it as a secret "
        "(default: PIP_CERT, SSL_CERT_FILE or REQUESTS_CA_BUNDLE)",
    )
    builder_driver: BuilderDriver = _choice(  # noqa: RUF009  a member of an enum never changes
        BuilderDriver.DOCKER, "which BuildKit builds: the engine's own, or a dedicated one of this kind"
    )
    # Not named after the package: under another name a builder would begin without a cache, and the one that is there,
    # perhaps in a cluster and known to no buildx of this machine, would go on running beside it.
    builder_name: str = _setting("vllm-swarm", str, "the name of the dedicated builder")
    builder_endpoints: tuple[str, ...] = _setting(
        (), _list, "where its nodes are (tcp://host:1234, a Docker context), each with its platforms behind semicolons"
    )
    builder_options: tuple[str, ...] = _setting((), _list, "driver options of every node, such as network=host")
    builder_certs: str = _setting("", str, "folder with ca.pem, cert.pem and key.pem for remote nodes")
    builder_config: str = _setting("buildkitd.toml", str, "limits of a docker-container or kubernetes builder")
    build_output: BuildOutput = _choice(  # noqa: RUF009  a member of an enum never changes
        BuildOutput.ENGINE, "where results go: into the engine, or from a dedicated builder into CACHE_REGISTRY alone"
    )
    cache_backend: CacheBackend = _choice(  # noqa: RUF009  a member of an enum never changes
        CacheBackend.AUTO, "where BuildKit's cache is exported to besides the builder itself"
    )
    cache_dir: str = _setting("", str, "folder of the local cache backend (default: cache in the project's own)")
    cache_s3: tuple[str, ...] = _setting(
        (), _list, "bucket=…, region=… and further options of the s3 backend; credentials come from AWS_… variables"
    )
    cache_branch: str = _setting("", str, "the branch whose cache is written (default: git's current one)")
    cache_main_branch: str = _setting("main", str, "the branch whose cache is read where the branch has none")
    cache_registry: str = _setting("", _registry, "registry that shares finished images between machines")
    cache_ask: float = _setting(
        3600.0, age, "how often that registry is asked whether an image that is fresh here was rebuilt on purpose"
    )
    registry_patience: float = _setting(
        60.0, age, "how long a run waits in all for that registry where it is busy and asks to wait"
    )
    share_trust: str = _setting(
        "",
        _trust,
        "whose shared results are taken: any (all who may push), signed, or how many builders must sign (default: "
        "signed where there is a key or a list, else any from a registry on loopback, and none from elsewhere)",
    )
    share_builders: str = _setting(
        "", str, "the list of trusted builders, from the folder of dodo.py (default: trusted-builders.toml)"
    )
    share_key: str = _setting(
        "", str, "file with the private key that signs what this machine shares, or keyless:NAME by its CI's identity"
    )
    secrets_key: str = _setting(
        "", str, "file with at least 16 random bytes, the same for all who share results, by which secrets may count"
    )
    share_sigstore: str = _setting(
        "", str, "an own instance of Sigstore for keyless signatures, from the folder of dodo.py (default: the public)"
    )
    cache_write: bool = _setting(
        default=True, parse=_yes_no, meaning="whether results and caches may be written to where others read them"
    )
    cache_max_size: int = _setting(10 * 10**9, _size, "how much disk caches and old results may use")
    cache_max_age: float = _setting(7 * DAY, age, "how long caches and old results are kept unused")
    registry_max_age: float = _setting(
        30 * DAY, age, "how long `registry_prune` leaves results in that registry that nobody needs any more"
    )
    redis_url: str = _setting("", _redis, "Redis that settles which machine builds what, and indexes results")
    base_max_age: float = _setting(
        30 * DAY, age, "how old the packages of the base may become before `bases_check` asks for newer ones"
    )
    lock_command: str = _setting(
        "sh docker/lock.sh", str, "what `deps_update` locks packages with: it takes the options of `uv pip compile`"
    )
    up_seconds: int = _setting(1800, _count, "how long the stack may take in all until every service is healthy")
    up_service_seconds: int = _setting(
        120, _count, "how long one service may take for that, beyond the start period of its health check"
    )
    stack_name: str = _setting(
        "",
        _stack,
        "what this checkout's stack is called (default: the project's name, or one beside another checkout's)",
    )
    stack_networks: tuple[str, ...] = _setting(
        (), _list, "the external networks that a stack beside another checkout's joins too, instead of ones of its own"
    )

    @property
    def dedicated_builder(self) -> bool:
        """Whether another BuildKit than the engine's own builds."""
        return self.builder_driver != BuilderDriver.DOCKER

    @property
    def registry_only(self) -> bool:
        """Whether the shared registry keeps this project's images, and the engine none of them."""
        return self.build_output == BuildOutput.REGISTRY

    def need_engine(self) -> None:
        """For whoever needs the images in the engine: ``UserError`` where they do not get there."""
        if self.registry_only:
            raise UserError(
                "that needs the images in the engine, and BUILD_OUTPUT=registry brings none there",
                remedy="BUILD_OUTPUT=engine pulls them, and builds what is missing",
            )


def load(folder: Path | None = None, environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of a folder (default: the project's root): the environment first, then its ``.env``, then the
    defaults.

    An empty value counts as not set. In a CI's run for a pull request from a fork ``CACHE_WRITE`` is 0 unless the
    environment itself says something else. A value that is not of its setting's type raises ``UserError`` that
    names the variable, the file and line where it stands, and what would be accepted; so do settings that do not fit.
    """
    env_file = (folder or root()) / ".env"
    stored = read_env(env_file)
    values = {}
    for entry in fields(Settings):
        name = entry.name.upper()
        text = environ.get(name) or stored.get(name) or ""
        if not text:
            continue
        try:
            if any("\ud800" <= char <= "\udfff" for char in text):
                raise ValueError("text in UTF-8")
            values[entry.name] = entry.metadata["parse"](text)
        except ValueError as error:
            where = "environment" if environ.get(name) else f"{env_file}:{_line_of(env_file, name)}"
            given = "what it is set to" if isinstance(error, _Hidden) else repr(text)
            raise UserError(f"{name} must be {error}, not {given}", where=where) from None
    if fork(environ) and not environ.get("CACHE_WRITE"):
        values["cache_write"] = False
    settings = Settings(**values)
    if settings.registry_only and not (settings.dedicated_builder and settings.cache_registry):
        raise UserError(
            "BUILD_OUTPUT=registry is for a dedicated builder that pushes to a shared registry",
            remedy="set BUILDER_DRIVER and CACHE_REGISTRY",
        )
    return settings


def build_environ(settings: Settings, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment of builds: the caller's, with ``PLATFORMS`` wherever that was set, and ``BUILD_CA_CERT`` set to
    the bundle that the setting names, else to the one that this machine's own tools are told to trust, else to the
    system's, if that file is there."""
    named = (settings.build_ca_cert, *(environ.get(name, "") for name in _BUNDLES), SYSTEM_BUNDLE)
    bundle = next((path for path in named if path and Path(path).is_file()), "")
    ours = {"PLATFORMS": ",".join(settings.platforms), "BUILD_CA_CERT": bundle}
    return {**environ, **{name: value for name, value in ours.items() if value}}


def read_env(path: Path) -> dict[str, str]:
    """The variables that an env file sets (Compose's syntax, as python-dotenv reads it), with odd bytes as surrogates;
    none without a file. ``UserError`` where it cannot be read."""
    if not path.is_file():
        return {}
    from io import StringIO

    from dotenv import dotenv_values

    return {name: value or "" for name, value in dotenv_values(stream=StringIO(files.text(path))).items()}


def _line_of(path: Path, name: str) -> int:
    pattern = re.compile(rf"\s*(export\s+)?{re.escape(name)}\s*=")
    lines = files.text(path).splitlines()
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)
