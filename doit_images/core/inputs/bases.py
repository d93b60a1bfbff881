"""Which other images does an image read, for which platforms, and what do those from outside hold?

Pure: what the engine holds of an external reference comes in as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from doit_images.core.base import platforms
from doit_images.core.base.errors import UserError
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import ImageConfig
from doit_images.core.inputs.reads import Reads

# What is known of an external reference for each of these platforms; None where the engine does not hold them all.
ConfigsOf = Callable[[str, tuple[str, ...]], tuple[ImageConfig, ...] | None]


def references(reads: Reads | None) -> list[str]:
    """The named contexts and the image references that a target reaches."""
    return [*reads.contexts, *reads.externals] if reads else []


def external(image: Image, ref: str) -> str:
    """The image reference that a context or a reference of the Dockerfile means, "" if it means none."""
    value = image.contexts.get(ref)
    if value is None:
        return ref
    return value.removeprefix("docker-image://") if value.startswith("docker-image://") else ""


def read_for(
    image: Image, reads: Reads | None, targets: tuple[str, ...], parents: Mapping[str, str]
) -> dict[str, tuple[str, ...]]:
    """The external references that an image reads, each with the platforms for which it does."""
    by_ref: dict[str, tuple[str, ...]] = {}
    for name in references(reads):
        ref = "" if name in parents else external(image, name)
        if ref and reads:
            by_ref[ref] = tuple(dict.fromkeys((*by_ref.get(ref, ()), *reads.read_for.get(name, targets))))
    return by_ref


def check_parents(
    reads: Reads | None, parents: Mapping[str, str], built_for: Mapping[str, tuple[str, ...]], where: str
) -> None:
    """``UserError`` where an image is read for a platform for which its parent is not built."""
    for context, name in parents.items():
        for asked in reads.read_for.get(context, ()) if reads else ():
            built = built_for[name]
            if built and not any(platforms.serves(platform, asked) for platform in built):
                raise UserError(
                    f"it reads {name} for {asked}, and {name} is built for {', '.join(built)} only",
                    where=where,
                    remedy=f"give {name} the same platforms, or read it with FROM --platform",
                )


def content(ref: str, asked: tuple[str, ...], configs_of: ConfigsOf) -> str:
    """What an external reference holds: its digest if it is pinned, else the content that the engine has for it; of
    several platforms, each one's."""
    pinned = ref.partition("@")[2]
    if pinned:
        return pinned
    configs = configs_of(ref, asked) or ()
    if len(configs) < 2:
        return configs[0].content if configs else ""
    return " ".join(sorted(f"{platform}={config.content}" for platform, config in zip(asked, configs, strict=True)))
