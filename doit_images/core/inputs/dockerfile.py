"""What does a Dockerfile read for a target? A pure function of its text.

``reads`` follows BuildKit's ``dockerfile2llb``: the target's stage (``stages``) reaches others through ``FROM``,
``COPY --from`` and ``RUN --mount=from``, and only what those stages say is read. Where two versions of BuildKit differ,
the answer is what either reads; where a value cannot be known here, the whole context, but for a URL, which is none
whatever stands in it. Never too little.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import familiar, is_pinned, is_remote, is_web, may_be_path
from doit_images.core.compose.image import SECRET_DIGEST
from doit_images.core.inputs import syntax
from doit_images.core.inputs.instructions import Instruction, Mount, is_heredoc, mount, parse, trigger
from doit_images.core.inputs.reads import WHOLE, Copy, External, Reads, Remote, joined
from doit_images.core.inputs.stages import Stage, Stages
from doit_images.core.inputs.variables import Possible, Scope, either

__all__ = ["Copy", "External", "Reads", "Remote", "reads"]

_DEEP = 100  # stages: a chain of fewer is read as deeply nested calls

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where the base sets none
_UNCLOSED = re.compile(r"(?<!\\)\[[^]\\]*\Z")
# These change what BuildKit does without being declared by any ARG.
_ALWAYS_READ = re.compile(r"BUILDKIT_.*|SOURCE_DATE_EPOCH")


def reads(
    text: str,
    *,
    where: str,
    target: str | None = None,
    args: Mapping[str, str] | None = None,
    named: Collection[str] = (),
    platform: str = "linux/amd64",
    build_platform: str = "",
    onbuild: Mapping[str, Sequence[str]] | None = None,
    env: Mapping[str, Mapping[str, str | None]] | None = None,
) -> Reads:
    """What the Dockerfile ``text`` (called ``where`` in messages) reads for ``target`` (``None``: the last stage).

    ``args`` are the build args; ``named`` the names of all named contexts; ``onbuild`` and ``env`` what base images and
    named contexts bring along, by name. A base whose ``env`` is not given makes a source with a variable that is not
    set in the Dockerfile count as the whole context. A syntax error, an unknown target or a stage used before its
    definition raises ``UserError`` with ``where:line``.
    """
    named_args = dict(args or {})
    lines = {familiar(name): tuple(triggers) for name, triggers in (onbuild or {}).items()}
    parts: list[Reads] = []
    trouble: list[UserError] = []
    for frontend in syntax.differing([text, *chain.from_iterable(lines.values())]):
        try:
            script = parse(text, where, frontend)
            reader = _Reading(Stages(script, where, named_args, named, (platform, build_platform or platform)))
            reader.onbuild = lines
            reader.env = {familiar(name): dict(values) for name, values in (env or {}).items()}
            parts.append(reader.run(target, named_args.get("BUILDKIT_SYNTAX") or syntax.image(text)))
        except UserError as error:
            trouble.append(error)
    if not parts:
        raise trouble[0]
    return _any_of(parts)


def _any_of(parts: Sequence[Reads]) -> Reads:
    """What either frontend reads, of those that can build it. What is not read by all of them need not be there."""
    parts = [part for part in parts if not any(map(_cannot_be, part.copies))] or parts
    sure = set.intersection(*(set(part.copies) for part in parts))
    marked = (
        part._replace(copies=tuple(copy if copy in sure else copy._replace(optional=True) for copy in part.copies))
        for part in parts
    )
    return joined(list(marked))


def _cannot_be(copy: Copy) -> bool:
    """Does BuildKit refuse to copy this, whatever the context holds? It is what most exec forms look like as words."""
    if copy.optional or copy.context or copy.literal:
        return False
    return any(_UNCLOSED.search(source) for source in copy.sources)


class _Reading:
    """One run of ``reads``: what was found so far of what the stages of one Dockerfile read."""

    def __init__(self, stages: Stages) -> None:
        self.stages, self.args, self.script = stages, stages.args, stages.script
        self.at, self.expand = stages.at, stages.expand
        self.syntax = ""
        self.read_for: dict[str, dict[str, None]] = {}
        self.onbuild: dict[str, tuple[str, ...]] = {}
        self.env: dict[str, dict[str, str | None]] = {}
        self.exported: dict[int, Scope] = {}
        self.done: dict[int, tuple[Scope, tuple[str, ...]]] = {}
        self.active: list[Stage] = []
        self.copies: list[Copy] = []
        self.contexts: set[str] = set()
        self.images: dict[tuple[str, str], External] = {}
        self.remotes: list[Remote] = []
        self.used: set[str] = set()
        self.secrets: set[str] = set()
        self.ssh: set[str] = set()
        self.mounts: set[str] = set()

    def run(self, target: str | None, syntax: str) -> Reads:
        self.syntax = syntax
        stage = self.stages.target(target)
        if stage.number > _DEEP:
            self._visit_first(stage)
        _, triggers = self._visit(stage, stage.line)
        used = self.used | {name for name in self.args if _ALWAYS_READ.fullmatch(name)}
        return Reads(
            copies=tuple(self.copies),
            contexts=tuple(sorted(self.contexts)),
            images=tuple(self.images.values()),
            remotes=tuple(self.remotes),
            args=tuple(sorted(used)),
            secrets=tuple(sorted(self.secrets)),
            ssh=tuple(sorted(self.ssh)),
            mounts=tuple(sorted(self.mounts)),
            syntax=self.syntax,
            env=self.exported[stage.number].handed_on(),
            onbuild=triggers,
            stages=tuple(
                other.name
                for other in self.stages.all
                if other.name and other.number in self.done and other is not stage
            ),
            read_for={name: tuple(some) for name, some in self.read_for.items()},
        )

    def _use(self, names: Iterable[str]) -> None:
        self.used.update(*map(self.stages.used_by, names))

    def _visit_first(self, stage: Stage) -> None:
        """Read the stages that this one reaches by their names, the first first: a chain of them may be longer than
        calls may be nested."""
        reached: set[int] = set()
        pending = [stage]
        while pending:
            here = pending.pop()
            if here.number not in reached and not here.context:
                pending += [other for other in self._named(here) if other.number < here.number]
            reached.add(here.number)
        for number in sorted(reached - {stage.number}):
            self._visit(self.stages.all[number], self.stages.all[number].line)

    def _named(self, stage: Stage) -> Iterator[Stage]:
        """The stages that a stage names as they are called, without any variable."""
        if stage.parent:
            yield stage.parent
        for each in (each for each in stage.commands if not each.trigger):
            mounts = (field for text in each.flags.get("mount", ()) for field in text.split(","))
            for name in (each.flag("from"), *(field[5:] for field in mounts if field.startswith("from="))):
                if name.isascii() and name.isdecimal() and each.name in ("COPY", "ADD"):
                    yield from self.stages.all[int(name[:9]) :][:1]
                elif name.lower() in self.stages.by_name:
                    yield self.stages.by_name[name.lower()]

    def _visit(self, stage: Stage, line: int) -> tuple[Scope, tuple[str, ...]]:
        """Read a stage and all that it reaches, once; its variables and its ONBUILD triggers."""
        if stage in self.active:
            raise UserError(f"stage {stage.name or stage.number!r} is in a dependency cycle", where=self.at(line))
        if stage.number not in self.done:
            self.active.append(stage)
            self.done[stage.number] = self._context_stage(stage) if stage.context else self._own_stage(stage)
            self.active.pop()
        return self.done[stage.number]

    def _context_stage(self, stage: Stage) -> tuple[Scope, tuple[str, ...]]:
        self._whole_context(stage.context, stage.line, stage.platform)
        return self._base_scope(stage, stage.context), ()

    def _own_stage(self, stage: Stage) -> tuple[Scope, tuple[str, ...]]:
        self._use(stage.asked)
        if stage.parent:
            above, triggers = self._visit(stage.parent, stage.line)
            scope = above.copy()
            self.exported[stage.number] = self.exported[stage.parent.number].copy()
            scope.cover(self.exported[stage.number])  # an ARG of the parent that hides an ENV ends there
        else:
            origin = self._origin(stage.base, stage.platform, stage.line)
            scope = self._base_scope(stage, origin)
            triggers = self.onbuild.get(familiar(origin), ()) if origin else ()
        given = [trigger(text, self.stages.where, stage.line, self.script.frontend) for text in triggers]
        commands = [*given, *stage.commands]
        for each in commands:
            if not each.trigger:
                self._dispatch(stage, each, scope)
        return scope, tuple(each.trigger for each in commands if each.trigger)

    def _base_scope(self, stage: Stage, origin: str) -> Scope:
        values = self.env.get(familiar(origin)) if origin else {}
        scope = Scope(values or {}, complete=values is not None)
        self.exported[stage.number] = scope.copy()
        if values is not None and "PATH" not in values:
            scope.put("PATH", [_PATH])
        return scope

    def _origin(self, name: str, platform: str, line: int) -> str:
        """Note the image or named context that a name which is no stage points to; ``""`` for ``scratch``."""
        if name == "scratch":
            return ""
        if context := self.stages.context(name, platform):
            self._whole_context(context, line, platform)
            return context
        ref = familiar(name)
        self._read_for(ref, platform)
        self.images.setdefault((ref, platform), External(ref, platform, line))
        return ref

    def _read_for(self, name: str, platform: str) -> None:
        self.read_for.setdefault(name, {})[platform or self.stages.platform] = None

    def _whole_context(self, name: str, line: int, platform: str) -> None:
        self.contexts.add(name)
        self._read_for(name, platform)
        self.copies.append(Copy(name, (WHOLE,), line=line, instruction="FROM"))

    def _dispatch(self, stage: Stage, each: Instruction, scope: Scope) -> None:
        match each.name:
            case "ARG":
                self._arg(each, scope)
            case "ENV":
                self._env(stage, each, scope)
            case "COPY" | "ADD":
                self._copy(stage, each, scope)
            case "RUN":
                for text in each.flags.get("mount", ()):
                    self._mount(stage, each, text, scope)

    def _arg(self, each: Instruction, scope: Scope) -> None:
        before = scope.copy()
        for word in each.words:
            written, equals, default = word.partition("=")
            names = self._names(written, before, each.line)
            for name in names.values:
                self.used.add(name)
                possible: Possible[str] | None = None
                if name in self.args:
                    possible = Possible((self.args[name],))
                elif equals:  # before 2024 BuildKit did not see the arguments of the same instruction here
                    possible = either([self._possible(default, seen, each.line) for seen in (scope, before)])
                elif name in self.stages.globals:
                    possible = Possible((self.stages.globals[name],))
                    self._use({name})
                if possible is None:
                    continue
                values, more = list[str | None](possible.values), possible.more
                if not names.certain or (self.syntax and name in scope):  # the first frontends let an earlier one win
                    earlier = scope.possible(name)
                    values, more = [*values, *earlier.values], more or earlier.more
                scope.put(name, values, more=more)
            if names.more:
                scope.put_somewhere()

    def _names(self, written: str, scope: Scope, line: int) -> Possible[str]:
        """What an argument may be called: before 2024 BuildKit expanded its name as well."""
        plain = Possible((written,))
        if written.isidentifier():
            return plain
        try:
            return plain | self._possible(written, scope, line)
        except UserError:
            return plain

    def _env(self, stage: Stage, each: Instruction, scope: Scope) -> None:
        new = []
        for at in range(0, len(each.words) - 1, 2):
            new.append([self._possible(word, scope, each.line) for word in each.words[at : at + 2]])
        for variables in (scope, self.exported[stage.number]):  # an image hands no ARG on, which may hide an ENV here
            for names, new_values in new:
                if names.more:
                    variables.put_somewhere()
                for name in names.values:
                    earlier = () if names.certain else variables.possible(name).values
                    variables.put(name, [*new_values.values, *earlier], more=new_values.more or names.more)

    def _copy(self, stage: Stage, each: Instruction, scope: Scope) -> None:
        if len(each.words) < 2:
            raise UserError(f"{each.name} needs a source and a destination", where=self.at(each.line))
        origin = each.flag("from")
        context = self._copy_origin(stage, origin, each.line) if origin else ""
        if context is None:
            return
        sources: list[str] = []
        perhaps: list[str] = []
        for word in each.words[:-1]:
            if is_heredoc(word):
                continue
            possible = self._possible(word, scope, each.line)
            if possible.more and is_web(word.lstrip('"')):
                self._remote(each, word.strip('"'), scope)
            elif possible.more:
                sources.append(WHOLE)
            else:
                fetched = [source for source in possible.values if is_remote(source)]
                for source in fetched:
                    if each.name == "ADD" or (possible.certain and not may_be_path(source)):
                        self._remote(each, source, scope)
                paths = [source for source in possible.values if may_be_path(source)]
                (sources if possible.certain and not fetched else perhaps).extend(paths)
        exclude = each.flags.get("exclude", ())
        parents = each.name == "COPY" and each.is_set("parents")
        for paths, optional in ((sources, False), (perhaps, True)):
            if paths:
                self.copies.append(Copy(context, tuple(paths), exclude, parents, each.line, each.name, optional))

    def _remote(self, each: Instruction, source: str, scope: Scope) -> None:
        if each.name == "COPY":
            raise UserError(f"COPY cannot fetch {source}", where=self.at(each.line), remedy="use ADD")
        checksum = self.expand(each.flag("checksum"), scope, each.line)
        self.remotes.append(Remote(source, is_pinned(source, checksum), each.line))

    def _copy_origin(self, stage: Stage, origin: str, line: int) -> str | None:
        """The named context that ``COPY --from`` reads; ``None`` for a stage or an image, which are noted."""
        if re.fullmatch(r"[+-]?[0-9]+", origin):
            number = int(origin)
            if not 0 <= number < stage.number:
                before = f"the stages before this one are 0 to {stage.number - 1}" if stage.number else "there is none"
                raise UserError(f"--from={origin} is not an earlier stage", where=self.at(line), remedy=before)
            self._visit(self.stages.all[number], line)
            return None
        return self._mount_origin(stage, origin, line)

    def _mount_origin(self, stage: Stage, origin: str, line: int) -> str | None:
        earlier = self.stages.by_name.get(origin.lower())
        if earlier:
            if earlier.number > stage.number:
                sentence = f"stage {origin!r} is used before it is defined"
                raise UserError(sentence, where=self.at(line), remedy=f"it starts in line {earlier.line}")
            self._visit(earlier, line)
            return None
        if context := self.stages.context(origin, ""):
            self.contexts.add(context)
            self._read_for(context, "")
            return context
        self._origin(origin, "", line)
        return None

    def _mount(self, stage: Stage, each: Instruction, text: str, scope: Scope) -> None:
        outcomes = scope.outcomes(lambda variables: mount(text, self.script.escape, variables, self.at(each.line)))
        for outcome in outcomes.values or (Mount("bind", "", "", ""),):
            source = WHOLE if outcomes.more else outcome.source or WHOLE
            self._mounted(stage, each, outcome, source, optional=not outcomes.certain)
            digest = f"{SECRET_DIGEST}{outcome.secret}"
            if outcome.kind == "secret" and digest in self.args and digest not in set(scope):
                why = (
                    f"the secret {outcome.secret} counts, and BuildKit would take this step from its cache all the same"
                )
                raise UserError(why, where=self.at(each.line), remedy=f"ARG {digest} above it, in this stage")

    def _mounted(self, stage: Stage, each: Instruction, mount: Mount, source: str, *, optional: bool) -> None:
        if mount.kind == "secret":
            self.secrets.add(mount.secret)
        elif mount.kind == "ssh":
            self.ssh.add(mount.named or "default")
        elif mount.kind == "cache":
            self.mounts.add(mount.id)
        context = self._mount_origin(stage, mount.origin, each.line) if mount.origin else ""
        if context is None or (mount.kind != "bind" and not (context and mount.kind == "cache")):
            return
        self.copies.append(Copy(context, (source,), line=each.line, instruction="RUN --mount", optional=optional))

    def _possible(self, word: str, scope: Scope, line: int) -> Possible[str]:
        """All that a word may be after its variables were expanded."""
        return scope.outcomes(lambda variables: self.expand(word, variables, line))
