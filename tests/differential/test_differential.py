"""BuildKit is the judge: what it would do again, the plan must call stale; what that calls stale, it should do again.

For each Dockerfile, each path of the context is mutated in every way. Where the plan then says ``fresh``, every step of
BuildKit's build must be cached. Where it says ``build``, BuildKit must run a step or fail, but for the needless
rebuilds that ``docs/staleness.md`` lists with their reasons (``needless`` below). All Dockerfiles are images of one
project, so one plan answers for a mutation of each.

BuildKit is asked with a copy of the context at a new place: for a folder that it has seen before, its client sends only
what looks changed, and it overlooks the mode of a folder.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import Engine
from doit_images.core.inputs import dockerfile, ignorefile
from doit_images.core.inputs.selection import select
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from doit_images.core.planning import refused
from doit_images.core.planning.plan import Decision
from doit_images.core.run import Run
from tests.conftest import Lab
from tests.core.inputs.test_tree import saved
from tests.differential import buildkit, cases
from tests.differential.cases import CASES, Case
from tests.differential.contexts import CONTEXTS
from tests.differential.mutations import Mutation, all_of, paths
from tests.differential.still import Still

pytestmark = pytest.mark.engine

BROKEN = "broken"
_UNDOING = ("delete", "rename", "to folder")  # what another mutation did to the same path, or below it


@pytest.fixture(scope="module", autouse=True)
def images(busybox):
    """The base that has an ONBUILD instruction, and the base for RUN."""
    empty = b"\0" * 10240
    command = ["docker", "import", "--change=ONBUILD COPY d/x.txt /onbuild/", "--change=ENV PART=x", "-"]
    subprocess.run([*command, cases.ONBUILD_BASE], input=empty, check=True, capture_output=True)
    subprocess.run(["docker", "tag", busybox, cases.BASE], check=True)
    yield
    subprocess.run(["docker", "image", "rm", cases.ONBUILD_BASE, cases.BASE], check=False, capture_output=True)


class Bench:
    """A case, its context as it was, and the two who are asked about what became of it."""

    def __init__(self, case: Case, work: Path) -> None:
        self.case = case
        self.work = work
        self.first = work / "first"
        self.pristine = work / "pristine"
        self.first.mkdir()
        cases.lay(case, self.first)
        text = case.dockerfile.replace("OUT", uuid.uuid4().hex)
        self.dockerfile = (self.first if case.inside else work) / "Dockerfile"
        self.dockerfile.write_text(text)
        if case.own_ignore is not None:
            self.dockerfile.with_name("Dockerfile.dockerignore").write_text(case.own_ignore)

    def copy(self, *mutations: Mutation) -> Path:
        """A fresh copy of the context, mutated; what an earlier mutation has taken away is left out."""
        place = self.work / uuid.uuid4().hex
        shutil.copytree(self.first, place, symlinks=True)
        for mutation in mutations:
            try:
                mutation.apply(place)
            except FileNotFoundError:
                continue
        return place

    def dockerfile_of(self, context: Path) -> Path:
        return context / "Dockerfile" if self.case.inside else self.dockerfile

    def ours(self, context: Path, store: Path | None = None) -> str:
        """Our digest of all that the case reads."""
        path = self.dockerfile_of(context)
        if not path.is_file():
            return BROKEN
        try:
            found = dockerfile.reads(
                path.read_text(),
                where="Dockerfile",
                target=self.case.target,
                args=self.case.args,
                named=self.case.contexts,
                onbuild={cases.ONBUILD_BASE: ["COPY d/x.txt /onbuild/"]},
                env={cases.ONBUILD_BASE: {"PART": "x"}, cases.BASE: {}},
            )
            digests = [path.read_text()]
            with saved(store) as index:
                for name in sorted({copy.context for copy in found.copies}):
                    ignore = ignorefile.load(ignorefile.effective(context, None if name else path))
                    view = View(Tree(context, index), ignore)
                    copies = [copy for copy in found.copies if copy.context == name]
                    digests += [name, select(view, copies, "Dockerfile").digest]
                    digests += [ignore.text]
        except UserError:
            return BROKEN
        return "\n".join(digests)

    def question(self, context: Path) -> buildkit.Question:
        contexts = dict.fromkeys(self.case.contexts, str(context))
        return buildkit.Question(context, self.dockerfile_of(context), self.case.target, self.case.args, contexts)


def needless(case: Case, mutation: Mutation) -> bool:
    """Does ``docs/staleness.md`` say that we rebuild here although BuildKit would not?"""
    links = ("ln", "dl")
    if mutation.path in ("Dockerfile", ".dockerignore", "Dockerfile.dockerignore"):
        return True  # 1: the text of the Dockerfile and of the ignore file counts as it is
    if mutation.kind in ("retarget", "rename") and mutation.path in links:
        return True  # 2: a link on the way to a source counts as its text
    if mutation.kind == "rename" and "wildcard" in case.name:
        return True  # 3: a match of a wildcard counts with its whole path
    if case.needs.startswith("--") and mutation.kind == "to folder":
        return True  # 8: what a link leads to, where a pattern chooses
    return case.name == "folder context as a stage"  # 4: a folder that takes a stage's place counts as a whole


class Asked:
    """All cases as images of one project, built once; what ``plan`` said of each after each mutation of its context."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.lacking = {need for need in {case.needs for case in CASES} if need and _lacks(need, lab.folder)}
        known = [case for case in CASES if case.needs not in self.lacking]
        self.benches = {f"c{number}": _bench(case, lab.folder / f"c{number}") for number, case in enumerate(known)}
        services = {name: {"image": lab.ref(name), "build": _declared(one)} for name, one in self.benches.items()}
        (lab.folder / "compose.yml").write_text(json.dumps({"name": lab.prefix, "services": services}))
        lab.build()
        self.engine = Still()
        assert {one.action for one in self._plan().values()} == {"fresh"}
        self.answers: dict[str, list[tuple[Mutation, Decision]]] = {case.name: [] for case in known}
        mutations = {name: list(all_of(one.first)) for name, one in self.benches.items()}
        for some in itertools.zip_longest(*mutations.values()):
            self._ask({name: one for name, one in zip(mutations, some, strict=True) if one})

    def bench(self, case: Case) -> Bench:
        """Where a case is tried; skips what this BuildKit does not know."""
        if case.needs in self.lacking:
            pytest.skip(f"this BuildKit has no {case.needs}")
        return next(one for one in self.benches.values() if one.case is case)

    def _ask(self, mutations: dict[str, Mutation]) -> None:
        for name, mutation in mutations.items():
            mutation.apply(self.benches[name].first)
        plan = self._plan()
        for name, mutation in mutations.items():
            bench = self.benches[name]
            self.answers[bench.case.name].append((mutation, plan[name]))
            _restore(bench.first, bench.pristine)

    def idle(self, changes: Mapping[str, Sequence[Sequence[Mutation]]]) -> dict[str, list[bool]]:
        """After each of these changes of each case: does BuildKit find every step in its cache?"""
        benches = {one.case.name: one for one in self.benches.values()}
        asked = [(benches[name], benches[name].copy(*some)) for name, each in changes.items() for some in each]
        answers = iter(buildkit.ask_all([bench.question(place) for bench, place in asked]))
        for _, place in asked:
            shutil.rmtree(place)
        return {name: [not _works(next(answers)) for _ in each] for name, each in changes.items()}

    def is_idle(self, case: Case, mutation: Mutation) -> bool:
        """The same for one change, with paths in the image that no cache has: where one build of many fails, BuildKit
        may have run a step of another one and not have said so, and that is in its cache when it is asked again."""
        bench = _bench(case, self.lab.folder / uuid.uuid4().hex)
        buildkit.ask(bench.question(bench.copy()))
        return not _works(buildkit.ask(bench.question(bench.copy(mutation))))

    def _plan(self) -> dict[str, Decision]:
        run = Run((self.lab.folder / "compose.yml",), dict(os.environ))
        run.engine = self.engine
        return run.planner.decisions()


def _lacks(need: str, folder: Path) -> bool:
    """Whether this BuildKit does not know a flag of COPY, or the exec form with more behind it."""
    words = '["Dockerfile", "/"] # more' if need == cases.EXEC_AND_MORE else f"{need}=nothing Dockerfile /"
    (folder / "Dockerfile").write_text(f"FROM scratch\nCOPY {words}\n")
    answer = buildkit.ask(buildkit.Question(folder, folder / "Dockerfile"))
    return answer.failed if need == cases.EXEC_AND_MORE else "unknown flag" in answer.said


def _restore(place: Path, pristine: Path) -> None:
    """Put back what a mutation changed, and nothing else: what is as it was need not be read again."""
    for path in map(place.joinpath, paths(place)):
        twin = pristine / path.relative_to(place)
        if os.path.lexists(path) and _looks(path) != _looks(twin):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    for path in map(pristine.joinpath, paths(pristine)):
        twin = place / path.relative_to(pristine)
        if path.is_dir() and not path.is_symlink():
            twin.mkdir(exist_ok=True)
            shutil.copystat(path, twin)
        elif not os.path.lexists(twin):
            shutil.copy2(path, twin, follow_symlinks=False)


def _looks(path: Path) -> object:
    """All of it that a mutation changes; of folders that they are some."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return stat.S_ISDIR(found.st_mode) or (found.st_mode, found.st_size, found.st_mtime_ns)


def _bench(case: Case, work: Path) -> Bench:
    work.mkdir()
    bench = Bench(case, work)
    shutil.copytree(bench.first, bench.pristine, symlinks=True)
    return bench


def _declared(bench: Bench) -> dict[str, object]:
    build: dict[str, object] = {"context": str(bench.first), "dockerfile": str(bench.dockerfile_of(bench.first))}
    build |= {"args": bench.case.args, "additional_contexts": dict.fromkeys(bench.case.contexts, str(bench.first))}
    return {**build, "target": bench.case.target} if bench.case.target else build


@pytest.fixture(scope="module")
def asked(images: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asked]:
    lab = Lab(tmp_path_factory.mktemp("asked"))
    try:
        yield Asked(lab)
    finally:
        lab.close()


Quiet = dict[str, list[list[Mutation]]]


@pytest.fixture(scope="module")
def quiet(asked: Asked) -> Quiet:
    """Of each case, the mutations after which the plan says ``fresh``, in groups in which none undoes another."""
    found: Quiet = {}
    for name, answers in asked.answers.items():
        groups: dict[str, list[Mutation]] = {}
        for mutation, decision in answers:
            if decision.action == "fresh":
                groups.setdefault(mutation.kind if mutation.kind in _UNDOING else "", []).append(mutation)
        found[name] = [*groups.values()]
    return found


@pytest.fixture(scope="module")
def quiet_is_idle(asked: Asked, quiet: Quiet) -> dict[str, list[bool]]:
    """What BuildKit says of an equal context of each case, and of each of its groups all at once: if BuildKit is idle
    then, each of them is right."""
    asked.idle({name: [[]] for name in quiet})  # of two that are equal, and new, BuildKit would make one
    return asked.idle({name: [[], *groups] for name, groups in quiet.items()})


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mutation_that_is_fresh_to_the_plan_is_nothing_to_buildkit(
    case: Case, asked: Asked, quiet: Quiet, quiet_is_idle: dict[str, list[bool]]
) -> None:
    asked.bench(case)
    assert quiet[case.name], "some mutation must not matter, or this test compares nothing"
    unchanged, *idle = quiet_is_idle[case.name]
    assert unchanged, "BuildKit repeats steps for an equal context: it cannot be the judge"
    for mutations, nothing_ran in zip(quiet[case.name], idle, strict=True):
        if not nothing_ran:
            alone = asked.idle({case.name: [[mutation] for mutation in mutations]})[case.name]
            missed = [str(mutation) for mutation, right in zip(mutations, alone, strict=True) if not right]
            pytest.fail(f"BuildKit builds again, we would not, after: {missed or list(map(str, mutations))}")


@dataclass(frozen=True)
class Loud:
    """Of each case: the mutations after which the plan builds, those after which it says broken, and of the former
    those that are nothing to BuildKit; one of each kind, or all the ``others``."""

    others: bool
    loud: dict[str, list[Mutation]]
    broken: dict[str, list[Mutation]]
    extra: dict[str, list[Mutation]]


# Which mutations matter is asked of BuildKit one by one: one of each kind always, and the others with `--all`.
@pytest.fixture(scope="module", params=[False, pytest.param(True, marks=pytest.mark.all)], ids=["some", "others"])
def matter(request: pytest.FixtureRequest, asked: Asked) -> Loud:
    found = {name: _that_matter(answers, request.param) for name, answers in asked.answers.items()}
    loud = {name: mutations for name, (mutations, _) in found.items()}
    idle = asked.idle({name: [[mutation] for mutation in mutations] for name, mutations in loud.items()})
    extra = {name: [*itertools.compress(mutations, idle[name])] for name, mutations in loud.items()}
    return Loud(request.param, loud, {name: mutations for name, (_, mutations) in found.items()}, extra)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_mutation_that_is_stale_to_the_plan_is_work_for_buildkit(
    case: Case, asked: Asked, matter: Loud, quiet_is_idle: dict[str, list[bool]]
) -> None:
    bench = asked.bench(case)
    assert quiet_is_idle[case.name][0], "without any change BuildKit has work"
    assert matter.loud[case.name] or matter.broken[case.name] or matter.others, "some mutation must matter"
    for mutation in matter.broken[case.name]:
        # Its cache may know the result of a build that read as little, and did not fail.
        question = replace(bench.question(bench.copy(mutation)), cached=False)
        assert buildkit.ask(question).failed, f"{mutation}: broken to us, but BuildKit builds it"
    extra = [mutation for mutation in matter.extra[case.name] if not needless(case, mutation)]
    assert not [str(mutation) for mutation in extra if asked.is_idle(case, mutation)]


def _that_matter(answers: Sequence[tuple[Mutation, Decision]], others: bool) -> tuple[list[Mutation], list[Mutation]]:
    """The mutations after which the plan builds, one for each result, and those after which it says broken: the first
    of each kind, or all the others."""
    kinds: set[tuple[str, str]] = set()
    found: dict[str, list[Mutation]] = {"build": [], "broken": []}
    known: set[str] = set()
    for mutation, decision in answers:
        if decision.action == "fresh" or (decision.action == "build" and decision.inputs.fingerprint in known):
            continue
        known.add(decision.inputs.fingerprint)
        kind = mutation.kind, str(decision.action)
        if (kind in kinds) == others:
            found[decision.action].append(mutation)
        kinds.add(kind)
    return found["build"], found["broken"]


def _works(answer: buildkit.Answer) -> bool:
    return answer.failed or bool(answer.run)


def _set_attribute(path: str) -> Callable[[Path], None]:
    def apply(root: Path) -> None:
        try:
            os.setxattr(root / path, "user.test", b"1")
        except OSError:
            (root / "a.txt").write_text("this file system keeps no attributes, so change something else")

    return apply


def _listen(root: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(root / "s"))


UNUSUAL = {
    "nothing": lambda root: None,
    "owner": lambda root: os.chown(root / "a.txt", 7, 7) if os.getuid() == 0 else None,
    "mode of the context": lambda root: root.chmod(0o700),
    "hard link instead of a copy": lambda root: (root / "copy").unlink() or os.link(root / "a.txt", root / "copy"),
    "setuid": lambda root: (root / "a.txt").chmod(0o4644),
    "sticky folder": lambda root: (root / "d").chmod(0o1755),
    "attribute": _set_attribute("a.txt"),
    "attribute of a folder": _set_attribute("d"),
    "fifo": lambda root: os.mkfifo(root / "fifo"),
    "socket": _listen,
    "name that is not UTF-8": lambda root: (root / os.fsdecode(b"\xff")).write_text("x"),
    "content of a name that is not UTF-8": lambda root: (root / os.fsdecode(b"\xfe")).write_text("x"),
    "newline in a name": lambda root: (root / "new\nline").write_text("x"),
    "case of a name": lambda root: (root / "a.txt").rename(root / "A.txt"),
    "empty file": lambda root: (root / "a.txt").write_text(""),
}


def test_unusual_entries(tmp_path):
    dockerfile_ = tmp_path / "Dockerfile"
    dockerfile_.write_text(f"FROM scratch\nCOPY . /{uuid.uuid4().hex}/\n")
    found, questions = {}, {}
    # Newer BuildKits refuse a name that is not UTF-8, and then none may be there when something else is asked.
    odd = [] if refused.refuses(Engine().snapshot().version) else [os.fsdecode(b"\xfe")]
    for name, change in {"first": UNUSUAL["nothing"], **UNUSUAL}.items():
        root = tmp_path / uuid.uuid4().hex[:6]  # short: the path of a socket may have 107 bytes
        (root / "d").mkdir(parents=True)
        for path in ("a.txt", "copy", "d/x", *odd):
            (root / path).write_text("a")
        change(root)
        questions[name] = buildkit.Question(root, dockerfile_)
        if "not UTF-8" in name and not odd:
            said = buildkit.ask(questions.pop(name)).said
            assert "invalid UTF-8" in said, "this BuildKit takes such names: see doit_images/core/planning/refused.py"
            continue
        view = View(Tree(root, FileIndex()), ignorefile.IgnoreFile())
        found[name] = select(view, [dockerfile.Copy("", (".",))], "Dockerfile").digest
    first = buildkit.ask(questions.pop("first"))
    assert not first.failed, first.said
    answers = dict(zip(questions, buildkit.ask_all([*questions.values()]), strict=True))
    assert not [answer.said for answer in answers.values() if answer.failed]
    expected = {name: bool(answer.run) for name, answer in answers.items()}
    assert {name: found[name] != found["first"] for name in expected} == expected


def test_a_context_that_changes_in_place(tmp_path):
    """As people work: one folder, one change after the other, one memory of hashes all along."""
    case = next(case for case in CASES if case.name == "everything but")
    bench = Bench(case, tmp_path)
    store = tmp_path / "index.sqlite3"
    before = bench.ours(bench.first, store)
    buildkit.ask(bench.question(bench.first))
    idle = 0
    for mutation in sorted(all_of(bench.first), key=lambda m: hashlib.sha256(str(m).encode()).digest())[:45]:
        with contextlib.suppress(FileNotFoundError, FileExistsError, NotADirectoryError):
            mutation.apply(bench.first)
        after = bench.ours(bench.first, store)
        answer = buildkit.ask(bench.question(bench.first))
        if after == before:
            assert not answer.run, f"missed: {mutation}"
            idle += 1
        before = after
    assert idle, "some mutation must not matter, or this test compares nothing"


@given(CONTEXTS, st.data())
@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_mutations_of_random_contexts(random, data):
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        context, path = random.lay(work, uuid.uuid4().hex)
        mutation = data.draw(st.sampled_from(list(all_of(context))))
        twin = work / "twin"
        shutil.copytree(context, twin, symlinks=True)
        mutation.apply(twin)
        before, after = _digest(context, path, random.source), _digest(twin, path, random.source)
        if after not in (before, BROKEN):
            return  # nothing is promised of what counts as changed
        if before == BROKEN or buildkit.ask(buildkit.Question(context, path)).failed:
            return
        answer = buildkit.ask(buildkit.Question(twin, path))
    if after == before:
        assert not answer.run, f"missed: {mutation}"
    if after == BROKEN:
        assert answer.failed, f"{mutation}: broken to us, but BuildKit builds it"


def _digest(context: Path, path: Path, source: str) -> str:
    view = View(Tree(context, FileIndex()), ignorefile.load(ignorefile.effective(context, path)))
    try:
        return select(view, [dockerfile.Copy("", (source,))], "Dockerfile").digest
    except UserError:
        return BROKEN
