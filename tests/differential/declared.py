"""A grammar of Compose projects: what the Compose specification lets a project say of its builds."""

from __future__ import annotations

from typing import Any

from tests.differential.dice import Dice
from tests.differential.grammar import BASE, FILES, STYLES, WORDS, Grammar, Scope, odd_path, rules
from tests.differential.projects import File, Folder, Link, Tar
from tests.differential.written import IN_SECOND, MAINS, OVERRIDES, Model, Service


class Declaring:
    """Draws projects."""

    def __init__(self, dice: Dice) -> None:
        self.dice = dice
        self.model = Model()

    def draw(self) -> Model:
        dice, model = self.dice, self.model
        for context in ("aUNIQ", "bUNIQ"):
            self._context(context)
        model.main = dice.pick(MAINS)
        for number in range(dice.weighed([(60, 1), (30, 2), (10, 3)])):
            model.services.append(self._service(number))
        if any(service.place in IN_SECOND for service in model.services):
            model.second = dice.pick(("second.yml", *OVERRIDES))
            model.named = dice.pick(("environ", ".env")) if model.second not in OVERRIDES else ""
            model.separator = dice.pick(("", ",")) if model.named else ""
        elif dice.chance(10):
            model.named = dice.pick(("environ", ".env"))
        if dice.chance(5):
            model.environ["COMPOSE_PROJECT_NAME"] = "NAMEp"
        if dice.chance(3):
            (model.stored if dice.chance(50) else model.environ)["DOCKER_DEFAULT_PLATFORM"] = "linux/amd64"
        return model

    def _context(self, folder: str) -> None:
        dice, files = self.dice, self.model.files
        for path in ("f", "g.txt", "d/x", *dice.some(FILES[3:], 0, 3)):
            mode = 0o755 if path == "run.sh" else 0o644
            files[f"{folder}/{path}"] = path if mode == 0o644 else File(path, mode)
        if dice.chance(30):
            files[f"{folder}/l"] = Link(dice.pick(("f", "d", "d/x", "../bUNIQ/f", "missing", "/f", ".")))
        if dice.chance(10):
            files[f"{folder}/d/up"] = Link(dice.pick(("../f", "../g.txt", "..")))
        if dice.chance(10):
            files[f"{folder}/v"] = Folder()
        if dice.chance(12):
            files[f"{folder}/p.tar"] = Tar("packed", "packed")
        if dice.chance(8):
            files[f"{folder}/{odd_path(dice)}"] = "odd"

    def _service(self, number: int) -> Service:
        dice = self.dice
        context = dice.weighed([(60, "aUNIQ"), (30, "bUNIQ"), (10, ".")])
        paths = [path for path in self.model.files if path.startswith(f"{context}/")] or [*self.model.files]
        paths = [path.removeprefix(f"{context}/") for path in paths]
        build: dict[str, Any] = {"context": self._said(dice.pick((context, f"./{context}", f"{context}/")))}
        scope = Scope(tuple(paths))
        self._contexts(build, scope, number)
        self._secrets(build, scope)
        stages = Grammar(dice, scope).dockerfile()
        service = Service(f"s{number}", scope, stages, dice.weighed(STYLES), build, context)
        self._dockerfile(service)
        for key in dice.some([*FIELDS], 0, 3):
            build[key] = self.field(service, key)
        if dice.chance(4):
            service.more["platform"] = dice.pick(PLATFORMS)
        if dice.chance(4) and not scope.images and number:
            service.more["profiles"] = ["p"]
            if dice.chance(60):
                (self.model.environ if dice.chance(50) else self.model.stored)["COMPOSE_PROFILES"] = dice.pick(
                    ("p", "*", "q,p")
                )
        self._place(service)
        return service

    def _place(self, service: Service) -> None:
        dice = self.dice
        places = [
            (60, "plain"),
            (8, "extends"),
            (3, "override extends"),
            (8, "second"),
            (4, "override"),
            (3, "reset"),
            (5, "anchor"),
        ]
        if not service.scope.secrets:
            places += [(5, "include"), (4, "include with")]
            if "$" not in service.build["context"] and not isinstance(service.build.get("additional_contexts"), list):
                places.append((4, "include below"))
        service.place = dice.weighed(places)
        if service.place in ("include with", "include below"):
            self.model.included["INC"] = dice.pick(WORDS)
        service.apart = tuple(dice.some([key for key in service.build if key != "context"], 0, 3))

    def _dockerfile(self, service: Service) -> None:
        dice, context = self.dice, service.context
        here = "" if context == "." else f"{context}/"
        beside, own = "" if context == "." else "../", f"{service.name}.Dockerfile"
        name, where = dice.weighed(
            [
                (50, ("", f"{here}Dockerfile")),
                (6, ("Dockerfile", f"{here}Dockerfile")),
                (6, ("x.Dockerfile", f"{here}x.Dockerfile")),
                (4, ("./d/Dockerfile", f"{here}d/Dockerfile")),
                (10, (f"{beside}{own}", own)),
                (12, ("", "")),
            ]
        )
        taken = {other.dockerfile for other in self.model.services}
        if where and where in taken:
            name, where = f"{service.name}.df", f"{here}{service.name}.df"
        service.dockerfile = where
        if name:
            service.build["dockerfile"] = self._said(name)
        if dice.chance(30):
            beside_it = bool(where) and dice.chance(40)
            service.ignore, service.rules = f"{where if beside_it else here}.dockerignore", rules(dice)
            if any(other.ignore == service.ignore for other in self.model.services):
                service.ignore, service.rules = "", None

    def _contexts(self, build: dict[str, Any], scope: Scope, number: int) -> None:
        dice = self.dice
        found: dict[str, str] = {}
        if dice.chance(12):
            found[dice.pick(("other", "st0", BASE))] = dice.pick(("bUNIQ", "./bUNIQ", "aUNIQ", "./bUNIQ/d"))
        if dice.chance(6):
            found[dice.pick(("img", "st0"))] = f"docker-image://{BASE}"
        images = []
        for parent in self.model.services[:number]:
            if dice.chance(45) and "profiles" not in parent.more:
                if dice.chance(60):
                    found[dice.pick(("base", parent.name, f"NAME/{parent.name}"))] = f"SERVICE:{parent.name}"
                else:
                    images.append(dice.pick((f"NAME/{parent.name}", f"NAME/{parent.name}:latest")))
        scope.images, scope.contexts = tuple(images), tuple(found)
        if found:
            build["additional_contexts"] = (
                [f"{name}={value}" for name, value in found.items()] if dice.chance(15) else found
            )

    def _secrets(self, build: dict[str, Any], scope: Scope) -> None:
        dice, model = self.dice, self.model
        if not dice.chance(6):
            return
        if dice.chance(50):
            model.files["secret.txt"] = "secret"
            model.secrets["sec"] = {"file": "./secret.txt"}
        else:
            (model.environ if dice.chance(60) else model.stored)["TOK"] = "token"
            model.secrets["sec"] = {"environment": "TOK"}
        ident = dice.pick(("sec", "as"))
        build["secrets"] = ["sec"] if ident == "sec" else [{"source": "sec", "target": ident}]
        scope.secrets = (ident,)

    def _said(self, value: str) -> str:
        """A value of the Compose file, perhaps by a variable that the model then holds."""
        dice, model = self.dice, self.model
        number = len(model.stored) + len(model.environ)
        name = f"V{number}"
        match dice.weighed([(80, ""), (6, "stored"), (6, "environ"), (4, "default"), (2, "both"), (2, "alternative")]):
            case "stored":
                model.stored[name] = value
                return dice.pick((f"${{{name}}}", f"${name}", f"${{{name}:-x}}", f"${{{name}:?}}", f"${{{name}-}}"))
            case "environ":
                model.environ[name] = value
                return dice.pick((f"${{{name}}}", f"${name}", f"${{{name}:-x}}"))
            case "default":
                return dice.pick((f"${{NONE:-{value}}}", f"${{NONE-{value}}}", f"${{NONE:-${{NONE2:-{value}}}}}"))
            case "both":
                model.stored[name], model.environ[name] = "x", value
                return f"${{{name}}}"
            case "alternative":
                model.stored[name] = "1"
                return f"${{{name}:+{value}}}"
        return value

    def field(self, service: Service, key: str) -> Any:
        """A value for a key of ``build``."""
        dice = self.dice
        match key:
            case "args":
                return self._args()
            case "target":
                names = [stage.name for stage in service.stages if stage.name]
                name = dice.pick(names) if names and dice.chance(90) else dice.pick(("0", "none"))
                return self._said(dice.pick((name, name.upper())))
            case "labels":
                value = self._said(dice.pick(("1", "2", "a b")))
                return dice.pick(({"lab": value}, [f"lab={value}"], {"lab": 1, "n": True}))
            case "tags":
                return [dice.pick((f"NAME/more-{service.name}:1", f"NAME/more-{service.name}"))]
        return dice.pick(FIELDS[key])

    def _args(self) -> Any:
        dice, model = self.dice, self.model
        found: dict[str, Any] = {}
        for name in dice.some(("A", "B", "UNUSED", "BUILDKIT_INLINE_CACHE", "SOURCE_DATE_EPOCH"), 1, 2):
            if name == "BUILDKIT_INLINE_CACHE" or name == "SOURCE_DATE_EPOCH":
                found[name] = "1"
            elif dice.chance(12):
                (model.environ if dice.chance(70) else model.stored)[name] = dice.pick(WORDS)
                found[name] = None
            else:
                found[name] = dice.weighed(
                    [(8, self._said(dice.pick(WORDS))), (1, 1), (1, True), (1, ""), (1, "a $$B")]
                )
        if dice.chance(30):
            rows = [name if value is None else f"{name}={value}" for name, value in found.items()]
            if dice.chance(15) and rows:
                model.stored["WHICH"] = rows[0]
                rows[0] = "${WHICH}"
            return rows
        return found


PLATFORMS = ("linux/amd64", "amd64", "linux", "linux/x86_64/v1")
FIELDS: dict[str, tuple[Any, ...]] = {
    "args": (),
    "target": (),
    "labels": (),
    "tags": (),
    "platforms": tuple([one] for one in PLATFORMS),
    "network": ("none", "host", "default"),
    "shm_size": ("64m", 67108864),
    "extra_hosts": ({"h": "1.2.3.4"}, ["h:1.2.3.4"], ["h=1.2.3.4"]),
    "ulimits": ({"nofile": 100}, {"nofile": {"soft": 10, "hard": 20}}),
    "pull": (False,),
    "no_cache": (False,),
    "cache_from": (["NAME/none"],),
    "privileged": (False,),
    "isolation": ("default",),
}
