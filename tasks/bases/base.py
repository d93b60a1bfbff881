"""Where does BASE_IMAGE come from, with or without a registry?

It is in the engine already, or the shared registry has it (``shared_base``), or a registry of its name, or it is made
from Debian's own packages (``debian``): a root filesystem, ``.doit-images/base/rootfs.tar``, becomes an image's one
layer. The same package versions give the same bytes and the same image id on every machine, so that what one machine
builds on its base, another recognises.

One that is made here stands in for the image of that name, and has a name of its own (``references.stand_in``): others
who build on this engine mean the real one. This project's builds get it by a named context.

That is the engine's own platform. Where images are built for others, their base is made from Debian's packages too if
the engine's was; one from a registry is pulled as any other base.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING

from doit_images.core.base import commands, lock, platforms
from doit_images.core.base.checked_json import OWN_FOLDER
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import beside, stand_in
from doit_images.core.base.settings import BaseSource, Settings
from doit_images.core.engine.client import Engine, LocalImage, Snapshot, normalise
from tasks import ROOT
from tasks.bases.debian import (
    DATE,
    EPOCH,
    IDENTITY_LABEL,
    PYTHON,
    SOURCE_LABEL,
    SUITE,
    date_of,
    declared_packages,
    identity,
    image_config,
    make_rootfs,
    next_date,
    set_date,
)

if TYPE_CHECKING:
    from doit_images.share.share import Share

FOLDER = Path(OWN_FOLDER) / "base"
TAR = FOLDER / "rootfs.tar"
# A registry that says one of these was reached; with anything else it was not.
_ANSWERED = re.compile(r"not found|manifest unknown|denied|unauthorized|no matching manifest|invalid reference", re.I)


def ensure(
    settings: Settings, root: Path, *, no_cache: bool = False, share: Share | None = None, others: Sequence[str] = ()
) -> str:
    """See to it that the engine holds ``BASE_IMAGE``, for its own platform and for these ``others``; returns what was
    done in a sentence, '' for nothing.

    ``no_cache`` makes it from Debian's packages although it is there; ``share`` is the shared registry of the run.

    Raises ``UserError`` when it cannot be had: a registry that has no such image, a digest that nobody can make, a
    machine without mmdebstrap, an engine that does not answer.
    """
    engine = Engine()
    only_debian = replace(settings, base_source=BaseSource.DEBIAN)
    own = engine.snapshot().platform
    done = [_Base(only_debian if no_cache else settings, root, engine, own, share, own).ensure(no_cache=no_cache)]
    for platform in others:
        found = held(settings, engine.snapshot(), own, identity(root, own) if declared(settings) else "")
        if found and made_here(found[1]):
            done.append(_Base(only_debian, root, engine, platform, share, own).ensure(no_cache=no_cache))
    return "; ".join(filter(None, done))


def names_for(ref: str, platform: str, engine: str) -> tuple[str, str]:
    """What the engine's image of the base ``ref`` for a platform is called, and what stands in for it; ``engine`` is
    the engine's own platform.

    >>> names_for("python:3.13", "linux/amd64/v3", "linux/amd64")
    ('python:3.13', 'localhost:0/stand-ins/python:linux-amd64-57b5b9aef43c')
    >>> names_for("python:3.13", "linux/arm64", "linux/amd64")[0]
    'localhost:0/bases/python:linux-arm64-57b5b9aef43c'
    """
    if platforms.serves(engine, platform):
        return ref, stand_in(ref, engine)
    return beside(ref, platform), stand_in(ref, platform)


def held(settings: Settings, snapshot: Snapshot, platform: str, number: str) -> tuple[str, LocalImage] | None:
    """What the engine holds of ``BASE_IMAGE`` for a platform, by its name there: what is wanted, the real one first,
    else what is there; None for nothing. ``number`` as for ``wanted``."""
    names = names_for(settings.base_image, platform, snapshot.platform)
    there = [(name, local_image) for name in names if (local_image := snapshot.get(name))]
    return next((one for one in there if wanted(one[1], settings, number)), there[0] if there else None)


def name_here(settings: Settings, root: Path = ROOT) -> str:
    """What this machine's engine calls ``BASE_IMAGE``, or what stands in for it: for whoever runs or builds something
    with it by other means. ``BASE_IMAGE`` itself where it holds neither. Raises ``UserError``."""
    snapshot = Engine().snapshot()
    number = identity(root, snapshot.platform) if declared(settings) else ""
    found = held(settings, snapshot, snapshot.platform, number)
    return found[0] if found else settings.base_image


@dataclass(frozen=True)
class _Base:
    """The base for one platform, as the files in ``root`` and the settings declare it, in an engine."""

    settings: Settings
    root: Path
    engine: Engine
    platform: str
    share: Share | None
    own: str
    """The engine's own platform."""

    @cached_property
    def number(self) -> str:
        """Its identity; "" for none."""
        return identity(self.root, self.platform) if declared(self.settings) else ""

    def is_there(self) -> bool:
        """Whether the engine holds it."""
        found = held(self.settings, self.engine.snapshot(), self.platform, self.number)
        return found is not None and wanted(found[1], self.settings, self.number)

    def ensure(self, *, no_cache: bool) -> str:
        """See to it that it is there; with ``no_cache`` it is made in any case. Returns what was done, in words."""
        if not no_cache and self.is_there():
            return ""
        waits = "base_image: waiting for another run that makes it"
        with lock.exclusive(lock.of_engine(self.engine.address, "base"), waits):
            return "" if not no_cache and self.is_there() else self._bring()

    def _bring(self) -> str:
        """Let the engine have it; returns what was done, in words. Raises as ``ensure``, the function."""
        from tasks.bases import shared as shared_base

        settings, ref = self.settings, self.settings.base_image
        by_name, known_as = names_for(ref, self.platform, self.own)
        foreign, tar = f" for {self.platform}" if by_name != ref else "", self.root / TAR
        if foreign:
            tar = tar.with_stem(f"rootfs-{self.platform.replace('/', '-')}")
        shared = shared_base.of(settings, self.share, self.number, self.platform)
        if shared.bring(known_as, self.engine):
            return f"pulled {ref}{foreign} from {settings.cache_registry}"
        why = ""
        if settings.base_source != BaseSource.DEBIAN:
            why = pull(ref)
            if not why:
                return f"pulled {ref}"
            refuse_to_stand_in(ref, settings.base_source, why)
        elif "@" in ref:
            refuse_to_stand_in(ref, BaseSource.DEBIAN, "")
        what = f"{ref}{foreign} from Debian's packages ({SUITE}, Python {PYTHON})"
        print(f"base_image: {why + '; ' if why else ''}making {what}", file=sys.stderr)
        make_rootfs(self.root, tar, self.platform)
        image = load(known_as, tar, self.platform, self.number)
        return f"made {what}{shared.give(known_as, image, self.engine)}"


def rebuild(
    settings: Settings,
    local_image: LocalImage | None,
    share: Share,
    root: Path = ROOT,
    others: Sequence[str] = (),
) -> str:
    """Make the base again, in place of the one that the engine holds, and those for ``others``, further platforms;
    returns what was done, in words.

    What stands in the file decides which base it is, so the day is written first, and taken back if no base comes of
    it. Raises ``UserError``.
    """
    ref = settings.base_image
    refuse_to_stand_in(ref, settings.base_source, f"{ref} cannot be made here")
    if settings.base_source == BaseSource.AUTO and local_image and not made_here(local_image):
        raise UserError(
            f"BASE_IMAGE {ref} in the engine was not made here from Debian's packages",
            remedy=f"docker pull {ref} brings a newer one, BASE_SOURCE=debian one that is made here",
        )
    declared_packages(root)
    date = next_date(date_of(root), time.strftime("%Y-%m-%d", time.gmtime()))
    before = set_date(root, date)
    try:
        done = ensure(settings, root, no_cache=True, share=share, others=others)
    except BaseException:
        (root / DATE).write_text(before)
        raise
    return f"{done}\n{DATE} says {date}: commit it, and every machine has this base with its next build"


def wanted(local_image: LocalImage | None, settings: Settings, number: str = "") -> bool:
    """Whether what the engine holds for the base comes from where ``BASE_SOURCE`` says, and if it was made
    from Debian's packages, is the one that the project declares (``debian.identity``; "" if it declares none)."""
    if local_image is None:
        return False
    ours = local_image.labels.get(SOURCE_LABEL) == "debian"
    comes = {BaseSource.AUTO: True, BaseSource.DEBIAN: ours, BaseSource.REGISTRY: not ours}[settings.base_source]
    return comes and not (number and made_here(local_image) and local_image.labels.get(IDENTITY_LABEL) != number)


def is_of(local_image: LocalImage, number: str) -> bool:
    """Whether an image is the base of this identity, made from Debian's packages."""
    return made_here(local_image) and local_image.labels.get(IDENTITY_LABEL) == number


def made_here(local_image: LocalImage) -> bool:
    """Whether an image is itself a base made from Debian's packages: what is built on one inherits its labels, but not
    the time at which it was made."""
    return local_image.labels.get(SOURCE_LABEL) == "debian" and local_image.created == EPOCH


def declared(settings: Settings) -> bool:
    """Whether a base made from Debian's packages may stand in for ``BASE_IMAGE``."""
    if settings.base_source == BaseSource.REGISTRY or "@" in settings.base_image:
        return False
    return settings.base_source == BaseSource.DEBIAN or not _other_base(settings.base_image)


def pull(ref: str) -> str:
    """Pull ``ref``; returns '' or, when its registry cannot be reached, why not. Raises ``UserError`` when the registry
    answers that there is no such image, or none for us."""
    print(f"base_image: pulling {ref}", file=sys.stderr)
    done = commands.run(["docker", "pull", "--quiet", ref])
    if done.status == 0:
        return ""
    why = done.why
    if _ANSWERED.search(why):
        raise UserError(f"BASE_IMAGE {ref}: {why}", remedy="correct BASE_IMAGE, or log in with `docker login`")
    return f"no registry can be reached ({why.rsplit(': ', 1)[-1]})"


def refuse_to_stand_in(ref: str, source: BaseSource, why: str) -> None:
    """Raise ``UserError`` where an image made from Debian's packages must not stand in for ``ref``.

    >>> refuse_to_stand_in("python:3.13-slim-trixie", BaseSource.AUTO, "offline")
    """
    if source == BaseSource.REGISTRY:
        raise UserError(f"{why}, and BASE_SOURCE=registry", remedy="set BASE_SOURCE=auto to make the base here")
    if "@" in ref:
        raise UserError(
            f"{why + ', and ' if why else ''}an image made from Debian's packages cannot have the digest of {ref}",
            remedy="load that image into the engine, or set BASE_IMAGE to a name without a digest",
        )
    if source == BaseSource.AUTO and (other := _other_base(ref)):
        raise UserError(
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


def write_archive(ref: str, tar: Path, platform: str, out: IO[bytes], number: str = "") -> str:
    """Write an image whose only layer is ``tar`` to ``out``, as ``docker load`` reads it; returns the image's id."""
    import tarfile

    with tar.open("rb") as layer:
        diff_id = f"sha256:{hashlib.file_digest(layer, 'sha256').hexdigest()}"
    config = image_config(diff_id, platform, number)
    digest = hashlib.sha256(config).hexdigest()
    manifest = [{"Config": f"{digest}.json", "RepoTags": [normalise(ref)], "Layers": ["layer.tar"]}]
    with tarfile.open(fileobj=out, mode="w|") as archive:
        for name, content in ((f"{digest}.json", config), ("manifest.json", json.dumps(manifest).encode())):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, BytesIO(content))
        entry = tarfile.TarInfo("layer.tar")
        entry.size = tar.stat().st_size
        with tar.open("rb") as layer:
            archive.addfile(entry, layer)
    return f"sha256:{digest}"


def load(ref: str, tar: Path, platform: str, number: str = "") -> str:
    """Load the root filesystem ``tar`` into the engine as the image ``ref`` with this identity; returns the image's id.
    Raises ``UserError`` with the engine's words when it refuses."""
    with tempfile.NamedTemporaryFile(dir=tar.parent, suffix=".tar") as archive:
        image = write_archive(ref, tar, platform, archive, number)
        archive.flush()
        done = commands.run(["docker", "load", "--quiet", "--input", archive.name])
    done.checked("docker load refuses the base made from Debian's packages")
    return image
