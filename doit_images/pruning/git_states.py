"""Which results do the branches and tags of a project's repository need?

What their images are made of is read from git's objects (``planning.commits``), for each platform that there are
results for, by the bases that this machine has. Where one of these is not here, nobody can tell, and all results stay
that may be needed.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from doit_images.ci.commit import Source
from doit_images.ci.commits import Look, WorkingCopy
from doit_images.core.base import commands, leftovers
from doit_images.core.base.errors import UserError, os_reason
from doit_images.core.base.references import path_of
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning.wanted import wanted_of
from doit_images.core.run import Run

_REFS = "%(refname)%00%(objecttype)%00%(objectname)%00%(*objecttype)%00%(*objectname)%00%(symref)"
_ALL = re.compile(r"refs/(heads/)?\*:")  # all branches, by what a remote fetches
Result = tuple[str, str]
"""A repository and a tag in the shared registry."""


@dataclass(frozen=True)
class Needed:
    """Who needs what: ``results`` with who needs each, in words; ``unknown`` repositories and platforms of which nobody
    can tell, with the reason; and the branches and tags that cannot be read (``unread``), with that."""

    results: dict[Result, str] = field(default_factory=dict)
    unknown: dict[tuple[str, str], str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)

    def add(self, images: Mapping[str, ImageInputs], platform: str, who: str, doubtful: Iterable[str] = ()) -> None:
        """What somebody needs for a platform; ``images`` has parents first, ``doubtful`` are those that may be made of
        something else."""
        doubts = set(doubtful)
        for name, inputs in images.items():
            wanted = wanted_of(inputs, platform)
            if wanted is None or name in doubts or doubts.intersection(inputs.parents.values()):
                doubts.add(name)
                some = inputs.platforms or (platform,)
                why = f"{who} may need it: what it is built on for {', '.join(some)} is not here"
                self.unknown.update({(path_of(inputs.image.ref), each): why for each in some})
            else:
                self.results.setdefault((wanted.path, wanted.tag), f"{who} needs it")


def needed(run: Run, some: Iterable[str]) -> Needed:
    """What is needed for these platforms and this machine's. Raises ``UserError`` for a working tree that cannot be
    read, and for a repository that cannot be asked."""
    wanted = sorted({run.local_images.snapshot().platform, *some})
    found = Needed()
    for platform in wanted:
        found.add(run.planner.made_of(run.resolver, platform), platform, "this working tree")
    commits = _commits(run.project.directory)
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
                for platform in wanted:
                    found.add(run.planner.made_of(look.resolver, platform), platform, names[0], unsure)
            except UserError as error:
                if look.has_files:
                    found.unread.update(dict.fromkeys(names, str(error)))
            except OSError as error:
                found.unread.update(dict.fromkeys(names, os_reason(error)))
    return found


def _commits(directory: Path) -> Mapping[str, list[str]]:
    """The commits of all branches, here and of other repositories, and tags, each with their names; none where there is
    no repository. Raises ``UserError`` where there is one that cannot be asked, for then everything would go."""
    if not any((above / ".git").exists() for above in (directory, *directory.parents)):
        return {}
    unknown = "what other branches need cannot be known"
    try:
        done = commands.run(["git", "-C", str(directory), "for-each-ref", f"--format={_REFS}"])
    except commands.NotInstalled:
        raise UserError(f"{unknown}: git is not installed", remedy="install git") from None
    _refuse_part(directory)
    commits: dict[str, list[str]] = defaultdict(list)
    for line in done.checked(unknown).stdout.splitlines():
        name, kind, commit, of_tag, its_commit, symbolic = line.split("\0")
        if kind == "tag":
            kind, commit = of_tag, its_commit
        if kind == "commit" and not symbolic:
            commits[commit].append(_in_words(name))
    return commits


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
