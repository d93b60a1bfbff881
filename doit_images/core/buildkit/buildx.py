"""How is an image built? The exact command line of ``docker buildx build``.

Pure, but for the two questions that a command line depends on: whether an environment variable is set, and
which buildx is installed. Argument names equal those of the CLI.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image, Secret

LEAST = (0, 13)
"""The oldest buildx that can be used: the first one with ``--progress=rawjson``."""

_VERSION = re.compile(r"v?(\d+)\.(\d+)\.\d+")


def build_argv(
    image: Image,
    *,
    parents: Mapping[str, str],
    labels: Mapping[str, str],
    tag: str = "",
    iidfile: str,
    environ: Mapping[str, str],
    progress: str = "rawjson",
    extra: Sequence[str] = (),
) -> list[str]:
    """The command that builds ``image`` under the temporary name ``tag`` and leaves its id in ``iidfile``.

    ``parents`` maps a named context to the reference of the image that stands for it, ``labels`` are ours and come
    after the image's own, ``extra`` is what the builder and the caches need. Until the image gets its own names,
    ``tag`` keeps others from pruning it. A secret whose variable is not set is empty, as with Compose.
    """
    contexts = [pair for pair in sorted(image.contexts.items()) if not pair[1].startswith("service:")]
    contexts += [(name, f"docker-image://{ref}") for name, ref in sorted(parents.items())]
    options: dict[str, Iterable[str]] = {
        "--tag": [tag],
        "--file": ["-" if image.dockerfile_inline is not None else image.dockerfile],
        "--target": [image.target or ""],
        "--build-arg": [_argument(name, value, environ) for name, value in sorted(image.args.items())],
        "--build-context": [f"{name}={value}" for name, value in contexts],
        "--secret": map(secret_line, image.secrets),
        "--ssh": image.ssh,
        "--label": [f"{name}={value}" for name, value in (*sorted(image.labels.items()), *sorted(labels.items()))],
        "--platform": [",".join(image.platforms)],
        "--network": [image.network],
        "--shm-size": [image.shm_size],
        "--add-host": image.extra_hosts,
        "--ulimit": image.ulimits,
        "--allow": entitlements(image),
        "--no-cache-filter": image.no_cache_filter,
    }
    argv = ["docker", "buildx", "build", f"--progress={progress}", "--iidfile", iidfile]
    argv += [word for option, values in options.items() for value in values if value for word in (option, value)]
    attestations = (("--provenance", image.provenance), ("--sbom", image.sbom))
    return [*argv, *(f"{option}={value}" for option, value in attestations if value), *extra, image.context]


def _argument(name: str, value: str | None, environ: Mapping[str, str]) -> str:
    """A build argument; what the environment gives is not said on a command line, which others may read."""
    return name if value is None or environ.get(name) == value else f"{name}={value}"


def secret_line(secret: Secret) -> str:
    """Where a secret is, as buildx takes it."""
    return one_line(f"id={secret.id}", f"src={secret.file}" if secret.file else f"env={secret.environment}")


def one_line(*fields: str) -> str:
    """Options as buildx takes them: one line of CSV.

    >>> one_line("type=local", "dest=/a,b")
    'type=local,"dest=/a,b"'
    """
    return ",".join('"' + field.replace('"', '""') + '"' if set(field) & set(',"\n') else field for field in fields)


def entitlements(image: Image) -> tuple[str, ...]:
    """What the build must be allowed beyond the ordinary: its entitlements, and what ``privileged`` and the host's
    network mean (as Compose grants them)."""
    allowed = dict.fromkeys(image.entitlements)
    if image.privileged:
        allowed["security.insecure"] = None
    if image.network == "host":
        allowed["network.host"] = None
    return tuple(allowed)


def is_at_least(buildx_version: str, wanted: tuple[int, int]) -> bool:
    """Whether a buildx is of this version or a later one.

    ``buildx_version`` is what ``docker buildx version`` prints, or the number alone. A version that is not a
    number (a development build) counts as new.
    """
    number = _VERSION.search(buildx_version)
    return not number or (int(number[1]), int(number[2])) >= wanted


def require() -> None:
    """``UserError`` where there is no buildx, or one that is older than ``LEAST``. To ask costs 0.1 s: do so once a
    command has failed."""
    if not is_at_least(version(), LEAST):
        least = ".".join(map(str, LEAST))
        raise UserError(f"docker buildx is older than {least}", remedy=f"install {least} or a later one")


def version() -> str:
    """What ``docker buildx version`` prints; ``UserError`` where there is no docker command or no buildx."""
    done = commands.run(["docker", "buildx", "version"])
    if done.status:
        raise UserError("docker buildx is not installed", remedy="install docker-buildx, or let ./doitw do so")
    return done.stdout.strip()
