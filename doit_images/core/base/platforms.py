"""What platform does a text mean, and which serves another?

A platform has many spellings (``amd64``, ``linux/x86_64``, ``linux/amd64/v1``) and one normal form, the one that
BuildKit, the engine and registries compare: containerd's ``platforms.Normalize``. Wherever two platforms meet, their
normal forms do, variant included.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache

from doit_images.core.base.errors import UserError

_PART = re.compile(r"[A-Za-z0-9_.-]+(\([A-Za-z0-9_.-]*\))?")
_SYSTEMS = {
    "aix", "android", "darwin", "dragonfly", "freebsd", "illumos", "ios", "js", "linux", "macos", "netbsd", "openbsd",
    "plan9", "solaris", "wasip1", "windows",
}  # fmt: skip
_PROCESSORS = {
    "i386": ("386", ""), "i686": ("386", ""), "x86_64": ("amd64", ""), "x86-64": ("amd64", ""),
    "aarch64": ("arm64", ""), "armhf": ("arm", "v7"), "armel": ("arm", "v6"), "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
}  # fmt: skip
_KNOWN = {
    "386", "amd64", "amd64p32", "arm", "arm64", "arm64be", "armbe", "loong64", "mips", "mips64", "mips64le",
    "mips64p32", "mips64p32le", "mipsle", "ppc", "ppc64", "ppc64le", "riscv", "riscv64", "s390", "s390x", "sparc",
    "sparc64", "wasm",
}  # fmt: skip
"""What may stand alone (containerd's ``isKnownArch``)."""


@cache
def normalise(text: str) -> str:
    """The normal form of a platform; a text that is none comes back in lower case. A system alone is that of a machine
    like this one.

    >>> normalise("x86_64"), normalise("linux/amd64/v1"), normalise("linux/amd64/v3")
    ('linux/amd64', 'linux/amd64', 'linux/amd64/v3')
    >>> normalise("linux/arm"), normalise("linux/armhf"), normalise("linux/arm64/v8"), normalise("Linux/i386")
    ('linux/arm/v7', 'linux/arm/v7', 'linux/arm64', 'linux/386')
    """
    parts = text.strip().lower().split("/")
    if len(parts) == 1:
        if not parts[0]:
            return ""
        parts = [*parts, os.uname().machine] if parts[0] in _SYSTEMS else ["linux", *parts]
    system, processor, *variants = parts
    processor, implied = _PROCESSORS.get(processor, (processor, ""))
    variant = implied or "/".join(variants)
    if re.fullmatch(r"\d+", variant):
        variant = f"v{variant}"
    if processor == "arm" and not variant:
        variant = "v7"
    if (processor, variant) in (("amd64", "v1"), ("arm64", "v8"), ("arm64", "v8.0")) or processor == "386":
        variant = ""
    return "/".join(part for part in ("darwin" if system == "macos" else system, processor, variant) if part)


def of(declared: Mapping[str, object]) -> str:
    """The normal form of a platform as an index or an image's configuration writes it: in three fields."""
    parts = (declared.get("os"), declared.get("architecture"), declared.get("variant"))
    return normalise("/".join(str(part) for part in parts if part))


def parsed(text: str, where: str = "") -> str:
    """The normal form of what a person wrote. ``UserError`` with ``where`` for a text that is no platform (containerd's
    ``platforms.Parse``)."""
    parts, full = text.split("/"), normalise(text)
    whole = len(parts) <= 3 and all(_PART.fullmatch(part) for part in parts)
    if not whole or (len(parts) == 1 and full.split("/")[1] not in _KNOWN):
        raise UserError(f"{text!r} is not a platform", where=where, remedy="platforms look like linux/arm64")
    return full


def targets(declared: Iterable[str], engine: str, where: str = "") -> tuple[str, ...]:
    """The platforms that an image is built for: those that are declared, else the engine's; normal forms, sorted, since
    their order changes nothing. ``UserError`` with ``where`` for a text that is no platform.

    >>> targets(["linux/arm64/v8", "amd64"], "linux/amd64"), targets([], "linux/x86_64")
    (('linux/amd64', 'linux/arm64'), ('linux/amd64',))
    """
    words = [part.strip() for entry in declared for part in entry.split(",")]
    named = {parsed(engine if text == "local" else text, where) for text in words}
    return tuple(sorted(named)) or (normalise(engine),)


def serving(platform: str) -> list[str]:
    """The platforms whose images an engine takes where ``platform`` is asked for, best first (containerd's
    ``platforms.Only``): a processor also runs what older ones of its kind run.

    >>> serving("linux/arm64")
    ['linux/arm64', 'linux/arm/v8', 'linux/arm/v7', 'linux/arm/v6', 'linux/arm/v5']
    >>> serving("linux/amd64/v3")
    ['linux/amd64/v3', 'linux/amd64/v2', 'linux/amd64', 'linux/386']
    """
    platform = normalise(platform)
    system, _, rest = platform.partition("/")
    processor, _, variant = rest.partition("/")
    number = int(variant[1:]) if re.fullmatch(r"v\d+", variant) else 0
    older: list[str] = []
    match processor:
        case "amd64":
            older = [*(f"amd64/v{lower}" for lower in range(number - 1, 0, -1)), "386"]
        case "arm":
            older = [f"arm/v{lower}" for lower in range(number - 1, 4, -1)]
        case "arm64":
            older = [
                *(f"arm64/v{lower}" for lower in range(number - 1, 7, -1)),
                *(f"arm/v{lower}" for lower in range(8, 4, -1)),
            ]
    return list(dict.fromkeys([platform, *(normalise(f"{system}/{name}") for name in older)]))


def serves(have: str, platform: str) -> bool:
    """Whether an image of the platform ``have`` is what an engine takes where ``platform`` is asked for.

    >>> serves("linux/amd64", "linux/amd64/v3"), serves("linux/amd64/v3", "linux/amd64")
    (True, False)
    """
    return normalise(have) in serving(platform)


def chosen(offered: Iterable[str], platform: str) -> str:
    """Which of several platforms an engine takes where ``platform`` is asked for; "" for none of them.

    >>> chosen(["linux/386", "linux/amd64"], "linux/amd64"), chosen(["linux/arm64"], "linux/amd64")
    ('linux/amd64', '')
    """
    there = {normalise(one) for one in offered}
    return next((one for one in serving(platform) if one in there), "")


def held(built_for: Sequence[str], engine: str) -> str:
    """The platform of what an engine holds of an image that is built for these; for none said, its own.

    >>> held(["linux/arm64"], "linux/amd64"), held(["linux/arm64", "linux/amd64"], "linux/amd64"), held([], "linux/386")
    ('linux/arm64', 'linux/amd64', 'linux/386')
    """
    return chosen(built_for, engine) or next(iter(built_for), engine)


def same(platform: str, other: str) -> bool:
    """Whether two texts mean the same platform.

    >>> same("linux/arm64/v8", "arm64"), same("linux/arm/v6", "linux/arm")
    (True, False)
    """
    return normalise(platform) == normalise(other)
