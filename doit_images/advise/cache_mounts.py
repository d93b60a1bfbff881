"""The rule: an installation keeps what it downloads in a cache mount, not in the image, and not anew each time.

    RUN pip install --no-cache-dir -r requirements.txt    →    RUN --mount=type=cache,target=/root/.cache/pip \\
                                                                   pip install -r requirements.txt

A table of where the tools keep what they download, for root, unless a variable says otherwise. What a tool needs again
later (modules of Go, crates) is mounted wherever its stage runs something, and only in a stage that is not the image.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from doit_images.advise.apt import INSTALLS, LISTS, UPDATES, updates_first
from doit_images.advise.around import RunInstruction, around, runs, shipped
from doit_images.advise.patch import Patch, edited
from doit_images.advise.shell import is_of, mounts, with_mounts, without, without_words
from doit_images.advise.steps import Step

NAME = "cache-mounts"


class _Tool(NamedTuple):
    """Which commands fill which folders; the words without which they do, the commands that empty them, the variables
    that say where they are. ``base``: the name of the image that has them there. ``needed``: later steps read them."""

    heads: tuple[tuple[str, ...], ...]
    folders: tuple[str, ...]
    variables: str
    words: tuple[str, ...] = ()
    cleans: tuple[tuple[str, ...], ...] = ()
    locked: bool = False
    base: str = ""
    needed: bool = False


_APT = _Tool(
    heads=INSTALLS,
    folders=("/var/cache/apt", LISTS),
    variables="APT_CONFIG",
    cleans=(("apt-get", "clean"), ("apt", "clean")),
    locked=True,
)
_CLEAN = "/etc/apt/apt.conf.d/docker-clean"
_TOOLS = (
    _APT,
    _Tool(
        (("pip", "install"), ("pip3", "install"), ("pip", "wheel"), ("pip3", "wheel")),
        ("/root/.cache/pip",),
        "PIP_(NO_)?CACHE_DIR",
        ("--no-cache-dir",),
        (("pip", "cache", "purge"), ("pip3", "cache", "purge")),
    ),
    _Tool(
        (("uv", "sync"), ("uv", "pip", "install"), ("uv", "pip", "sync")),
        ("/root/.cache/uv",),
        "UV_(NO_CACHE|CACHE_DIR)",
        ("--no-cache", "--no-cache-dir", "-n"),
        (("uv", "cache", "clean"), ("uv", "cache", "prune")),
    ),
    _Tool(  # environments are beside them
        (("poetry", "install"),),
        ("/root/.cache/pypoetry/artifacts", "/root/.cache/pypoetry/cache"),
        "POETRY_CACHE_DIR",
        ("--no-cache",),
        (("poetry", "cache", "clear"),),
    ),
    _Tool(
        (("npm", "ci"), ("npm", "install"), ("npm", "i")),
        ("/root/.npm",),
        "(?i:npm_config_cache)",
        cleans=(("npm", "cache", "clean"),),
    ),
    _Tool(
        (("pnpm", "install"), ("pnpm", "i")),
        ("/root/.local/share/pnpm/store",),
        "PNPM_HOME|(?i:npm_config_store_dir)",
        cleans=(("pnpm", "store", "prune"),),
    ),
    _Tool(
        (("composer", "install"),),
        ("/tmp/cache",),  # noqa: S108 (as its image has it)
        "COMPOSER_(HOME|CACHE_DIR)",
        ("--no-cache",),
        (("composer", "clear-cache"), ("composer", "clearcache")),
        base="composer",
    ),
    _Tool(
        (("go",),), ("/go/pkg/mod", "/root/.cache/go-build"), "GOPATH|GOMODCACHE|GOCACHE", base="golang", needed=True
    ),
    _Tool((("cargo",),), ("/usr/local/cargo/registry",), "CARGO_HOME", base="rust", needed=True),
    _Tool((("mvn",), ("./mvnw",)), ("/root/.m2/repository",), "MAVEN_(OPTS|ARGS)", locked=True, needed=True),
    _Tool((("dotnet",),), ("/root/.nuget/packages",), "NUGET_PACKAGES", needed=True),
)
_ANYWHERE = "HOME|XDG_(CACHE|DATA)_HOME"
_ELSEWHERE = re.compile(r"--(cache-dir|cache|store-dir|cache-folder|offline)\b|UV_LINK_MODE[= ]\W?symlink")
# Such a step fails where the one that downloads comes from BuildKit's cache, and the mount is empty.
_OFFLINE = re.compile(r"--(frozen|no-restore)(?![\w-])|\bmvnw?\s[^&;]*(?<=\s)-o(?=\s|$)")


def patches(text: str, steps: Sequence[Step]) -> Iterator[Patch]:
    """One patch of a Dockerfile with these steps for each tool that could keep what it downloads."""
    every = runs(text, steps)
    # The stages that the image, or another stage, is built on: what is in a mount these lack.
    outer = {each.parent for each in around(text).values()} | shipped(text, steps)
    for tool in _TOOLS:
        asked = _mounted(tool, every, outer)
        mounted = [run for run in asked if not _is_moved(tool, run)]
        if tool.needed and len(mounted) < len(asked):
            continue
        new = {run.span.line: _better(tool, run, first=first) for run, first in _with_first(mounted)}
        new = {run.span.line: new[run.span.line] for run in mounted if new[run.span.line] != run.span.text}
        if new:
            yield Patch(NAME, min(new), _why(tool), edited(text, new), _removes(tool))


def _mounted(tool: _Tool, every: Sequence[RunInstruction], outer: Collection[str]) -> list[RunInstruction]:
    """Which of these get the mounts of a tool; one that is ``needed`` later none in the ``outer`` stages."""
    using = [run for run in every if any(is_of(command, tool.heads) for command in run.commands)]
    if tool is _APT:  # lists that another layer has are hidden by the mount
        alone = any(is_of(command, UPDATES) for run in every if run not in using for command in run.commands)
        return using if all(updates_first(run.commands) for run in using) and not alone else []
    if not tool.needed:
        return using
    stages = {run.around.stage: run.span.line for run in reversed(using) if not run.around.parent}
    inner = stages.keys() - outer
    return [run for run in every if run.around.stage in inner and run.span.line >= stages[run.around.stage]]


def _is_moved(tool: _Tool, run: RunInstruction) -> bool:
    """Whether the cache may be elsewhere, or is not used."""
    names = f"{tool.variables}|{_ANYWHERE}"
    said = " ".join(word for each in run.around.above if each.name == "ENV" for word in each.words)
    inline = re.search(rf"\b({names})=", run.span.text)
    elsewhere = _ELSEWHERE.search(run.span.text) or _ELSEWHERE.search(said)
    offline = tool.needed and _OFFLINE.search(run.span.text)
    other_base = tool.base and run.around.base != tool.base
    return bool(not run.around.is_root or run.around.sets(names) or inline or elsewhere or offline or other_base)


def _with_first(runs: Sequence[RunInstruction]) -> Iterator[tuple[RunInstruction, bool]]:
    """Each with whether it is the first in its stage."""
    seen: set[str] = set()
    for run in runs:
        yield run, run.around.stage not in seen
        seen.add(run.around.stage)


def _better(tool: _Tool, run: RunInstruction, *, first: bool) -> str:
    """The text of a RUN with the mounts of a tool, and without what empties its cache."""
    text = run.span.text
    for number, command in reversed(list(enumerate(run.commands))):
        before = run.commands[number - 1] if number else None
        after = run.commands[number + 1].join if number + 1 < len(run.commands) else "&&"
        alone = before if before and command.join in ("&&", ";") and after in ("&&", ";") else None
        gone = [word for word in command.words[1:] if _is_below(word, tool.folders)]
        if is_of(command, tool.heads):
            text = without_words(text, command, tool.words)
        elif command.words[:2] == ("rm", "-rf") and gone:
            if gone != list(command.words[2:]):
                text = without_words(text, command, gone)
            elif alone:
                text = without(text, command, alone)
        elif is_of(command, tool.cleans) and alone:
            text = without(text, command, alone)
    there = [*mounts(text).values()]
    new = [_mount(folder, tool) for folder in tool.folders if not _has(there, folder)]
    return with_mounts(text, new, f"rm -f {_CLEAN}" if tool is _APT and first and _CLEAN not in text else "")


def _is_below(word: str, folders: Sequence[str]) -> bool:
    """Whether a word is a path within one of these folders, or one of them."""
    path = re.sub(r"^(~|\$HOME|\$\{HOME\})(?=/)", "/root", word)
    return any(f"{path.rstrip('/*')}/".startswith(f"{folder}/") for folder in folders)


def _mount(folder: str, tool: _Tool) -> str:
    return f"--mount=type=cache,target={folder}{',sharing=locked' if tool.locked else ''}"


def _has(mounts: Sequence[Mapping[str, str]], folder: str) -> bool:
    targets = [mount.get("target", "") for mount in mounts if mount.get("type") == "cache"]
    return any("$" in target or f"{folder}/".startswith(f"{target.rstrip('/')}/") for target in targets)


def _why(tool: _Tool) -> str:
    return f"what {tool.heads[0][0]} downloads is downloaded anew whenever this runs again"


def _removes(tool: _Tool) -> dict[str, str]:
    if tool.needed:
        return {}
    found = dict.fromkeys(tool.folders, f"the cache of {tool.heads[0][0]}")
    return found | ({_CLEAN: "it would empty the cache of apt-get"} if tool is _APT else {})
