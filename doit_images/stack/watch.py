"""Which rules of ``develop.watch`` does an edit match, and how is the command of ``sync+exec`` run?

As Compose has it: patterns are those of an ignore file, relative to the rule's path, and what the ignore file of the
service's build context hides is not watched either.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Command, Service, Sync
from doit_images.core.inputs import ignorefile
from doit_images.core.inputs.ignorefile import Patterns, Rule


@dataclass(frozen=True)
class Hidden:
    """What is hidden below one folder."""

    root: Path
    patterns: Patterns

    def hides(self, path: Path) -> bool:
        """Whether this path, or a folder that contains it, is hidden."""
        return self.root in path.parents and self.patterns.hides(path.relative_to(self.root).as_posix())


def hidden_from_build(services: Mapping[str, Service]) -> dict[str, Hidden]:
    """What the ignore file of each service's build context hides; only services that have one."""
    hidden = {}
    for name, service in services.items():
        path = ignorefile.effective(service.context, service.dockerfile) if service.context else None
        if service.context and path:
            rules = ignorefile.parse(path.read_bytes().decode("utf-8", "surrogateescape"))
            hidden[name] = Hidden(service.context, _patterns(rules))
    return hidden


def check(services: Mapping[str, Service]) -> None:
    """Raise ``UserError`` for a rule that cannot be followed."""
    for name, service in services.items():
        for rule in service.watch:
            if rule.action == "sync+exec" and rule.command is None:
                where = f"develop.watch of {name}"
                raise UserError("sync+exec has no command", where=where, remedy="add exec.command")


def covers(rule: Sync, path: Path, hidden: Hidden | None = None) -> bool:
    """Whether an edit of ``path`` triggers this rule. ``hidden`` is what the service's ignore file hides."""
    if not inside(rule, path) or (hidden and hidden.hides(path)):
        return False
    if rule.include and not _below(rule.path, rule.include).hides(path):
        return False
    return not _below(rule.path, rule.ignore).hides(path)


def inside(rule: Sync, path: Path) -> bool:
    """Whether this is the path of the rule, or below it."""
    return path == rule.path or rule.path in path.parents


def exec_argv(container: str, command: Command) -> list[str]:
    """Run a command in a container; the values of its variables come from the environment of this one."""
    argv = ["docker", "exec"]
    if command.user:
        argv += ["--user", command.user]
    if command.working_dir:
        argv += ["--workdir", command.working_dir]
    if command.privileged:
        argv.append("--privileged")
    for name, _ in command.environment:
        argv += ["--env", name]
    return [*argv, container, *command.words]


def run(service: str, container: str, command: Command, environ: Mapping[str, str]) -> list[str]:
    """Run the command of a rule in a container of a service, to its end; the lines that it wrote. ``UserError`` with
    the last of them if it fails."""
    env = {**environ, **dict(command.environment)}
    done = commands.run(exec_argv(container, command), env=env, stderr=commands.STDOUT)
    done.checked(f"{service}: {command.words[0]} of sync+exec ended with status {done.status}")
    return done.stdout.splitlines()


def _below(root: Path, texts: Iterable[str]) -> Hidden:
    relative = (_relative(text, root) for text in texts)
    return Hidden(root, _patterns(rule for text in relative if (rule := ignorefile.rule_of(text))))


def _relative(text: str, root: Path) -> str:
    """Compose reads an absolute pattern as a path of this machine. Most people mean the rule's own folder."""
    path = Path(text.removeprefix("!"))
    if root not in path.parents:
        return text
    return "!" * text.startswith("!") + path.relative_to(root).as_posix()


def _patterns(rules: Iterable[Rule]) -> Patterns:
    """Where ``*`` hides everything, Compose watches everything: such a file says what to show, not what to watch."""
    kept = list(rules)
    if any(rule.pattern == "*" and not rule.shows for rule in kept):
        kept = [rule for rule in kept if rule.shows]
    return Patterns(kept)
