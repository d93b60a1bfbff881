"""Where does BASE_IMAGE come from, with or without a registry?

It is in the engine already, or a registry has it, or it is made from Debian's own packages: mmdebstrap unpacks
those of ``docker/base/packages.txt`` into ``.build/base/rootfs.tar``, and that becomes the one layer of an image.
The same package versions give the same bytes and the same image id on every machine, so that what one machine
builds on its base, another recognises.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from typing import IO, Any

from tasks.engine import Engine, Held, normalise
from tasks.errors import Trouble
from tasks.settings import ROOT, Settings

SUITE, PYTHON = "trixie", "3.13"
# Times inside the filesystem are clamped to this one: the day on which the suite was released.
EPOCH = int(datetime(2025, 8, 9, tzinfo=UTC).timestamp())
# Tells our own base from a registry's of the same name.
SOURCE_LABEL = "vllm-swarm.base.source"
TAR = Path(".build/base/rootfs.tar")
_KEYRINGS = [Path(f"/usr/share/keyrings/debian-archive-keyring.{kind}") for kind in ("gpg", "pgp")]
# What Debian's official images leave out; licenses stay.
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_KEPT = ("/usr/share/doc/*/copyright", "/usr/share/locale/locale.alias")
# A registry that says one of these was reached; with anything else it was not.
_ANSWERED = re.compile(r"not found|manifest unknown|denied|unauthorized|no matching manifest|invalid reference", re.I)
_DEBIAN_ARCHITECTURES = {"arm/v7": "armhf", "386": "i386", "ppc64le": "ppc64el"}


def task_base_image() -> dict[str, Any]:
    """The Debian-with-Python image that everything is built on: from a registry, else from Debian's packages."""
    from tasks.workspace import current

    def act() -> Any:
        from doit.exceptions import TaskFailed

        try:
            done = ensure(current().settings, ROOT)
        except Trouble as trouble:
            return TaskFailed(str(trouble))
        if done:
            print(f"base_image: {done}", file=sys.stderr)
            current().changed()
        return True

    tar = ROOT / TAR
    return {
        "actions": [act],
        "uptodate": [Present()],
        "targets": [str(tar)] if tar.exists() else [],
        "file_dep": [str(ROOT / "docker/base/packages.txt")],
        "clean": True,
        "verbosity": 2,
    }


class Present:
    """Whether the engine holds the base; asked only when a task needs it."""

    def __call__(self, task: object, values: object) -> bool:
        """Ask the engine; an engine that does not answer, or a wrong setting, holds nothing."""
        from tasks.workspace import current

        try:
            workspace = current()
            return wanted(workspace.snapshot().get(workspace.settings.base_image), workspace.settings)
        except Trouble:
            return False

    def __repr__(self) -> str:
        """What ``doit info`` says."""
        return "BASE_IMAGE is in the engine"


def ensure(settings: Settings, root: Path) -> str:
    """See to it that the engine holds ``BASE_IMAGE``; returns what was done in a sentence, '' for nothing.

    Raises ``Trouble`` when it cannot be had: a registry that has no such image, a digest that nobody can make, a
    machine without mmdebstrap, an engine that does not answer.
    """
    ref, engine = settings.base_image, Engine()
    snapshot = engine.snapshot()
    if wanted(snapshot.get(ref), settings):
        return ""
    why = ""
    if settings.base_source != "debian":
        why = pull(ref)
        if not why:
            return f"pulled {ref}"
        refuse_to_stand_in(ref, settings.base_source, why)
    elif "@" in ref:
        refuse_to_stand_in(ref, "debian", "")
    print(
        f"base_image: {why + '; ' if why else ''}making {ref} from Debian's packages ({SUITE}, Python {PYTHON})",
        file=sys.stderr,
    )
    tar = root / TAR
    make_rootfs(root, tar, snapshot.platform)
    load(ref, tar, snapshot.platform)
    return f"made {ref} from Debian's packages ({SUITE}, Python {PYTHON})"


def wanted(held: Held | None, settings: Settings) -> bool:
    """Whether what the engine holds under the base's name comes from where ``BASE_SOURCE`` says."""
    if held is None:
        return False
    ours = held.labels.get(SOURCE_LABEL) == "debian"
    return {"auto": True, "debian": ours, "registry": not ours}[settings.base_source]


def pull(ref: str) -> str:
    """Pull ``ref``; returns '' or, when its registry cannot be reached, why not.

    Raises ``Trouble`` when the registry answers that there is no such image, or none for us.
    """
    print(f"base_image: pulling {ref}", file=sys.stderr)
    done = subprocess.run(["docker", "pull", "--quiet", ref], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip().splitlines() or ["docker pull failed"])[-1]
    said = said.removeprefix("Error response from daemon: ")
    if _ANSWERED.search(said):
        raise Trouble(f"BASE_IMAGE {ref}: {said}", remedy="correct BASE_IMAGE, or log in with `docker login`")
    return f"no registry can be reached ({said.rsplit(': ', 1)[-1]})"


def refuse_to_stand_in(ref: str, source: str, why: str) -> None:
    """Raise ``Trouble`` where an image made from Debian's packages must not take the name ``ref``.

    >>> refuse_to_stand_in("python:3.13-slim-trixie", "auto", "offline")
    """
    if source == "registry":
        raise Trouble(f"{why}, and BASE_SOURCE=registry", remedy="set BASE_SOURCE=auto to make the base here")
    if "@" in ref:
        raise Trouble(
            f"{why + ', and ' if why else ''}an image made from Debian's packages cannot have the digest of {ref}",
            remedy="load that image into the engine, or set BASE_IMAGE to a name without a digest",
        )
    if source == "auto" and (other := _other_base(ref)):
        raise Trouble(
            f"{why}, and a base made from Debian's packages ({SUITE}, Python {PYTHON}) is no {other}",
            remedy="load BASE_IMAGE into the engine, correct it, or set BASE_SOURCE=debian if it may stand in",
        )


def _other_base(ref: str) -> str:
    """What ``ref`` says it is that our base is not: another Python, suite or distribution."""
    name, _, tag = normalise(ref).rpartition(":")
    python = re.match(r"3\.\d+", tag) if name.rsplit("/", 1)[-1] == "python" else None
    if python and python.group() != PYTHON:
        return f"Python {python.group()}"
    other = re.search(r"bullseye|bookworm|forky|sid|alpine|jammy|noble|ubi\d*|windows", f"{name}:{tag}")
    return other.group() if other else ""


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
    found = []
    for line in indextargets:
        uri, _, rest = line.partition(" ")
        codename, _, origin = rest.partition(" ")
        if origin == "Debian" and codename in suites and uri.startswith(("http://", "https://")) and "@" not in uri:
            found.append(f"deb {uri} {codename} main")
    return sorted(set(found)) if any(line.split()[2] == SUITE for line in found) else []


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

    Raises ``Trouble`` with what to install, or with mmdebstrap's last words and where its log is.
    """
    if not shutil.which("mmdebstrap"):
        raise Trouble(
            "mmdebstrap, which makes the base from Debian's packages, is not installed",
            remedy="apt-get install mmdebstrap debian-archive-keyring, or set BASE_IMAGE to an image that you have",
        )
    if not any(path.exists() for path in _KEYRINGS):
        raise Trouble(
            "the keys that Debian's packages are checked with are not installed",
            remedy="apt-get install debian-archive-keyring",
        )
    include = packages((root / "docker/base/packages.txt").read_text())
    arch = _architecture(platform)
    unfinished = tar.with_suffix(f".{os.getpid()}.tar")
    argv = mmdebstrap_argv(include, unfinished, arch, mirrors(indextargets()), root / "docker/base/docker-clean")
    tar.parent.mkdir(parents=True, exist_ok=True)
    log = tar.with_name("mmdebstrap.log")
    try:
        with log.open("w") as out:
            env = {**os.environ, **_apt_proxy(), "SOURCE_DATE_EPOCH": str(EPOCH)}
            done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, stdout=out, stderr=out, check=False)
        if done.returncode:
            lines = [line for line in log.read_text().splitlines() if line.startswith("E: ")] or ["it failed"]
            raise Trouble(f"mmdebstrap: {lines[0].removeprefix('E: ')}", remedy=f"its log is {log}")
        unfinished.replace(tar)
    finally:
        unfinished.unlink(missing_ok=True)


def image_config(diff_id: str, platform: str) -> bytes:
    """The image's configuration: a pure function of its one layer and its platform, and so is its id."""
    system, architecture, *variant = platform.split("/")
    created = datetime.fromtimestamp(EPOCH, UTC).isoformat().replace("+00:00", "Z")
    config: dict[str, Any] = {
        "architecture": architecture,
        "os": system,
        "created": created,
        "config": {
            "Cmd": ["python3"],
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"],
            "Labels": {
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


def write_archive(ref: str, tar: Path, platform: str, out: IO[bytes]) -> str:
    """Write an image whose only layer is ``tar`` to ``out``, as ``docker load`` reads it; returns the image's id."""
    import tarfile

    with tar.open("rb") as layer:
        diff_id = f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}"
    config = image_config(diff_id, platform)
    number = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{number}.json", "RepoTags": [normalise(ref)], "Layers": ["layer.tar"]}]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        for name, content in ((f"{number}.json", config), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
        entry = tarfile.TarInfo("layer.tar")
        entry.size = tar.stat().st_size
        with tar.open("rb") as layer:
            archive.addfile(entry, layer)
    return f"sha256:{number}"


def load(ref: str, tar: Path, platform: str) -> str:
    """Load the root filesystem ``tar`` into the engine as the image ``ref``; returns the image's id.

    Raises ``Trouble`` with the engine's words when it refuses.
    """
    process = subprocess.Popen(
        ["docker", "load", "--quiet"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    if process.stdin is None or process.stderr is None:
        raise AssertionError("both were asked for")
    image = ""
    try:
        image = write_archive(ref, tar, platform, process.stdin)
        process.stdin.close()
    except BrokenPipeError:
        pass  # docker load ended early: it says why below
    said = process.stderr.read().decode(errors="replace").strip()
    if process.wait() or not image:
        raise Trouble(f"docker load refuses the base made from Debian's packages: {said}")
    return image


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
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
    except FileNotFoundError:  # no apt here: mmdebstrap also runs on other distributions
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]
