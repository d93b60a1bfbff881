"""A grammar of changes: of a file, its mode or kind, a Dockerfile, an ignore file, a Compose file, a variable."""

from __future__ import annotations

from tests.differential.declared import FIELDS, Declaring
from tests.differential.dice import Dice
from tests.differential.grammar import STYLES, WORDS, Grammar, rules
from tests.differential.projects import Case, File, Folder, Link
from tests.differential.written import Service

_CONTEXTS = ("aUNIQ", "bUNIQ", ".")
_ADDED = ("new.txt", "f", "d/new", ".dockerignore", "Dockerfile.dockerignore", "a.md", "o")
_VARIABLES = {
    "COMPOSE_PROFILES": "p",
    "COMPOSE_ENV_FILES": "other.env",
    "DOCKER_DEFAULT_PLATFORM": "linux/amd64",
    "SOURCE_DATE_EPOCH": "1",
    "BUILDX_GIT_LABELS": "1",
    "BUILDX_GIT_INFO": "1",
}
"""What is set to this, and to nothing else."""


class Changing:
    """Draws a change of a model."""

    def __init__(self, dice: Dice, declaring: Declaring) -> None:
        self.dice, self.declaring = dice, declaring
        self.model = declaring.model

    def draw(self) -> tuple[str, tuple[str, ...]]:
        """Change the model; what that was, and which paths were only touched."""
        kind = self.dice.weighed([(45, "file"), (18, "Dockerfile"), (10, "ignore"), (18, "compose"), (9, "variable")])
        match kind:
            case "file":
                return self._file()
            case "Dockerfile":
                return self._dockerfile(self.dice.pick(self.model.services)), ()
            case "ignore":
                return self._ignore(self.dice.pick(self.model.services)), ()
            case "compose":
                return self._compose(self.dice.pick(self.model.services)), ()
        return self._variable(), ()

    def _file(self) -> tuple[str, tuple[str, ...]]:
        dice, files = self.dice, self.model.files
        used = tuple(service.context.replace(".", "") for service in self.model.services)
        path = dice.pick([path for path in files if path.startswith(used) or path == "secret.txt"])
        folder = path.rpartition("/")[0]
        kind = dice.pick(
            ("content", "mode", "delete", "add", "rename", "touch", "to folder", "to link", "same size", "folder mode")
        )
        if path == "secret.txt":  # what a secret holds is no input, and Compose refuses one that is not there
            kind = "content"
        entry = files[path]
        match kind:
            case "content" | "same size":
                files[path] = "changed" if kind == "content" or not isinstance(entry, str) else entry[::-1] + "!"
                if kind == "same size" and isinstance(entry, str):
                    files[path] = "~" * len(entry)
            case "mode":
                files[path] = File(entry if isinstance(entry, str) else "x", dice.pick((0o600, 0o755, 0o666, 0o4755)))
            case "delete":
                del files[path]
            case "add":
                files[f"{folder}/{dice.pick(_ADDED)}"] = "new"
            case "rename":
                files[f"{path}2"] = files.pop(path)
            case "touch":
                return kind, (path,)
            case "to folder":
                files[path] = Folder()
            case "to link":
                files[path] = Link(dice.pick(("f", "d", "../f", "missing")))
            case "folder mode":
                files[folder or "v"] = Folder(dice.pick((0o700, 0o777)))
        return f"file: {kind}", ()

    def _dockerfile(self, service: Service) -> str:
        dice = self.dice
        stage = dice.pick(service.stages)
        kind = dice.pick(("insert", "remove", "replace", "comment", "swap", "style"))
        at = dice.number(0, len(stage.lines) - 1) if stage.lines else 0
        grammar = Grammar(dice, service.scope)
        grammar.stages = service.stages[: service.stages.index(stage)]
        match kind:
            case "insert":
                stage.lines[at:at] = grammar.instruction(stage)
            case "remove":
                del stage.lines[at : at + 1]
            case "replace":
                stage.lines[at : at + 1] = grammar.instruction(stage)
            case "comment":
                stage.lines[at:at] = ["# a comment"]
            case "swap":
                stage.lines.reverse()
            case "style":
                service.style = dice.weighed(STYLES)
        return f"Dockerfile: {kind}"

    def _ignore(self, service: Service) -> str:
        before, here = service.rules, "" if service.context == "." else f"{service.context}/"
        service.ignore = service.ignore or f"{here}.dockerignore"
        service.rules = None if before is not None and self.dice.chance(15) else rules(self.dice)
        return "ignore file: " + ("new" if before is None else "removed" if service.rules is None else "changed")

    def _compose(self, service: Service) -> str:
        dice, build = self.dice, service.build
        kind = dice.weighed([(60, "field"), (15, "remove"), (10, "place"), (10, "context"), (5, "secret")])
        match kind:
            case "field":
                key = dice.pick([*FIELDS])
                build[key] = self.declaring.field(service, key)
                return f"compose: {key}"
            case "remove" if len(build) > 1:
                key = dice.pick([key for key in build if key != "context"])
                del build[key]
                return f"compose: no {key}"
            case "place":
                service.place = dice.pick(("plain", "extends", "anchor"))
            case "context":
                build["context"] = dice.pick(_CONTEXTS)
            case "secret" if "secret.txt" in self.model.files:
                self.model.files["secret.txt"] = "another secret"
        return f"compose: {kind}"

    def _variable(self) -> str:
        dice, model = self.dice, self.model
        holders = [(model.stored, ".env"), (model.environ, "environment")]
        holders += [(model.included, "env file of an include")] * bool(model.included)
        where, what = dice.pick(holders)
        if where and dice.chance(75):
            name = dice.pick([*where])
            if dice.chance(30):
                del where[name]
                return f"{what}: removed"
            where[name] = dice.pick((*WORDS, "bUNIQ", "NAMEq", "", "p", "linux/amd64"))
            return f"{what}: changed"
        name = dice.pick((*_VARIABLES, "A", "B", "V0", "NONE", "TOK", "HTTP_PROXY", "UNUSED"))
        where[name] = _VARIABLES.get(name) or dice.pick(WORDS)
        if where[name] == "other.env":
            model.files["other.env"] = f"A={dice.pick(WORDS)}\n"
        return f"{what}: new"


def case(dice: Dice) -> Case:
    """A project and a change of it."""
    declaring = Declaring(dice)
    before = declaring.draw().project()
    kind, touched = Changing(dice, declaring).draw()
    after = declaring.model.project()
    tree = {path: after.tree.get(path) for path in {**before.tree, **after.tree}}
    environ = {name: after.environ.get(name) for name in {**before.environ, **after.environ}}
    return Case(
        kind,
        before,
        {path: entry for path, entry in tree.items() if before.tree.get(path) != entry},
        {name: value for name, value in environ.items() if before.environ.get(name) != value},
        touched,
    )
