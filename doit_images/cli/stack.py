"""Which tasks run the stack? What each does is imported when it acts: to list them, or to build, needs none of it."""

from __future__ import annotations

from collections.abc import Sequence

from doit_images.cli import command_line
from doit_images.cli.action import JSON, PLAIN, QUIET, YES, Task, act, option, quiet
from doit_images.cli.process import base_task, current, names

_NEED_ENV = ("_env_file", "up", "dev", "restore", "run_once", "compose")
FURTHER_NAMES: set[str] = set()
"""What a dodo file calls tasks that need ``.env`` besides."""
_NO_DEPS = option("no-deps", False, "without what these services need")
_NO_DEPENDENT = option("no-deps", False, "without the services that Compose restarts with them")
_USER = {**option("user", "", "as this user, as user:group, by name or number"), "short": "u"}
_ONLY_ASK = ("--help", "-h", "--dry-run")
_RUN_NOTHING = {"clean", "dumpdb", "forget", "help", "ignore", "info", "list", "reset-dep", "tabcompletion"}


def task__env_file() -> Task:
    """See that each secret of .env has a value of its own; it is made, where there is none, before all is read"""
    return quiet("doit_images.stack.stack:check_env")


def needs_env_file(argv: Sequence[str]) -> bool:
    """Whether a command line runs a task that needs ``.env``, and does not only ask about it.

    >>> needs_env_file(["doit", "-n", "2", "up"]), needs_env_file(["doit", "run", "restore", "x"])
    (True, True)
    >>> needs_env_file(["doit", "list", "up"]), needs_env_file(["doit", "plan"]), needs_env_file(["doit", "up", "-h"])
    (False, False, False)
    """
    words = set(argv[1:])
    if words.isdisjoint((*FURTHER_NAMES, *map(names(), _NEED_ENV))):
        return False
    return argv[1] not in _RUN_NOTHING and words.isdisjoint(_ONLY_ASK)


def task_up() -> Task:
    """Build what is stale, start what changed, wait for health: [--no-deps] [--seed-from OTHER] [SERVICE …]"""
    seed = option("seed-from", "", "begin with the data of this stack, or of the one of the checkout in this folder")
    return _part(_starting("doit_images.stack.stack:up", seed, _NO_DEPS), "services")


def task_down() -> Task:
    """Remove containers; [--volumes] data too; [--all-worktrees] [--gone] those of others; [--yes] [SERVICE …]"""
    volumes = option("volumes", False, "remove the data too, for ever")
    every = option("all-worktrees", False, "the stacks of all checkouts of this project")
    gone = option("gone", False, "the stacks of checkouts that are gone")
    task = {"actions": [(act, ["doit_images.stack.every:down"])], "params": [volumes, YES, every, gone], **PLAIN}
    return {**task, "pos_arg": "services"}


def task_restart() -> Task:
    """Restart the stack, or these services and those that Compose restarts with them: [--no-deps] [SERVICE …]"""
    task = {"actions": [(shown, ["doit_images.stack.stack:restart"])], "params": [_NO_DEPENDENT], **QUIET}
    return {**task, "pos_arg": "services"}


def task_exec() -> Task:
    """Run a command in a service that runs; its status is the run's: [--user USER] SERVICE COMMAND …"""
    return _verbatim(quiet("doit_images.stack.inside:execute", _USER, words="words"))


def task_run_once() -> Task:
    """Run a command in a new container of a service, which then goes: [--no-deps] [--user USER] SERVICE [COMMAND …]"""
    task = _starting("doit_images.stack.inside:once", _NO_DEPS, _USER)
    return _verbatim(_part({**task, **QUIET}, "words"))


def task_compose() -> Task:
    """Run docker compose for this stack, with the files, name, environment and images that `up` takes: [WORD …]"""
    task = _verbatim(quiet("doit_images.stack.inside:passed_on", words="words"))
    return {**task, "meta": {**task["meta"], "passed": True}}


def task_ps() -> Task:
    """Show the stack's services: state, health, addresses, image; [--all]: the stack of each checkout; [--json]"""
    every = option("all", False, "the stacks of all checkouts of this project", name="every")
    return {"actions": [(shown, ["doit_images.stack.every:ps"])], "params": [JSON, every], **QUIET}


def task_logs() -> Task:
    """Show what the stack's services wrote: [--follow] [--tail N] [--since T] [SERVICE …]"""
    follow = {**option("follow", False, "go on until Ctrl-C"), "short": "f"}
    tail = option("tail", "100", "how many lines, or `all`")
    since = option("since", "", "such as 10m, or a time")
    return quiet("doit_images.stack.logs:logs", follow, tail, since, words="services")


def task_shell() -> Task:
    """Open a shell beside a service or at a failed RUN: [--root] [--image IMAGE] SERVICE|--failed IMAGE [COMMAND …]"""
    root = option("root", False, "as root, which may trace processes and install more tools")
    image = option("image", "", "with the tools of this image (default: BASE_IMAGE)")
    failed = option("failed", False, "in the state before the RUN at which the last build of this image failed")
    task = quiet("doit_images.stack.shell:shell", root, image, failed, words="words")
    return {**_verbatim(task), "task_dep": base_task()}


def task_dev() -> Task:
    """Bring the stack up and follow it: edits of sources reach the running services: [--no-deps] [SERVICE …]"""
    return _part(_starting("doit_images.stack.dev:dev", _NO_DEPS), "services")


def task_backup() -> Task:
    """Save the data of the running stack into a new folder, for its owner alone: [--to FOLDER]"""
    return quiet("doit_images.stack.backup:backup", option("to", "", "the folder that it is made in"))


def task_restore() -> Task:
    """Put the data of an archive that backup made in place of the stack's: FOLDER [--yes]"""
    return {**_starting("doit_images.stack.backup:restore", YES), "pos_arg": "words"}


def task_ci_build() -> Task:
    """Build what is stale, as a machine wants it: plain lines, a summary in Markdown, build.json in .doit-images"""
    return quiet("doit_images.ci.build:build")


def _starting(action: str, *options: Task) -> Task:
    """A task that starts a stack, behind those that see to its ``.env`` and its images."""
    before = [names()("_env_file"), names()("build")]
    return {"actions": [(shown, [action])], "task_dep": before, "params": list(options), **PLAIN}


def _part(task: Task, words: str) -> Task:
    """The same, which starts the services alone that it is given as ``words``, and has only what they need built."""
    return {**task, "pos_arg": words, "meta": {**task.get("meta", {}), "part": True}}


def _verbatim(task: Task) -> Task:
    """The same, whose words are those of a command of the user's."""
    return {**task, "meta": {**task["meta"], "verbatim": True}}


def shown(function: str, /, *first: object, task: object, **options: object) -> object:
    """Act, with what happens to the stack shown."""
    from doit_images.ui.health_view import StackView

    current().events.listen(StackView(quiet=command_line.is_quiet()).heard)
    return act(function, *first, task=task, **options)
