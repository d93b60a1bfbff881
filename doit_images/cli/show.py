"""Which tasks only show something: the plan, the history, sizes, the state of this machine?

What each does is imported when it acts: to build needs none of it.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

from doit_images.cli.action import JSON, YES, Task, option, quiet
from doit_images.core.base.errors import UserError
from doit_images.core.run import Run


def task_plan() -> Task:
    """What would run, why: [IMAGE …] [--json|--inputs|--bake|--pull] [--staged|--at REV [--since REV] [--matrix]]"""
    inputs = option("inputs", False, "only the inputs, one a line")
    bake = option("bake", False, "a definition for buildx bake", name="as_bake")
    at = option("at", "", "of this commit, from git alone: no checkout, no engine, no registry")
    staged = option("staged", False, "of what git would commit now, before it is committed")
    since = option("since", "", "where it left this branch all was built (default: CACHE_MAIN_BRANCH)")
    matrix = option("matrix", False, "as the matrix of jobs that GitHub Actions takes")
    gitlab = option("gitlab", False, "as a child pipeline of GitLab's")
    pull = option("pull", False, "ask the registries of external bases, and plan as if those that moved were here")
    watch = option("watch", False, "and again after each edit that makes it another, until Ctrl-C")
    return quiet(_plan, JSON, inputs, bake, pull, watch, at, staged, since, matrix, gitlab, words="images")


def _plan(
    run: Run,
    images: Sequence[str],
    *,
    as_json: bool,
    at: str,
    staged: bool,
    since: str,
    matrix: bool,
    gitlab: bool,
    inputs: bool,
    as_bake: bool,
    pull: bool,
    watch: bool,
) -> None:
    """The plan of the working copy or, with ``at``, of a commit, or of what is ``staged`` for one."""
    # The name of a file may be bytes that are no text: they are printed as `\\udcff`, which JSON can read.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    given = {"inputs": inputs, "bake": as_bake, "pull": pull, "watch": watch}
    forms = [name for name, asked in given.items() if asked]
    commits = [name for name, asked in {"staged": staged, "at": at}.items() if asked]
    for several in (forms, commits):
        if several[1:]:
            raise UserError(f"--{' and --'.join(several)} ask for several plans", remedy="leave out one of them")
    if forms and commits:
        raise UserError(f"--{forms[0]} is about the files that are here", remedy=f"leave out --{commits[0]}")
    if not commits and (since or matrix or gitlab):
        raise UserError("--since, --matrix and --gitlab are about a commit", remedy="name it: --at HEAD")
    if commits:
        from doit_images.ci.since import STAGED
        from doit_images.ui import plan_at

        jobs = plan_at.GITLAB if gitlab else plan_at.GITHUB if matrix else ""
        plan_at.show(run, images, as_json=as_json, matrix=jobs, since=(STAGED if staged else at, since))
    else:
        _plan_of_files(run, images, "".join(forms), as_json=as_json)


def _plan_of_files(run: Run, images: Sequence[str], form: str, *, as_json: bool) -> None:
    if form == "pull":
        from doit_images.ui import bases_view

        bases_view.plan(run, images, as_json=as_json)
    elif form == "watch":
        from doit_images.ui import watching

        watching.watch(run, images, plan=True)
    else:
        from doit_images.ui import plan_view

        plan_view.show(run, images, "json" if as_json and form != "bake" else form)


def task_advise() -> Task:
    """What the lines of the Dockerfiles cost over the last commits: [IMAGE|RULE …] [--commits N] [--patch] [--apply]"""
    commits = option("commits", "60", "how many commits before HEAD")
    patch = option("patch", False, "better Dockerfiles instead, as patches")
    prove = option("prove", False, "and whether the images stay the same with them, which are built for that")
    apply = option("apply", False, "and write those with which they do")
    return quiet(_advise, commits, patch, prove, apply, JSON, words="words")


def _advise(
    run: Run, words: Sequence[str], commits: str, *, patch: bool, prove: bool, apply: bool, as_json: bool
) -> None:
    if not (commits.isascii() and commits.isdigit() and 0 < int(commits) < 100_000):
        raise UserError(f"--commits needs a whole number, not {commits!r}")
    if patch or prove or apply:
        from doit_images.advise.proposals import Mode
        from doit_images.ui import patches_view

        mode = Mode.APPLY if apply else Mode.PROVE if prove else Mode.SHOW
        patches_view.show(run, words, int(commits), mode, as_json=as_json)
    else:
        from doit_images.ui import advise_view

        advise_view.show(run, words, int(commits), as_json=as_json)


def task_history() -> Task:
    """Show what was built before: [IMAGE] [--show ID [--against ID]] [--limit N] [--json]"""
    number = option("show", "", "one build whole, by its id", name="number")
    against = option(
        "against", "", "with --show: what took longer than in this build, which steps lost their cache, why"
    )
    limit = option("limit", "", "how many builds")
    return quiet("doit_images.ui.history_view:show", number, against, limit, JSON, words="words")


def task_build_report() -> Task:
    """Write what the last builds did to .doit-images: index.html, report.md"""
    return quiet("doit_images.ui.report:make")


def task_image_sizes() -> Task:
    """Show what takes space in the images: [IMAGE …] [--set=NAME=VALUE] [--json]"""
    setting = option("set", "", "against what this setting makes of them: --set=NAME=VALUE", name="setting")
    return quiet("doit_images.ui.sizes_view:show", JSON, setting, words="names")


def task_images() -> Task:
    """Show by which digest each service's image is deployed: [--digests | --lock | --kustomize]"""
    as_json = option("digests", False, "as JSON", name="as_digests")
    lock = option("lock", False, "as an override that pins each service: docker-compose.lock.yml")
    kustomize = option("kustomize", False, "as a component for Kubernetes' kustomize")
    return quiet("doit_images.ui.images_view:show", as_json, lock, kustomize)


def task_images_kept() -> Task:
    """Show which locks of `images` the shared registry keeps, or release them: [LOCK …] [--release] [--json]"""
    release = option("release", False, "keep these no longer, and all that begin like them")
    return quiet("doit_images.ui.images_view:kept", release, JSON, words="words")


def task_completion() -> Task:
    """Print what lets a shell complete tasks, options, images and services: bash|zsh|fish"""
    return quiet("doit_images.cli.completion:script", words="words")


def task_doctor() -> Task:
    """Say whether this machine can build, and what would make it better: [--fix [--yes]] [--json]"""
    fix = option("fix", False, "repair damage, and remove leftovers that nobody needs")
    return quiet("doit_images.ui.doctor:examine", JSON, fix, YES)
