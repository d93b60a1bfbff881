"""Which results do the branches, the tags and the latest commits of a project's repository need?

A commit needs its results until another one takes its place. So those of the time that counts are needed, and those
that they took the place of, however old these are. What their images are made of is read from git's objects
(``ci.commits``), for each platform that there are results for, by the bases that this machine has. Where one of these
is not here, nobody can tell, and all results stay that may be needed.
"""

from __future__ import annotations

import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from doit_images.ci.commit import Source
from doit_images.ci.commits import Look, WorkingCopy
from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.references import path_of
from doit_images.core.base.timestamps import DAY
from doit_images.core.buildkit import backends
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.shared_image import shared_ref_of
from doit_images.core.run import Run

_REFS = "%(refname)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)%00%(symref)"
_ALL = re.compile(r"refs/(heads/)?\*:")  # all branches, by what a remote fetches
Result = tuple[str, str]
"""A repository and a tag in the shared registry."""


@dataclass(frozen=True)
class Needed:
    """What is needed, each with the reason in words: ``results``, ``caches`` by their tags, and ``unknown``, the
    repositories and platforms whose needs cannot be known. ``unread`` is what cannot be read, with the reason.
    ``paths`` are all repositories that hold an image of any of these."""

    results: dict[Result, str] = field(default_factory=dict)
    caches: dict[str, str] = field(default_factory=dict)
    unknown: dict[tuple[str, str], str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    paths: set[str] = field(default_factory=set)

    def add(self, images: Mapping[str, ImageInputs], platform: str, who: str, doubtful: Iterable[str] = ()) -> None:
        """What somebody needs for a platform; ``images`` has parents first, ``doubtful`` are those that may be made of
        something else."""
        doubts = set(doubtful)
        for name, inputs in images.items():
            self.paths.add(path_of(inputs.image.ref))
            shared_ref = shared_ref_of(inputs, platform)
            if shared_ref is None or name in doubts or doubts.intersection(inputs.parents.values()):
                doubts.add(name)
                some = inputs.platforms or (platform,)
                why = f"{who} may need it: what it is built on for {', '.join(some)} is not here"
                self.unknown.update({(path_of(inputs.image.ref), each): why for each in some})
            else:
                self.results.setdefault((shared_ref.path, shared_ref.tag), f"{who} needs it")


def needed(run: Run, some: Iterable[str], seconds: float) -> Needed:
    """What is needed for these platforms and this machine's, and was in the last so many seconds. Raises ``UserError``
    for a working tree that cannot be read, and for a repository that cannot be asked."""
    needed = sorted({run.local_images.snapshot().platform, *some})
    found = Needed()
    for platform in needed:
        found.add(run.planner.made_of(run.resolver, platform), platform, "this working tree")
    refs = _refs(run.project.directory)
    for branch in (run.settings.cache_main_branch, run.settings.cache_branch, *(ref.short for ref in refs)):
        for tag in (branch, *(f"{branch}:{platform}" for platform in needed)) if branch else ():
            found.caches[backends.cache_tag(tag)] = f"it is the cache of {branch}"
    commits = _commits(run.project.directory, refs, seconds) if refs else {}
    if not commits:
        return found
    top = Path(commands.answer(["git", "-C", str(run.project.directory), "rev-parse", "--show-toplevel"])).resolve()
    git_dir = Path(commands.answer(["git", "-C", str(run.project.directory), "rev-parse", "--absolute-git-dir"]))
    own_env = run.project.directory / ".env"
    with leftovers.folder("states-") as scratch:
        copy = WorkingCopy(run.files, run.environ, run.common)
        look = Look(copy, top, scratch.resolve() / top.name, own_env if own_env.is_file() else None)
        for commit, names in commits.items():
            try:
                seen = look.see(Source(git_dir, commit))
                # A variable without a value here may have had one where this was built.
                unsure = [name for name in seen.images if look.without_value or seen.doubtful.get(name)]
                for platform in needed:
                    found.add(run.planner.made_of(look.resolver, platform), platform, names[0], unsure)
            except UserError as error:
                if look.has_files:
                    found.unread.update(dict.fromkeys(names, str(error)))
            except OSError as error:
                found.unread.update(dict.fromkeys(names, os_reason(error)))
    return found


class _Ref(NamedTuple):
    """A branch, here or of another repository, or a tag: in words, its own name alone, and its commit."""

    words: str
    short: str
    commit: str


def _refs(directory: Path) -> list[_Ref]:
    """All branches, here and of other repositories, and tags; none where there is no repository. Raises ``UserError``
    where there is one that cannot be asked, for then everything would go."""
    if not any((above / ".git").exists() for above in (directory, *directory.parents)):
        return []
    unknown = "what other branches need cannot be known"
    try:
        done = commands.run(["git", "-C", str(directory), "for-each-ref", f"--format={_REFS}"])
    except commands.NotInstalled:
        raise UserError(f"{unknown}: git is not installed", remedy="install git") from None
    _refuse_part(directory)
    found = []
    for line in done.checked(unknown).stdout.splitlines():
        name, kind, commit, of_tag, its_commit, symbolic = line.split("\0")
        if kind == "tag":
            kind, commit = of_tag, its_commit
        if kind == "commit" and not symbolic:
            short = name.split("/", 3 if name.startswith("refs/remotes/") else 2)[-1]
            found.append(_Ref(_in_words(name), short, commit))
    return found


def _commits(directory: Path, refs: Iterable[_Ref], seconds: float) -> Mapping[str, list[str]]:
    """The commits that somebody needs, each with who that is, in words: those of ``refs``, and those that were a
    branch's last one in so many seconds. Raises ``UserError`` where git does not say."""
    commits: dict[str, list[str]] = defaultdict(list)
    for ref in refs:
        commits[ref.commit].append(ref.words)
    for commit in _recent(directory, seconds) if seconds else ():
        if commit not in commits:
            commits[commit].append(f"commit {commit[:12]} of the last {seconds / DAY:.0f} days")
    return commits


def _recent(directory: Path, seconds: float) -> Iterator[str]:
    """The commits of so many seconds, and those before them: until then these were the last ones."""
    since = f"--max-age={max(0.0, time.time() - seconds):.0f}"
    done = commands.run(["git", "-C", str(directory), "rev-list", "--all", "--parents", since])
    yield from done.checked("what the last commits need cannot be known").stdout.split()


def _refuse_part(directory: Path) -> None:
    """``UserError`` where this clone has only a part of its repository: what the rest needs would go."""
    git = ["git", "-C", str(directory)]
    if commands.answer([*git, "rev-parse", "--is-shallow-repository"]) == "true":
        raise UserError("this clone is shallow, so what other commits need cannot be known", where=str(directory),
                        remedy="git fetch --unshallow")  # fmt: skip
    for line in commands.answer([*git, "config", "--get-regexp", r"^remote\..*\.url$"]).splitlines():
        remote = line.split()[0].removeprefix("remote.").removesuffix(".url")
        if not _ALL.search(commands.answer([*git, "config", "--get-all", f"remote.{remote}.fetch"])):
            raise UserError(f"this clone has not all branches of {remote}, so what these need cannot be known",
                            where=str(directory),
                            remedy=f"git remote set-branches {remote} '*' && git fetch {remote}")  # fmt: skip


def _in_words(ref: str) -> str:
    """A full name of git's as people say it.

    >>> _in_words("refs/heads/main"), _in_words("refs/remotes/origin/main"), _in_words("refs/tags/v1")
    ('branch main', 'branch origin/main', 'tag v1')
    """
    _, kind, name = ref.split("/", 2) if ref.count("/") > 1 else ("", "", ref)
    return f"tag {name}" if kind == "tags" else f"branch {name}"
