"""What would be built for a commit, read from git alone: is it what a checkout of it says, and what BuildKit does?"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from doit_images.ci.commit import Commit, CommitIndex, Source
from doit_images.ci.commits import WorkingCopy
from doit_images.ci.since import NEW, STAGED, Comparison, Since, plan_since
from doit_images.ci.testing.declared import ImageTest
from doit_images.ci.testing.since import _due
from doit_images.ci.testing.variants import name_of
from doit_images.core.base.errors import UserError
from doit_images.core.base.task_names import PLAIN
from doit_images.core.compose import project as compose_project
from doit_images.core.compose.image import Image
from doit_images.core.engine.client import host_platform
from doit_images.core.inputs.ignorefile import IgnoreFile
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.inputs.resolver import InputResolver
from doit_images.core.inputs.tree import FileIndex, Tree
from doit_images.core.inputs.view import View
from doit_images.core.planning.plan import Action, Decision
from doit_images.ui import ci_jobs
from tests import forked
from tests.conftest import ROOT, Lab, examples, needs_docker_command

SETTINGS = ("user.name=t", "user.email=t@example.org", "protocol.file.allow=always", "init.defaultBranch=main")


def git(folder: Path, *words: str) -> str:
    settings = [part for setting in SETTINGS for part in ("-c", setting)]
    done = subprocess.run(["git", *settings, *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def write(folder: Path, files: Mapping[str, str | None]) -> None:
    """Write files; ``-> TARGET`` is a link, ``#!`` makes it executable, None removes it."""
    for name, text in files.items():
        path = folder / name
        if path.is_symlink() or path.is_file():
            path.unlink()
        if text is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("-> "):
            path.symlink_to(text[3:])
        else:
            path.write_bytes(text.encode("latin-1" if name.endswith(".utf16") else "utf-8"))
            path.chmod(0o755 if text.startswith("#!") else 0o644)


class History:
    """A git repository with a project whose images stand on nothing, so that no engine is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        git(folder, "init", "-q")

    def commit(self, files: Mapping[str, str | None]) -> str:
        write(self.folder, files)
        git(self.folder, "add", "-A", "--force")
        git(self.folder, "commit", "-q", "--allow-empty", "-m", "a commit")
        return git(self.folder, "rev-parse", "HEAD")

    def since(self, at: str = "HEAD", since: str = "", **environ: str) -> Since:
        files = (self.folder / "compose.yml",)
        copy = WorkingCopy(files, {**os.environ, **environ}, self.folder / ".doit-images")
        return plan_since(Comparison(copy, at, since, "main"))

    def reasons(self, at: str = "HEAD", since: str = "") -> dict[str, tuple[str, ...]]:
        return {name: one.reasons for name, one in self.since(at, since).decisions.items() if one.stale}


def compose(**services: str) -> str:
    """A Compose file with these services, each with its ``build``."""
    return json.dumps({"name": "tst", "services": {name: {"build": build} for name, build in services.items()}})


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "app")


class Branches(History):
    """One whose first commit many tests go on from, each by itself: what is known of that one is asked once."""

    def __init__(self, folder: Path, start: Mapping[str, str | None]) -> None:
        super().__init__(folder)
        self.commit(start)

    def then(self, files: Mapping[str, str | None]) -> History:
        git(self.folder, "switch", "-qfC", "topic", "main")
        self.commit(files)
        return self


START = {
    "compose.yml": compose(base="base", web="web", job="job"),
    "base/Dockerfile": "FROM scratch\nCOPY f /f\n",
    "base/f": "1\n",
    "web/Dockerfile": "FROM tst-base\nCOPY . /app\n",
    "web/.dockerignore": "*.md\n",
    "web/main.py": "1\n",
    "job/Dockerfile": "FROM scratch\nCOPY run /\n",
    "job/run": "#!/bin/sh\n",
    "README.md": "1\n",
}


@needs_docker_command
def test_what_is_staged_is_planned_before_it_is_committed(history: History) -> None:
    history.commit(START)
    write(history.folder, {"job/run": "#!/bin/sh\n:\n"})
    git(history.folder, "add", "job/run")
    write(history.folder, {"job/run": "#!/bin/sh\n", "web/main.py": "2\n"})  # not staged
    found = history.since(STAGED)
    actions = {"base": "fresh", "web": "fresh", "job": "build"}
    assert {name: one.action for name, one in found.decisions.items()} == actions
    assert found.before == git(history.folder, "rev-parse", "HEAD")
    assert git(history.folder, "status", "--porcelain") == "MM job/run\n M web/main.py"
    history.commit({})
    assert history.since(STAGED, "HEAD~1").decisions["web"].action == "build"


@needs_docker_command
def test_what_is_staged_for_the_first_commit_and_with_conflicts(history: History) -> None:
    write(history.folder, START)
    git(history.folder, "add", "-A")
    assert history.since(STAGED).decisions["job"].reasons == (NEW,)
    oid = git(history.folder, "rev-parse", ":job/run")
    git(history.folder, "rm", "-q", "--cached", "job/run")
    entries = "".join(f"100644 {oid} {at}\tjob/run\n" for at in (1, 2, 3))
    subprocess.run(["git", "update-index", "--index-info"], cwd=history.folder, input=entries, text=True, check=True)
    with pytest.raises(UserError, match=r"git cannot tell what is staged: .*conflicts have to be resolved first"):
        history.since(STAGED)


@needs_docker_command
def test_a_hook_says_what_a_commit_rebuilds(history: History) -> None:
    """git gives a hook an index of its own, by a path that may be relative."""
    job = {"job/Dockerfile": "FROM scratch\nCOPY . /\nRUN pip install -r /a.txt\n", "job/a.txt": "one==1\n"}
    history.commit({f"deep/{name}": text for name, text in (START | job).items()} | {".gitignore": ".doit-images\n"})
    hooks = history.folder / ".git/hooks"
    command = f"{sys.executable} -m doit -f {ROOT}/dodo.py plan --staged"
    write(hooks, {"pre-commit": f"#!/bin/sh\nexec {command} >{history.folder}/said\n"})
    write(history.folder, {"deep/job/run": "#!/bin/sh\n:\n", "deep/web/main.py": "2\n"})
    environ = {**os.environ, "COMPOSE_FILE": str(history.folder / "deep/compose.yml"), "PYTHONPATH": str(ROOT)}
    argv = ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-q", "-m", "x", "deep/job/run"]
    subprocess.run(argv, cwd=history.folder, env=environ, check=True)
    told = (history.folder / "said").read_text()
    assert re.search(r"^job +build +`job/run` changed", told, re.M)
    assert re.search(r"^web +fresh", told, re.M)
    assert f"what is staged, since {git(history.folder, 'rev-parse', 'HEAD~1')[:12]}" in told
    lets = "job/Dockerfile:2 lets line 3 (RUN pip install -r /a.txt) run again, and nothing touched a.txt"
    assert told.splitlines()[-1] == f"{lets}: doit advise job --patch"


@needs_docker_command
def test_reasons_are_those_of_plan(history: History) -> None:
    history.commit(START)
    assert history.reasons() == {"base": (NEW,), "web": (NEW,), "job": (NEW,)}
    history.commit({"README.md": "2\n", "web/notes.md": "hidden\n"})
    assert history.reasons() == {}
    history.commit({"web/main.py": "2\n"})
    assert history.reasons() == {"web": ("`web/main.py` changed",)}
    history.commit({"base/f": "2\n"})
    assert history.reasons() == {"base": ("`base/f` changed",), "web": ("`base` is made again",)}
    (history.folder / "job/run").chmod(0o644)
    git(history.folder, "commit", "-qam", "mode")
    assert history.reasons() == {"job": ("`job/run` mode 755 → 644",)}
    history.commit({"job/run": "-> Dockerfile", "compose.yml": compose(base="base", job="job", more="web")})
    assert history.reasons() == {"more": (NEW,), "job": ("`job/run` is now a link, was a file",)}


@needs_docker_command
def test_a_policy_and_what_it_reads_are_those_of_the_commit(history: History) -> None:
    reads = 'import data.more\nimport data.rules\npins := load_json("cwd://pins.json")\n'
    history.commit({**START, "job/Dockerfile.rego": reads, "job/more.rego": 'load_json("keys")', "pins.json": "1"})
    history.commit({"job/rules.rego": "1\n", "job/dockerfile": "is not read"})
    assert history.reasons() == {"job": ("`job/rules.rego` added",)}
    history.commit({"job/keys": "1\n", "pins.json": "2"})
    assert history.reasons() == {"job": ("`pins.json` changed", "`job/keys` added")}
    history.commit({"job/Dockerfile": None, "job/dockerfile": START["job/Dockerfile"]})
    assert {*history.reasons()["job"]} >= {"`job/Dockerfile` removed", "`job/dockerfile` added"}


@needs_docker_command
def test_it_is_compared_with_where_it_left_the_other_branch(history: History) -> None:
    history.commit(START)
    git(history.folder, "switch", "-qc", "topic")
    mine = history.commit({"web/main.py": "2\n"})
    history.commit({"README.md": "2\n"})
    git(history.folder, "switch", "-q", "main")
    history.commit({"job/run": "#!/bin/false\n"})
    write(history.folder, {"base/f": "not committed\n"})
    assert history.reasons("topic") == history.reasons("topic", "main") == {"web": ("`web/main.py` changed",)}
    assert history.reasons("topic", mine) == {}
    with pytest.raises(UserError, match="does not know 'nowhere'"):
        history.since("nowhere")
    with pytest.raises(UserError, match="does not know 'nowhere'"):
        history.since("topic", "nowhere")


@pytest.mark.parametrize(
    ("at", "since", "said"),
    [
        ("HAED", "", "git does not know 'HAED' (did you mean 'HEAD'?)"),
        ("HAED~3", "", "git does not know 'HAED~3' (did you mean 'HEAD~3'?)"),
        ("HEAD", "mian", "git does not know 'mian' (did you mean 'main'?)"),
        ("v1.1", "", "git does not know 'v1.1' (did you mean 'v1.0'?)"),
        ("HEAD~9", "", "git does not know 'HEAD~9' (fetch it first: a clone may be shallow)"),
        ("0123456789", "", "git does not know '0123456789' (fetch it first: a clone may be shallow)"),
        ("--version", "", "git does not know '--version' (fetch it first: a clone may be shallow)"),
    ],
)
def test_a_revision_that_git_does_not_know(history: History, at: str, since: str, said: str) -> None:
    history.commit(START)
    git(history.folder, "tag", "v1.0")
    with pytest.raises(UserError) as caught:
        history.since(at, since)
    assert str(caught.value) == f"{history.folder}: {said}"


def test_branches_without_a_common_commit_are_not_compared(history: History) -> None:
    history.commit(START)
    git(history.folder, "switch", "-q", "--orphan", "other")
    history.commit({**START, "other": ""})
    with pytest.raises(UserError, match=r"git finds no commit that main and [0-9a-f]{12} have in common"):
        history.since("HEAD", "main")


def test_a_project_that_is_in_no_repository_has_no_commits(history: History) -> None:
    write(history.folder, START)
    shutil.rmtree(history.folder / ".git")
    with pytest.raises(UserError, match="git reads no repository here: not a git repository"):
        history.since("HEAD")


@needs_docker_command
def test_what_no_commit_knows_is_said(history: History) -> None:
    service = {"build": {"context": ".", "args": {"A": "${GIVEN:?}"}}, "env_file": "own.env"}
    project = json.dumps({"name": "tst", "services": {"app": service}})
    dockerfile = "FROM somewhere.example/base\nARG A\nCOPY f /\n"
    history.commit({"compose.yml": project, "Dockerfile": dockerfile, "f": "1\n"})
    history.commit({"f": "2\n"})
    (history.folder / ".env").write_text("GIVEN=1\n")
    found = history.since()
    assert found.decisions["app"].reasons == ("`f` changed",)
    said = "\n".join(found.unknown)
    assert "somewhere.example/base" in said
    assert "`.env` is not in git" in said
    assert "`GIVEN` has no value here" in said
    assert not list(history.folder.glob("own.env"))


@needs_docker_command
def test_a_refused_project_is_told_with_its_commit(history: History) -> None:
    history.commit(START)
    broken = history.commit({"compose.yml": "services: {a: {biuld: .}}\n"})
    with pytest.raises(UserError, match=f"at {broken[:12]}: .*compose.yml: Compose refuses it"):
        history.since()
    history.commit({"compose.yml": compose(base="base"), "base/f": None})
    assert any("nothing is known of" in sentence for sentence in history.since().unknown)
    assert history.since().decisions["base"].action == "broken"
    assert "plan-at-" not in history.since().decisions["base"].reasons[0]


def submodule(history: History, tmp_path: Path) -> Path:
    """Another repository, which is a submodule of this one, cloned; where the other one is."""
    other = History(tmp_path / "other")
    other.commit({"x": "1\n"})
    git(history.folder, "submodule", "--quiet", "add", str(other.folder), "web/lib")
    return other.folder


@needs_docker_command
def test_a_submodule_counts_by_what_it_holds_or_as_changed(history: History, tmp_path: Path) -> None:
    history.commit(START)
    other = submodule(history, tmp_path)
    history.commit({})
    write(other, {"x": "2\n"})
    git(other, "commit", "-qam", "two")
    git(history.folder / "web/lib", "pull", "-q")
    history.commit({})
    assert history.reasons() == {"web": ("`web/lib/x` changed",)}
    bare = History(tmp_path / "without")
    git(bare.folder, "pull", "-q", str(history.folder), "main")
    assert bare.reasons() == {"web": ("the submodule `web/lib` is not here, and may be another",)}
    bare.commit({"README.md": "3\n"})
    assert bare.reasons() == {}


FULL = {
    ".gitattributes": "*.bat text eol=crlf\n*.id ident\nbig.* filter=lfs diff=lfs merge=lfs -text\n*.utf16 text"
    " working-tree-encoding=UTF-16LE\n",
    "compose.yml": "include: [more/inc.yml]\nname: tst\nservices:\n"
    "  all: {build: {context: here, dockerfile: ../docker/D}}\n"
    "  named: {build: {context: docker, dockerfile: N, additional_contexts: {src: ./src, all: 'service:all'}}}\n",
    "more/inc.yml": 'services: {inner: {build: {context: ../src, dockerfile_inline: "FROM scratch\\nCOPY a.txt /"}}}\n',
    "here": "-> src",
    "docker/D": "FROM scratch\nCOPY . /\n",
    "docker/D.dockerignore": "**/*.log\n!src/keep.log\n",
    "docker/N": "FROM all AS x\nFROM scratch\nCOPY --from=src deep /deep\nCOPY --from=x / /\n",
    "src/a.txt": "a\n",
    "src/run.sh": "#!/bin/sh\n",
    "src/win.bat": "one\ntwo\n",
    "src/said.id": "$Id$\n",
    "src/two.utf16": "ä\n".encode("utf-16-le").decode("latin-1"),
    "src/big.bin": "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n",
    "src/x.log": "no\n",
    "src/deep/down/link": "-> ../../a.txt",
    "src/deep/dir": "-> down",
    "src/ä \n\t": "odd name\n",
}


@needs_docker_command
def test_fingerprints_are_those_of_a_checkout(history: History, tmp_path: Path) -> None:
    """Attributes, links to contexts, what files include, odd names, a submodule."""
    history.commit(START)
    shutil.rmtree(history.folder / "web")
    history.commit({"README.md": None, **FULL})
    git(history.folder, "submodule", "--quiet", "add", str(history.folder), "src/again")
    history.commit({})
    found = history.since()
    place = tmp_path / "clone" / "app"
    git(tmp_path, "-c", "filter.lfs.smudge=", "-c", "filter.lfs.required=false", "clone", "-q", "--recurse-submodules",
        str(history.folder), str(place))  # fmt: skip
    project = compose_project.load((place / "compose.yml",), os.environ)
    there = InputResolver(project, place / ".doit-images").resolve(host_platform(), lambda ref, wanted: None)
    assert not [one.problem for one in there.values() if one.problem]
    assert (place / "src/win.bat").read_bytes() == b"one\r\ntwo\r\n"
    assert {name: one.inputs.build_inputs() for name, one in found.decisions.items()} == {
        name: one.build_inputs() for name, one in there.items()
    }
    assert {name: one.inputs.fingerprint for name, one in found.decisions.items()} == {
        name: one.fingerprint for name, one in there.items()
    }


NAMES = st.sampled_from(["a", "b.txt", "c.bat", ".hidden", "ä"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map("/".join)
TEXTS = st.sampled_from(["", "one\n", "#!/bin/sh\n", "two\r\n", "-> a", "-> ../b.txt", "-> /etc", "x" * 70_000])
TREES = st.dictionaries(PATHS, TEXTS, min_size=1, max_size=8).filter(
    lambda tree: not any(one != other and other.startswith(f"{one}/") for one in tree for other in tree)
)
ATTRIBUTES = st.sampled_from(["", "* text=auto\n", "*.bat eol=crlf\n", "a/** ident\n"])


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trees")


@examples(0.08)
@given(trees=st.lists(TREES, min_size=2, max_size=2), attributes=st.lists(ATTRIBUTES, min_size=2, max_size=2))
def test_any_tree_is_seen_as_a_checkout_shows_it(
    places: Path, trees: list[dict[str, str]], attributes: list[str]
) -> None:
    """One commit after the other is looked at in the same place, as ``plan`` does."""
    places = Path(tempfile.mkdtemp(dir=places))
    history, before = History(places / "repo"), None
    (places / "at").mkdir()
    for tree, text in zip(trees, attributes, strict=True):
        git(history.folder, "rm", "-rqf", "--ignore-unmatch", ".")
        oid = history.commit({**tree, ".gitattributes": text})
        git(places, "clone", "-q", str(history.folder), f"clone-{oid}")
        commit = Commit(Source(history.folder / ".git", oid), (places / "at").resolve(), before)
        ignore = IgnoreFile(".git\n")
        seen = View(Tree(places / "at", CommitIndex(commit)), ignore)
        real = View(Tree(places / f"clone-{oid}", FileIndex()), ignore)
        assert seen.digest("") == real.digest("")
        before = commit


def test_every_commit_of_a_history_is_judged_by_buildkit(lab: Lab, tmp_path: Path) -> None:
    """No rebuild is missed, none is needless: each commit is checked out and built, in one builder."""
    history = History(tmp_path / "app")
    start = {**START}
    for name, source in {"base": "f", "web": ".", "job": "run"}.items():
        start[f"{name}/Dockerfile"] = f"FROM scratch\nCOPY {source} /{lab.prefix}/\n"
    steps: list[dict[str, str | None]] = [
        {"README.md": "2\n"},
        {"web/main.py": "2\n", "web/notes.md": "hidden\n"},
        {"job/other": "not copied\n"},
        {"web/sub/link": "-> ../main.py", "job/run": "#!/bin/true\n"},
        {"web/sub/link": "-> main.py"},
        {"web/.dockerignore": "*.md\nsub\n"},
    ]
    history.commit(start)
    executed(history.folder, tmp_path)
    for files in steps:
        history.commit(files)
        ours = set(history.reasons())
        assert ours == executed(history.folder, tmp_path), files


def executed(folder: Path, scratch: Path) -> set[str]:
    """The images of which BuildKit runs a step for this commit."""
    place = scratch / "checkout"
    shutil.rmtree(place, ignore_errors=True)
    git(scratch, "clone", "-q", str(folder), str(place))
    images = ("base", "web", "job")
    targets = {name: {"context": str(place / name), "output": ["type=cacheonly"]} for name in images}
    argv = ["docker", "buildx", "bake", "--progress=plain", "--file=-", *images]
    done = subprocess.run(argv, cwd=place, input=json.dumps({"target": targets}), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    steps = dict(re.findall(r"^(#\d+) \[(\w+) \S+\] COPY", done.stderr, re.MULTILINE))
    assert {*steps.values()} == {*images}, done.stderr
    return {name for number, name in steps.items() if f"{number} CACHED" not in done.stderr}


@needs_docker_command
def test_the_matrix_of_a_commit_needs_no_engine(history: History) -> None:
    """A job for each image on top; nothing else on standard output, and no job where nothing is to be done."""
    history.commit(START)
    history.commit({"base/f": "2\n", "job/run": "#!/bin/true\n"})
    matrix = json.loads(doit(history, "plan", "--at", "HEAD", "--matrix"))
    assert [(job["image"], job["builds"]) for job in matrix["include"]] == [("job", ["job"]), ("web", ["base", "web"])]
    assert matrix["include"][0]["why"] == "`job/run` changed"
    assert json.loads(doit(history, "plan", "--at", "HEAD", "--since", "HEAD", "--matrix")) == {"include": []}
    found = json.loads(doit(history, "plan", "job", "--at", "HEAD", "--json"))
    assert [(one["name"], one["reasons"]) for one in found["images"]] == [("job", ["`job/run` changed"])]
    assert found["since"] == git(history.folder, "rev-parse", "HEAD~1")


@needs_docker_command
def test_jobs_for_several_platforms_are_run_by_machines_of_each_kind(
    history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for images whose Compose file says for which they are: these stay together."""
    declared = yaml.safe_load(START["compose.yml"])
    declared["services"]["job"]["build"] = {"context": "job", "platforms": ["linux/amd64", "linux/arm64"]}
    history.commit({**START, "compose.yml": json.dumps(declared)})
    history.commit({"base/f": "2\n", "job/run": "#!/bin/true\n"})
    monkeypatch.setenv("PLATFORMS", "linux/amd64,linux/arm64")
    jobs = json.loads(doit(history, "plan", "--at", "HEAD", "--matrix"))["include"]
    assert [(one["image"], one.get("platform"), one["builds"]) for one in jobs] == [
        ("job", None, ["job"]),
        ("web", "linux/amd64", ["base", "web"]),
        ("web", "linux/arm64", ["base", "web"]),
    ]
    pipeline = json.loads(doit(history, "plan", "--at", "HEAD", "--gitlab"))
    made = [
        (job.get("tags"), job.get("variables"), [one["IMAGE"] for one in job["parallel"]["matrix"]])
        for job in pipeline.values()
    ]
    assert made == [
        (None, None, ["job"]),
        (["linux/amd64"], {"PLATFORMS": "linux/amd64"}, ["web"]),
        (["linux/arm64"], {"PLATFORMS": "linux/arm64"}, ["web"]),
    ]
    monkeypatch.setenv("PLATFORMS", "linux/arm64")
    jobs = json.loads(doit(history, "plan", "--at", "HEAD", "--matrix"))["include"]
    assert [(one["image"], one.get("platform")) for one in jobs] == [("job", None), ("web", None)]


TESTED = {
    "compose.yml": json.dumps(
        {
            "name": "tst",
            "x-test": {
                "api": {"service": "web", "command": ["run"], "inputs": ["api"]},
                "live": {"service": "job", "command": ["run"], "services": ["web"]},
            },
            "services": {name: {"build": name} for name in ("web", "job")},
        }
    ),
    "web/Dockerfile": "FROM scratch AS app\nCOPY main.py /\nFROM app AS test\nCOPY check /\nFROM app\n",
    "web/main.py": "1\n",
    "web/check": "1\n",
    "job/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
    "api/a/test.py": "1\n",
    ".dockerignore": "**/*.pyc\n",
}


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory) -> Branches:
    return Branches(tmp_path_factory.mktemp("tested") / "app", TESTED)


@needs_docker_command
@pytest.mark.parametrize(
    ("files", "jobs"),
    [
        ({"README.md": "2\n", "api/a/x.pyc": "1\n"}, []),
        ({"web/check": "2\n"}, [("web", [], "web")]),
        ({"api/a/test.py": "2\n"}, [("web", [], "api")]),
        ({"web/main.py": "2\n"}, [("job", [], "live"), ("web", ["web"], "api web")]),
        ({"job/Dockerfile": "FROM scratch\nCOPY Dockerfile /d\n"}, [("job", ["job"], "live")]),
    ],
)
def test_the_tests_of_a_commit_are_those_that_see_what_changed(
    tested: Branches, files: dict[str, str], jobs: list[tuple[str, list[str], str]]
) -> None:
    """One service changed: its own tests, and those of what depends on it; a job for tests alone where nothing is
    to be built. GitLab gets the same jobs."""
    history = tested.then(files)
    matrix = json.loads(doit(history, "plan", "--at", "HEAD", "--matrix"))["include"]
    assert sorted((job["image"], job["builds"], job["tests"]) for job in matrix) == jobs
    pipeline = json.loads(doit(history, "plan", "--at", "HEAD", "--gitlab"))
    if jobs:
        (job,) = pipeline.values()
        made = sorted((one["IMAGE"], one["BUILDS"], one["TESTS"]) for one in job["parallel"]["matrix"])
        assert made == [(image, " ".join(builds), tests) for image, builds, tests in jobs]
    else:
        assert list(pipeline) == ["nothing"]
        assert pipeline["nothing"]["script"]


SURROUNDED = {
    "compose.yml": json.dumps(
        {
            "name": "tst",
            "x-test": {"live": {"service": "job", "command": ["run"], "services": ["web"]}},
            "services": {
                "job": {"build": "job"},
                "store": {"build": "store", "image": "tst/store", "configs": ["rules"]},
                "again": {"image": "tst/store", "depends_on": ["store"], "env_file": "store/store.settings"},
                "web": {
                    "image": "web",
                    "depends_on": ["again"],
                    "volumes": ["./conf:/conf:ro", "./one.txt:/one.txt", "./never/was:/x", "named:/data"],
                },
                "other": {"image": "web", "volumes": ["./aside:/conf"]},
            },
            "configs": {"rules": {"file": "./rules.txt"}},
            "volumes": {"named": {}},
        }
    ),
    "job/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
    "store/Dockerfile": "FROM scratch\nCOPY Dockerfile /\n",
    "store/store.settings": "A=1\n",
    ".dockerignore": "conf\n",
    "conf/a/b": "1\n",
    "conf/link": "-> ../elsewhere",
    "elsewhere/c": "1\n",
    "aside/d": "1\n",
    "one.txt": "1\n",
    "rules.txt": "1\n",
}


@pytest.fixture(scope="module")
def surrounded(tmp_path_factory: pytest.TempPathFactory) -> Branches:
    return Branches(tmp_path_factory.mktemp("surrounded") / "app", SURROUNDED)


@needs_docker_command
@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"README.md": "2\n", "aside/d": "2\n", "named": "1\n"}, None),
        ({"conf/a/b": "2\n"}, "what is mounted from `conf` changed"),
        ({"conf/a/b": "#!/bin/sh\n1\n"}, "what is mounted from `conf` changed"),
        ({"conf/a/b": None, "conf/a/e": "1\n"}, "what is mounted from `conf` changed"),
        ({"conf/link": "-> ../aside"}, "what is mounted from `conf` changed"),
        ({"elsewhere/c": "2\n"}, "what is mounted from `conf` changed"),  # which a link leads to
        ({"one.txt": "2\n", "rules.txt": "2\n"}, "what is mounted from `one.txt` changed; …from `rules.txt` changed"),
        ({"one.txt": None}, "what is mounted from `one.txt` changed"),
        ({"never/was/f": "1\n"}, "what is mounted from `never/was` changed"),
        ({".gitattributes": "*.txt text eol=crlf\n"}, "what is mounted from `conf` changed; …"),  # in doubt
        ({"store/store.settings": "A=2\n"}, "what Compose says of its services changed"),
        ({"store/Dockerfile": "FROM scratch\nCOPY Dockerfile /d\n"}, "its image `store` is another"),
    ],
)
def test_what_surrounds_a_test_of_a_commit_counts_for_it(
    surrounded: Branches, files: dict[str, str | None], why: str | None
) -> None:
    """What is mounted into its services and into those that they need, what Compose says of these, and their images;
    nothing of any other service, and no ignore file hides what is mounted."""
    (live,) = json.loads(doit(surrounded.then(files), "plan", "--at", "HEAD", "--json"))["tests"]
    first, *more = (why or "").split("; …")
    assert live["stale"] == (why is not None)
    assert live["reasons"][:1] == [first] * live["stale"]
    assert all(any(reason.endswith(end) for reason in live["reasons"]) for end in more)


@needs_docker_command
def test_an_image_that_only_gets_another_name_is_not_tested_again(history: History) -> None:
    """It is the same image: a release that moves the tag of all images makes no test of theirs due."""
    project = json.loads(TESTED["compose.yml"])
    for tag in ("1", "2"):
        project["services"]["web"]["image"] = f"tst/web:{tag}"
        history.commit({**TESTED, "compose.yml": json.dumps(project)})
    found = json.loads(doit(history, "plan", "--at", "HEAD", "--json"))
    assert {one["name"]: one["action"] for one in found["images"]} == {"job": "fresh", "web": "retag"}
    assert {one["name"]: one["reasons"] for one in found["tests"] if one["stale"]} == {
        "live": ["what Compose says of its services changed"]
    }


@pytest.mark.parametrize(
    ("image", "own", "reasons"),
    [
        (Action.FRESH, Action.FRESH, None),
        (Action.RETAG, Action.FRESH, None),
        (Action.BUILD, Action.FRESH, "its image `web` is another"),
        (Action.BROKEN, Action.FRESH, "its image `web` is another"),
        (Action.FRESH, Action.BUILD, "why"),
        (Action.FRESH, Action.BROKEN, "why"),
    ],
)
def test_a_test_is_due_where_its_image_or_what_it_sees_is_built_or_broken(
    image: Action, own: Action, reasons: str | None
) -> None:
    inputs = ImageInputs(Image("web", "web", "/x"), Path("/x"))
    test = ImageTest("web", "web", target="test")
    decided = {"web": Decision("web", image, (), inputs), name_of(test): Decision("web", own, ("why",), inputs)}
    due = _due(test, decided)
    assert (due.stale, due.reasons) == (reasons is not None, (reasons,) if reasons else ())
    assert due.problem == ("why" if own == Action.BROKEN else "")


@needs_docker_command
def test_what_is_declared_of_a_test_is_told_in_words(history: History) -> None:
    history.commit(TESTED)
    text = TESTED["compose.yml"].replace('["run"]', '["walk"]')
    history.commit({"compose.yml": text})
    tests = json.loads(doit(history, "plan", "--at", "HEAD", "--json"))["tests"]
    assert {one["name"]: one["reasons"] for one in tests} == {
        "api": ["what is declared of it changed"],
        "live": ["what is declared of it changed"],
        "web": [],
    }


def doit(history: History, *words: str) -> str:
    """What doit prints for this project where no engine answers."""
    environ = {**os.environ, "COMPOSE_FILE": str(history.folder / "compose.yml"), "DOCKER_HOST": "unix:///nowhere"}
    argv = [sys.executable, "-m", "doit", *words]
    done = forked.run(argv, environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_docker_command
@pytest.mark.parametrize("place", [".github/workflows/images.yml", "action.yml"])
def test_the_step_of_the_workflow_gives_jobs_their_matrix(history: History, tmp_path: Path, place: str) -> None:
    """The very script, with a `doitw` that does not look after the machine."""
    content = yaml.safe_load((ROOT / place).read_text())
    steps = content["runs"]["steps"] if place == "action.yml" else content["jobs"]["plan"]["steps"]
    (script,) = [step["run"] for step in steps if step.get("id") == "plan"]
    history.commit(START)
    compose_file = f"COMPOSE_FILE={history.folder}/compose.yml DOCKER_HOST=unix:///nowhere"
    write(history.folder, {"doitw": f'#!/bin/sh\ncd {ROOT} && {compose_file} exec {sys.executable} -m doit "$@"\n'})
    said = tmp_path / "output"
    environ = {**os.environ, "GITHUB_OUTPUT": str(said), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary")}
    environ |= {"GITHUB_ACTION_PATH": str(history.folder), "COMPOSE_FILE": "", "SINCE": "0" * 40, "PLATFORMS": ""}
    for files, jobs in [({"web/main.py": "2\n"}, ["web"]), ({"README.md": "2\n"}, [])]:
        at = history.commit(files)
        said.write_text("")
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=history.folder,
            env={**environ, "AT": at},
            capture_output=True,
        )
        assert done.returncode == 0, done.stderr
        given = dict(
            line.split("=", 1) for line in said.read_text().splitlines() if line.startswith(("matrix=", "any="))
        )
        assert [job["image"] for job in json.loads(given["matrix"])["include"]] == jobs
        assert given["any"] == ("true" if jobs else "false")


def steps_of(place: str) -> list[dict[str, Any]]:
    """The steps of the job that builds one image."""
    if place == "GitLab":  # it gives the variables of the matrix by itself
        variables = dict.fromkeys(("IMAGE", "BUILDS", "TESTS"))
        return [{"id": "images", "run": "\n".join(ci_jobs.script(PLAIN)), "env": variables}]
    content = yaml.safe_load((ROOT / place).read_text())
    steps: list[dict[str, Any]] = (content["runs"] if place == "action.yml" else content["jobs"]["build"])["steps"]
    return steps


# Answers as `doitw` does to what the steps of a job ask, and writes that down.
DOITW = """#!/bin/sh
echo "$*" >> "$ASKED"
case $1 in test_image:bad|build:bad) exit 1 ;; esac
[ "$1" != build_report ] || { mkdir -p .doit-images/p/report; cat "$ASKED" > .doit-images/p/report/report.md; }
"""


def test_the_last_job_publishes_under_every_tag(tmp_path: Path) -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/images.yml").read_text())
    (step,) = [step for step in workflow["jobs"]["publish"]["steps"] if step.get("id") == "publish"]
    write(tmp_path, {"doitw": DOITW})
    given = dict.fromkeys(step["env"], "") | {"TAGS": "@sha v1.2.3", "KEY": "secret", "COMPOSE_FILE": ""}
    environ = {**os.environ, **given, "ASKED": str(tmp_path / "asked"), "RUNNER_TEMP": str(tmp_path)}
    argv = ["bash", "-euo", "pipefail", "-c", step["run"]]
    assert subprocess.run(argv, cwd=tmp_path, env=environ, check=False).returncode == 0
    assert (tmp_path / "asked").read_text() == "publish --registry  --tag @sha --tag v1.2.3\n"
    assert (tmp_path / "share.key").read_text() == "secret\n"


@pytest.mark.parametrize("place", [".github/workflows/images.yml", "action.yml", "GitLab"])
@pytest.mark.parametrize(
    ("image", "builds", "tests", "asked", "well"),
    [
        ("web", "base web", "a b", ["build:web", "test_image:a", "test_image:b"], True),
        ("web", "", "a", ["test_image:a"], True),
        ("web", "web", "a bad b", ["build:web", "test_image:a", "test_image:bad", "test_image:b"], False),
        ("bad", "bad", "a", ["build:bad"], False),
    ],
)
def test_a_job_builds_what_is_due_runs_every_test_and_fails_at_the_end(
    tmp_path: Path, place: str, image: str, builds: str, tests: str, asked: list[str], well: bool
) -> None:
    """And what it did is reported however it ended."""
    steps = steps_of(place)
    (step,) = [step for step in steps if step.get("id") == "images"]
    given = {"IMAGE": image, "BUILDS": builds, "TESTS": tests}
    assert given.keys() <= step["env"].keys()
    write(tmp_path, {"doitw": DOITW})
    told, summary = tmp_path / "asked", tmp_path / "summary"
    environ = {**os.environ, **given, "ASKED": str(told), "HIT": "true", "COMPOSE_FILE": ""}
    environ |= {"GITHUB_ACTION_PATH": str(tmp_path), "GITHUB_STEP_SUMMARY": str(summary)}

    def run(script: str) -> int:
        return subprocess.run(["bash", "-eo", "pipefail", "-c", script], cwd=tmp_path, env=environ).returncode

    assert (run(step["run"]) == 0) == well
    assert told.read_text().splitlines() == ["cache_init", *asked]
    if place.endswith("images.yml"):
        (report,) = [step for step in steps if step.get("name") == "report"]
        assert "!cancelled()" in report["if"]
        assert run(report["run"]) == 0
        assert asked[-1] in summary.read_text()
