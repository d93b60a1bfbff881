"""How is a base made from Debian's packages, and which one does the project declare?

mmdebstrap unpacks the packages of ``docker/base/packages.txt`` as they are on the day; a day later one of them may be
newer. When the base is made again is a decision of the project, not of the clock: it stands in
``docker/base/date.txt``, and is part of the base's identity.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doit_images.core.base import commands, leftovers
from doit_images.core.base.command_line import last_words
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import host_platform
from doit_images.core.engine.labels import LABEL

SUITE, PYTHON = "trixie", "3.13"
# Times inside the filesystem are clamped to this one: the day on which the suite was released.
EPOCH = int(datetime(2025, 8, 9, tzinfo=UTC).timestamp())
# Tells our own base from a registry's of the same name.
SOURCE_LABEL = "vllm-swarm.base.source"
# Its identity. As the labels of builds it is no content: the same packages on another day are the same base.
IDENTITY_LABEL = f"{LABEL}base"
PACKAGES, APT, DATE = (Path("docker/base") / name for name in ("packages.txt", "docker-clean", "date.txt"))
_KEYRINGS = [Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("gpg", "pgp")]
ENV = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
# What Debian's official images leave out; licenses stay.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
_EMULATION = "apt-get install arch-test qemu-user-static lets this machine run programs for other processors"
_DEBIAN_ARCHITECTURES = {"arm/v7": "armhf", "386": "i386", "ppc64le": "ppc64el"}


def identity(root: Path, platform: str) -> str:
    """The identity of the base that the files in ``root`` declare: a digest over all that decides what it is, but for
    the versions of packages. "" where there are no such files: that project makes no base."""
    try:
        include, apt = packages((root / PACKAGES).read_text()), (root / APT).read_text()
    except OSError:
        return ""
    argv = mmdebstrap_argv(sorted(include), Path(), _architecture(platform), (), Path())
    whole = [argv, apt, PYTHON, EPOCH, date_of(root), image_config("", platform).decode()]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


def declares_base(root: Path) -> bool:
    """Whether the project in ``root`` says of which packages its base is made: to another, BASE_IMAGE is an image as
    any other."""
    return (root / PACKAGES).is_file()


def date_of(root: Path) -> str:
    """The day of the base that the project wants; "" if it does not say."""
    try:
        return " ".join(packages((root / DATE).read_text()))
    except OSError:
        return ""


def set_date(root: Path, date: str) -> str:
    """Write the day of the base that the project wants, and keep the comments; returns what the file was before."""
    file = root / DATE
    before = file.read_text() if file.exists() else ""
    kept = [line for line in before.splitlines() if not packages(line)]
    file.write_text("\n".join([*kept, date]) + "\n")
    return before


def next_date(last: str, today: str) -> str:
    """What a base that is made again today is called, after the ``last`` one.

    >>> next_date("2026-11-24", "2026-11-25"), next_date("2026-11-25", "2026-11-25")
    ('2026-11-25', '2026-11-25.2')
    >>> next_date("2026-11-25.2", "2026-11-25")
    '2026-11-25.3'
    """
    day, _, number = last.partition(".")
    if day != today:
        return today
    return f"{today}.{int(number) + 1 if number.isdecimal() else 2}"


def declared_packages(root: Path) -> list[str]:
    """The packages that the files in ``root`` declare; ``UserError`` without a list: that project makes no base."""
    try:
        return packages((root / PACKAGES).read_text())
    except OSError:
        raise UserError(
            "no list names the Debian packages that a base is made of",
            where=str(root / PACKAGES),
            remedy="copy docker/base as well, or set BASE_IMAGE to an image that can be had",
        ) from None


def packages(text: str) -> list[str]:
    """The package names in a list of one per line, with ``#`` comments."""
    return [word for line in text.splitlines() if (word := line.partition("#")[0].strip())]


def mirrors(indextargets: Iterable[str]) -> list[str]:
    """The lines of sources.list that this machine itself uses for ``SUITE``, from ``URI CODENAME ORIGIN`` lines; none
    when it runs another suite or distribution, or takes the suite from no network mirror.

    >>> mirrors(["http://mirror.example/debian/ trixie Debian", "file:/srv/ trixie Debian"])
    ['deb http://mirror.example/debian/ trixie main']
    """
    suites = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    sources = []
    for line in indextargets:
        uri, _, rest = line.partition(" ")
        codename, _, origin = rest.partition(" ")
        if origin == "Debian" and codename in suites and uri.startswith(("http://", "https://")) and "@" not in uri:
            sources.append(f"deb {uri} {codename} main")
    return sorted(set(sources)) if any(line.split()[2] == SUITE for line in sources) else []


def mmdebstrap_argv(include: Sequence[str], tar: Path, arch: str, sources: Sequence[str], apt_conf: Path) -> list[str]:
    """The command that makes the root filesystem ``tar`` for Debian architecture ``arch``.

    ``sources`` are lines of sources.list (none: Debian's own mirrors), ``apt_conf`` is apt's configuration in it.
    """
    options = [f"--dpkgopt=path-exclude={path}" for path in _EXCLUDED]
    options += [f"--dpkgopt=path-include={path}" for path in _KEPT]
    return [
        "mmdebstrap",
        "--variant=minbase",
        f"--architectures={arch}",
        f"--include={','.join(include)}",
        # Nothing survives a crash in a layer that is not finished, so nothing need be synced while it is made.
        "--dpkgopt=force-unsafe-io",
        *options,
        f'--customize-hook=install -m 0644 "{apt_conf}" "$1/etc/apt/apt.conf.d/docker-clean"',
        # With that configuration apt no longer knows of these two, and would leave them behind.
        '--customize-hook=rm -f "$1/var/cache/apt/pkgcache.bin" "$1/var/cache/apt/srcpkgcache.bin"',
        "--format=tar",
        SUITE,
        str(tar),
        *sources,
    ]


def make_rootfs(root: Path, tar: Path, platform: str) -> None:
    """Make the root filesystem with mmdebstrap; nothing is left at ``tar`` unless it is complete.

    Raises ``UserError`` with what to install, or with mmdebstrap's last words and where its log is, or without a list
    of packages."""
    include = declared_packages(root)
    if not shutil.which("mmdebstrap"):
        raise UserError(
            "mmdebstrap, which makes the base from Debian's packages, is not installed",
            remedy="apt-get install mmdebstrap debian-archive-keyring, or set BASE_IMAGE to an image that you have",
        )
    if not any(path.exists() for path in _KEYRINGS):
        raise UserError(
            "the keys that Debian's packages are checked with are not installed",
            remedy="apt-get install debian-archive-keyring",
        )
    arch = _architecture(platform)
    foreign = arch != _architecture(host_platform())
    if foreign and not shutil.which("arch-test"):
        raise UserError(
            f"to make a base for {platform} here, emulation is needed, which is not installed", remedy=_EMULATION
        )
    unfinished = tar.with_suffix(f".{os.getpid()}.tar")
    argv = mmdebstrap_argv(include, unfinished, arch, mirrors(indextargets()), root / APT)
    tar.parent.mkdir(parents=True, exist_ok=True)
    log = tar.with_name("mmdebstrap.log")
    with leftovers.noted(unfinished), leftovers.folder("mmdebstrap-") as scratch:
        scratch.chmod(0o755)  # apt becomes another user, who must get through
        try:
            with log.open("w") as out:
                env = {**os.environ, **_apt_proxy(), "SOURCE_DATE_EPOCH": str(EPOCH), "TMPDIR": str(scratch)}
                done = commands.run(argv, env=env, stdout=out, stderr=out)
            if done.status:
                remedy = f"its log is {log}" + (f"; {_EMULATION}" if foreign else "")
                raise UserError(f"mmdebstrap: {last_words(log.read_text())}", remedy=remedy)
            unfinished.replace(tar)
        finally:
            unfinished.unlink(missing_ok=True)


def image_config(diff_id: str, platform: str, number: str = "") -> bytes:
    """The image's configuration: a pure function of its one layer, its platform and its identity, and so is its id."""
    system, architecture, *variant = platform.split("/")
    created = datetime.fromtimestamp(EPOCH, UTC).isoformat().replace("+00:00", "Z")
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": system,
        "created": created,
        "config": {
            "Cmd": ["python3"],
            "Env": [f"{name}={value}" for name, value in ENV.items()],
            "Labels": {
                **({IDENTITY_LABEL: number} if number else {}),
                SOURCE_LABEL: "debian",
                "org.opencontainers.image.title": f"Debian {SUITE} with Python {PYTHON}",
            },
        },
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
        "history": [{"created": created, "created_by": f"mmdebstrap {SUITE}"}],
    }
    if variant:
        config["variant"] = variant[0]
    return json.dumps(config, sort_keys=True, separators=(",", ":")).encode()


def _architecture(platform: str) -> str:
    machine = platform.partition("/")[2]
    return _DEBIAN_ARCHITECTURES.get(machine, machine.split("/")[0])


def indextargets() -> list[str]:
    """What this machine's apt takes packages from, as ``URI CODENAME ORIGIN`` lines; none where there is no apt."""
    format_ = "$(REPO_URI) $(CODENAME) $(ORIGIN)"
    return _lines(["apt-get", "indextargets", "--format", format_, "Created-By: Packages"])


def _apt_proxy() -> Mapping[str, str]:
    """The proxy that this machine's apt is told to use, as a variable: it must not end up inside the base."""
    lines = _lines(["apt-config", "dump", "--format", "%v%n", "Acquire::http::Proxy"])
    return {"http_proxy": lines[0]} if lines and lines[0] != "DIRECT" else {}


def _lines(argv: Sequence[str]) -> list[str]:
    # Without apt nothing: mmdebstrap also runs on other distributions.
    return [line for line in commands.answer(argv).splitlines() if line.strip()]
