"""The package in projects of others: taken in, lived with, brought to a newer version, taken out, and no trace left."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

import doit_images
from doit_images.cli import configuration
from doit_images.core.base import checked_json
from doit_images.core.base.errors import UserError
from doit_images.setup import init, lines
from tests.conftest import ROOT, docker
from tests.owners import own

UV = Path(sys.executable).with_name("uv")
NEWER = "0.999.0"


def ran(*argv: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """What a command that ends well writes."""
    done = subprocess.run(argv, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True)
    assert done.returncode == 0, f"{argv}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def indexed(*argv: str | Path, cwd: Path = ROOT, **environ: str) -> str:
    """The same of a command that may need an index of packages."""
    try:
        return ran(*argv, cwd=cwd, **environ)
    except AssertionError as error:
        if re.search(r"dns error|[Cc]onnect|[Tt]imed out", str(error)):
            pytest.skip(f"no index of packages can be reached: {str(error)[-200:]}")
        raise


def built(folder: Path, version: str = "") -> Path:
    """The wheel and the source archive of this tree, in a folder, with another version where one is given."""
    source = folder / "source"
    for name in ran(
        "git", "ls-files", "doit_images", "doitw", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE"
    ).split():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, source / name)
    if version:
        init = source / "doit_images/__init__.py"
        init.write_text(init.read_text().replace(doit_images.__version__, version))
    ran(UV, "build", "--no-build-isolation", "--python", sys.executable, "--out-dir", folder, source)
    return folder


@pytest.fixture(scope="session")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="session")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(tmp_path_factory.mktemp("newer"), NEWER)


def install(python: Path, dist: Path) -> None:
    indexed(UV, "pip", "install", "--quiet", "--reinstall-package", lines.NAME, "--python", python, *dist.glob("*.whl"))


@pytest.fixture(scope="session")
def venv(tmp_path_factory: pytest.TempPathFactory, dist: Path) -> Path:
    """The Python of an environment that holds the package, without extras, and nothing else."""
    folder = tmp_path_factory.mktemp("venv")
    ran(UV, "venv", "--quiet", "--clear", "--python", sys.executable, folder)
    install(folder / "bin/python", dist)
    return folder / "bin/python"


# ---- what is in the package


def test_the_archives_are_whole(dist: Path) -> None:
    (wheel,), (archive,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    indexed(UV, "tool", "run", "--quiet", "twine@7", "check", "--strict", wheel, archive)
    indexed(UV, "tool", "run", "--quiet", "check-wheel-contents@0.6.3", wheel)


def test_the_package_holds_its_data(venv: Path) -> None:
    here = Path(ran(venv, "-c", "import doit_images; print(doit_images.__file__)", cwd=Path("/")).strip()).parent
    assert here.is_relative_to(venv.parents[1])
    tracked = {Path(name).relative_to("doit_images") for name in ran("git", "ls-files", "doit_images").split()}
    installed = {path.relative_to(here) for path in here.rglob("*") if path.is_file() and path.suffix != ".pyc"}
    assert installed == tracked, "what is tracked below doit_images, and no other file"
    assert (here / "setup/doitw").read_text() == (ROOT / "doitw").read_text()


def names(image: str) -> list[str]:
    """The names in the engine that begin so."""
    listed = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    return sorted(name for name in listed if name.startswith(image))


def forget(image: str) -> None:
    for name in names(image):
        docker("image", "rm", "--force", name)


@pytest.fixture
def small(tmp_path: Path, engine: None) -> Iterator[Path]:
    """A project that has taken the package in, with one image."""
    image = own("home-")
    (tmp_path / "compose.yml").write_text(f"services: {{app: {{image: {image}, build: .}}}}\n")
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY Dockerfile /\n")
    (tmp_path / "dodo.py").write_text(lines.dodo(None, ""))
    yield tmp_path
    forget(image)


@pytest.mark.parametrize(
    ("words", "settings", "extra"),
    [
        ("deps_check", {}, "ci"),
        ("share_key laptop", {}, "share"),
        ("plan", {"CACHE_REGISTRY": "localhost:1", "SHARE_TRUST": "signed"}, "share"),
        ("build", {"CACHE_REGISTRY": "localhost:1", "SHARE_TRUST": "signed"}, "share"),
        ("build", {"REDIS_URL": "redis://localhost:1"}, "share"),
    ],
)
def test_a_task_without_its_extra(small: Path, venv: Path, words: str, settings: Mapping[str, str], extra: str) -> None:
    key = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="
    listed = f"[[builder]]\nname = 'a'\nkey = '{key}'\nfrom = 2020-01-01\nuntil = 2099-01-01\n"
    (small / "trusted-builders.toml").write_text(listed)
    argv = [venv.with_name("doit"), *words.split()]
    done = subprocess.run(argv, cwd=small, env={**os.environ, **settings}, capture_output=True, text=True)
    assert done.returncode, done.stdout
    assert f"pip install 'doit-images[{extra}]'" in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


# ---- the lines that a project gets, and loses

DODOS = (
    '"""Mine."""\n',
    "import os\n\n\ndef task_a():\n    return {'actions': ['x']}\n",
    "x = 1",
    "DOIT_CONFIG = {}\n\n\n",
    "a = 1\r\n",
)


@pytest.mark.parametrize("text", DODOS)
@pytest.mark.parametrize("prefix", ["", "docker_"])
def test_a_dodo_file_is_as_it_was(text: str, prefix: str) -> None:
    taken = lines.dodo(text, prefix)
    compile(taken, "dodo.py", "exec")
    assert lines.without_dodo(taken) == text
    assert lines.without_dodo(f"{taken}\n\nmore = 1\n") == f"{text}\n\nmore = 1\n"


def test_a_dodo_file_that_was_made_goes_but_for_what_was_added() -> None:
    made = lines.dodo(None, "docker_")
    assert len(made.splitlines()) <= 10
    assert lines.without_dodo(made) == ""
    assert lines.without_dodo(f"{made}\n\ndef task_x(): ...\n") == "\n\ndef task_x(): ...\n"
    assert lines.without_dodo("import doit_images as other\n") == "import doit_images as other\n"


@pytest.mark.parametrize("text", ["", "a==1\n", "a==1", "doit-images-more==1\n", "a==1\r\n"])
def test_a_requirement_goes_in_whatever_version(text: str) -> None:
    taken = lines.required(text, "doit-images==0.3.0")
    assert "doit-images==0.3.0" in taken.splitlines()
    assert lines.without_required(taken.replace("==0.3.0", "[share]>=0.4  # newer")) == text


@pytest.mark.parametrize(
    "text",
    [
        '[project]\nname = "a"\n',
        '[project]\nname = "a"',
        "[dependency-groups]\ndev = []\n",
        '[dependency-groups]\ndev = ["a", "b"]\n[tool.x]\ny = 1\n',
        '[dependency-groups]\ndev = [\n    "a",\n    "b"\n]\n',
        '[dependency-groups]  # mine\ndev = [  # these\n  "a",\n]\n',
        '[dependency-groups]\ntest = ["a"]\n\n[tool.x]\ndev = ["no"]\n',
        '[dependency-groups]\ntest = ["a"]\ndev = [{include-group = "test"}]\n',
    ],
)
def test_a_group_of_requirements_is_as_it_was(text: str) -> None:
    taken = lines.grouped(text, "doit-images>=0.3.0")
    assert "doit-images>=0.3.0" in tomllib.loads(taken)["dependency-groups"]["dev"]
    assert lines.without_grouped(taken.replace("0.3.0", "0.4")) == text


@pytest.mark.parametrize("text", ['dependency-groups = {dev = ["a"]}\n', '[dependency-groups]\n"dev" = ["a"]\n'])
def test_a_group_in_another_form_is_left(text: str) -> None:
    assert lines.grouped(text, "doit-images>=0.3.0") == text


@pytest.mark.parametrize("text", ["", "*.o\n", "*.o"])
def test_an_ignore_file_is_as_it_was(text: str) -> None:
    assert lines.without_ignored(lines.ignored(text, "__pycache__/")) == text


@pytest.mark.parametrize(
    ("argv", "theirs", "expected"),
    [
        (["doit"], {}, {"default_tasks": ["docs"], "backend": "ours"}),
        (["doit", "build"], {}, {"default_tasks": ["docs"], "backend": "ours", "num_process": 4}),
        (["doit", "docs"], {"dep_file": "x", "num_process": 2}, {"default_tasks": ["docs"], "num_process": 2}),
        (["doit"], {"default_tasks": ["x"]}, {"default_tasks": ["x"]}),
    ],
)
def test_the_configuration_of_a_project_counts(
    monkeypatch: pytest.MonkeyPatch, argv: list[str], theirs: dict[str, object], expected: dict[str, object]
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    state = {"backend": "ours", "dep_file": "ours", "codec_cls": "ours"}
    ours = {"default_tasks": ["build"], "num_process": 4, **state}
    assert configuration.merged(ours, theirs, ["docs"], ["build"]) == {**state, **expected}


# ---- where the lines are put


def texts(folder: Path, files: Mapping[str, str]) -> None:
    for name, text in {"compose.yml": "services: {}\n", **files}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "place"),
    [
        ({}, "sub/requirements-dev.txt"),
        ({"sub/requirements.txt": "a\n"}, "sub/requirements.txt"),
        ({"sub/requirements.txt": "a\n", "sub/requirements-dev.in": "b\n"}, "sub/requirements-dev.in"),
        ({"sub/requirements-dev.txt": "a==1 --hash=sha256:0\n"}, "sub/requirements-doit.txt"),
        ({"sub/requirements.txt": "\n"}, "sub/requirements-dev.txt"),
        ({"sub/pyproject.toml": "[tool.x]\n"}, "sub/requirements-dev.txt"),
        ({"sub/pyproject.toml": "[tool.x]\n", "sub/uv.lock": ""}, "sub/pyproject.toml"),
        ({"pyproject.toml": "[tool.x]\n", "uv.lock": "", "sub/pyproject.toml": ""}, "pyproject.toml"),
        ({"requirements-dev.txt": "a\n"}, "requirements-dev.txt"),
        ({"requirements-dev.txt": "a\nDoit_Images[all]\n"}, ""),
        ({"sub/doitw": (ROOT / "doitw").read_text()}, ""),
    ],
)
def test_where_the_requirement_goes(tmp_path: Path, files: Mapping[str, str], place: str) -> None:
    (tmp_path / ".git").mkdir()
    texts(tmp_path, {"sub/x": "", **files})
    changed = [change.path for change in init.planned(tmp_path / "sub", wrapper=False, prefix=None)]
    assert changed[0] == tmp_path / "sub/dodo.py"
    assert changed[1:] == ([tmp_path / place] if place else [])


@pytest.mark.parametrize(
    ("task", "prefix", "given"),
    [("docs", None, ""), ("docs", "x_", "x_"), ("up", None, "docker_"), ("docker_up", None, ""), ("x_up", "x_", None)],
)
def test_names_that_collide(tmp_path: Path, task: str, prefix: str | None, given: str | None) -> None:
    dodo = f"def task_{task}():\n    return {{'actions': ['x']}}\n"
    if task == "up":
        dodo += "def task_other():\n    yield {'basename': 'docs', 'actions': ['x']}\n"
    texts(tmp_path, {"dodo.py": dodo})
    program = "import sys; from pathlib import Path; from doit_images.setup import init; "
    program += f"print(*(one.after for one in init.planned(Path(), wrapper=False, prefix={prefix!r})))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    if given is None:
        assert "the task x_up is there already (--prefix gives ours other names)" in done.stderr
        return
    arguments = f"prefix='{given}', beside=globals()" if given else "beside=globals()"
    assert f"_images.tasks({arguments})" in done.stdout, done.stderr


def test_a_folder_without_a_compose_file_is_told_where_there_is_one(tmp_path: Path) -> None:
    texts(tmp_path / "a", {"b/docker-compose.yaml": ""})
    with pytest.raises(UserError, match=r"there is a/b/docker-compose.yaml, a/compose.yml: run it in such a folder"):
        init.init(tmp_path, wrapper=False, prefix=None, dry_run=True)


def test_a_prefix_is_one_of_names(tmp_path: Path) -> None:
    texts(tmp_path, {})
    with pytest.raises(UserError, match=r"'x-' is not a valid prefix \(lower-case letters"):
        init.init(tmp_path, wrapper=False, prefix="x-", dry_run=True)


# ---- the wrapper


def test_another_doitw_is_left(tmp_path: Path) -> None:
    texts(tmp_path, {"doitw": "#!/bin/sh\necho mine\n"})
    with pytest.raises(UserError, match="there is another doitw already"):
        list(init.planned(tmp_path, wrapper=True, prefix=None))


def test_a_wrapper_installs_the_package_beside_what_is_the_projects_own(
    small: Path, venv: Path, dist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_FIND_LINKS", str(dist))
    ran("git", "init", "--quiet", cwd=small)
    said = ran(venv, "-m", "doit_images", "init", "--wrapper", cwd=small)
    assert "`./doitw build` builds what is stale" in said
    assert "nothing to write" in ran(venv, "-m", "doit_images", "init", "--wrapper", cwd=small)
    ours, theirs = (ROOT / "doitw").read_text().splitlines(), (small / "doitw").read_text().splitlines()
    differ = [line for line, other in zip(ours, theirs, strict=True) if line != other]
    assert all(re.search(r"requirements\.txt|\.venv|--require-hashes|build_optimized", line) for line in differ)
    assert "never built here" in indexed(small / "doitw", "plan", cwd=small)
    assert not (small / ".venv").exists()
    assert ran("git", "status", "--porcelain", "--untracked-files=all", cwd=small).split()[1::2] == [
        ".gitignore", "Dockerfile", "compose.yml", "dodo.py", "doitw", "requirements-doitw.txt",
    ]  # fmt: skip
    ran(venv, "-m", "doit_images", "remove", "--yes", cwd=small)
    assert sorted(path.name for path in small.iterdir()) == [".git", "Dockerfile", "compose.yml"]


# ---- what is ours on this machine


def test_what_others_need_and_what_are_data_stay(
    small: Path, venv: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    state, other = (tmp_path_factory.mktemp(name) for name in ("state", "other"))
    builder = own("builder-")
    shutil.copytree(small, other, dirs_exist_ok=True)
    for folder in (small, other):
        ran(venv, "-m", "doit", "build", cwd=folder, XDG_STATE_HOME=str(state))
    (small / ".doit-images/backups").mkdir()
    (small / ".doit-images/backups/data").touch()
    ran("docker", "buildx", "create", "--name", builder)
    try:
        checked_json.remember(small / ".doit-images/builder.json", {"name": builder, "ours": True})
        said = ran(venv, "-m", "doit_images", "remove", "--yes", cwd=small, XDG_STATE_HOME=str(state))
        assert f"the builder {builder} with its cache: goes" in said
        assert builder not in ran("docker", "buildx", "ls")
    finally:
        subprocess.run(["docker", "buildx", "rm", builder], capture_output=True)
    assert ":in-" not in said, "the other checkout needs it"
    assert sorted(path.name for path in small.rglob("*")) == [
        ".doit-images", ".gitignore", "Dockerfile", "backups", "compose.yml", "data",
    ]  # fmt: skip
    said = ran(venv, "-m", "doit_images", "remove", "--yes", cwd=other, XDG_STATE_HOME=str(state))
    assert ":in-" in said
    assert not list(state.iterdir())
    assert "nothing of doit-images" in ran(venv, "-m", "doit_images", "remove", cwd=other.parent)


# ---- four projects of others


@dataclass(frozen=True)
class Foreign:
    """A project of others: its files, the folders in it that have a Compose file, what our names begin with there, the
    file that a change is made to, and what mypy is run for. (Of two files ``dodo.py`` in folders that are no packages
    it says that they are one module, whatever is in them.)"""

    files: Mapping[str, str]
    folders: tuple[str, ...] = (".",)
    prefix: str = ""
    edited: str = "app/text"
    typed: str = "."
    uv: bool = False


COMPOSE = "services:\n  app:\n    image: IMAGE\n    build: app\n"
APP = {"app/Dockerfile": "FROM scratch\nCOPY text /\n", "app/text": "1\n"}
STRICT = "[tool.ruff.lint]\nselect = ['E', 'F', 'W', 'I', 'D', 'UP', 'B', 'RUF', 'PL', 'N', 'S1']\n"
STRICT += "[tool.mypy]\nstrict = true\n"
TEST = '"""Tests."""\n\n\ndef test_one() -> None:\n    """One."""\n    raise ValueError\n'
SCRIPT = '"""A script."""\n\nprint(1)\n'
PROJECTS = {
    "own dodo.py and tasks/": Foreign(
        {
            "compose.yaml": COMPOSE,
            **APP,
            "dodo.py": '"""Mine."""\n\nfrom tasks.docs import task_docs\n\n'
            'DOIT_CONFIG = {"dep_file": "mine.db", "verbosity": 2}\n\n\n'
            'def task_build() -> dict[str, list[str]]:\n    """Mine."""\n    return {"actions": ["echo mine"]}\n\n\n'
            '__all__ = ["DOIT_CONFIG", "task_build", "task_docs"]\n',
            "tasks/__init__.py": '"""Mine."""\n',
            "tasks/docs.py": '"""Mine."""\n\n\ndef task_docs() -> dict[str, list[str]]:\n    """Docs."""\n'
            '    return {"actions": ["echo docs"]}\n',
            "tasks.txt": "",
            "requirements.txt": "doit\n",
            "pyproject.toml": STRICT,
            "tests/test_it.py": TEST,
            ".gitignore": "*.pyc\nmine.db*\n.mypy_cache\n",
        },
        prefix="docker_",
    ),
    "uv": Foreign(
        {
            "compose.yml": COMPOSE,
            **APP,
            "src/shop/__init__.py": '"""A shop."""\n',
            "src/shop/py.typed": "",
            "tasks.py": '"""Of invoke."""\n',
            "tests/test_it.py": TEST,
            "pyproject.toml": '[project]\nname = "shop"\nversion = "1"\nrequires-python = ">=3.11"\n\n'
            f'[dependency-groups]\ndev = [\n    "iniconfig>=2",\n]\n\n{STRICT}',
            ".gitignore": ".venv\n__pycache__\n.mypy_cache\n",
        },
        uv=True,
    ),
    "Makefile": Foreign(
        {
            "docker-compose.yml": COMPOSE,
            **APP,
            "Makefile": "build:\n\tcc main.c\n",
            "main.c": "int main() {}\n",
            "scripts/release.py": SCRIPT,
        }
    ),
    "two Compose files": Foreign(
        {
            **{f"api/{name}": text for name, text in {"compose.yml": COMPOSE, **APP}.items()},
            **{f"web/{name}": text.replace("app:", "web:") for name, text in {"compose.yaml": COMPOSE, **APP}.items()},
            "requirements-dev.txt": "pytest\n",
            "tools/check.py": SCRIPT,
        },
        folders=("api", "web"),
        edited="web/app/text",
        typed="tools",
    ),
}  # fmt: skip


class Home:
    """A project of others in a git repository, with the Python that it uses."""

    def __init__(self, root: Path, project: Foreign, python: Path) -> None:
        self.root, self.project, self.python = root, project, python
        self.image = own("home-")
        self.environ = {"XDG_STATE_HOME": str(root.with_name(f"{root.name}-state")), "NO_COLOR": "1"}
        for name, text in project.files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text.replace("IMAGE", f"{self.image}-{name.partition('/')[0].strip('.').lower()}"))
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def git(self, *words: str) -> str:
        who = ("-c", "user.name=n", "-c", "user.email=e@example.org", "-c", "core.excludesFile=")
        return ran("git", *who, *words, cwd=self.root)

    def commit(self, *names: str) -> None:
        self.git("add", *(names or ["--all"]))
        self.git("commit", "--quiet", "--message=x")

    def run(self, *words: str, folder: str = ".") -> str:
        """A run of the package, as an own process: with the locks of this machine, but the state of this test."""
        return ran(self.python, "-m", *words, cwd=self.root / folder, **self.environ)

    def doit(self, task: str, *words: str, folder: str = ".") -> str:
        return self.run("doit", f"{self.project.prefix}{task}", *words, folder=folder)

    def actions(self) -> set[str]:
        """What would be done about all images."""
        plans = [json.loads(self.doit("plan", "--json", folder=folder)) for folder in self.project.folders]
        return {image["action"] for plan in plans for image in plan["images"]}

    def build(self) -> None:
        for folder in self.project.folders:
            self.doit("build", folder=folder)

    def sync(self, dist: Path | None = None) -> None:
        """Let the environment have what the project asks for; the newest of the package that is in this folder."""
        found = {"UV_FIND_LINKS": str(dist)} if dist else {}
        if self.project.uv:
            indexed(UV, "sync", "--quiet", "--upgrade-package", lines.NAME, cwd=self.root, **found)
            self.python = self.root / ".venv/bin/python"
        elif dist:
            install(self.python, dist)

    def judged(self) -> list[str]:
        """What the project's own tools say of it, without how many files they saw."""
        said = []
        for argv in (
            ["ruff", "check", "."],
            ["ruff", "format", "--check", "."],
            ["mypy", "--python-executable", str(self.python), self.project.typed],
            ["pytest", "--collect-only", "--quiet", "-p", "no:cacheprovider"],
        ):
            tool = Path(sys.executable).with_name(argv[0])
            done = subprocess.run([tool, *argv[1:]], cwd=self.root, capture_output=True, text=True)
            said.append(f"{done.returncode} {re.sub(r'[0-9.]+(s| (source )?files?)', '', done.stdout + done.stderr)}")
        return said

    def added(self) -> int:
        """How many lines were added to the project."""
        self.git("add", "--intent-to-add", "--all")
        numbers = [line.split("\t") for line in self.git("diff", "--numstat").splitlines()]
        assert all(gone == "0" for _, gone, _ in numbers)
        self.git("reset", "--quiet")
        return sum(int(came) for came, _, _ in numbers)


@pytest.fixture(params=PROJECTS)
def home(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    engine: None,
    venv: Path,
    dist: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Home]:
    for name in ("PYTHONDONTWRITEBYTECODE", "COMPOSE_FILE", "VIRTUAL_ENV"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("UV_FIND_LINKS", str(dist))
    project = PROJECTS[request.param]
    root = tmp_path / "project"
    root.mkdir()
    home = Home(root, project, venv)
    install(venv, dist)
    if project.uv:
        indexed(UV, "sync", "--quiet", cwd=root)
        home.commit()
    yield home
    forget(home.image)


def written(venv: Path) -> dict[str, tuple[int, int]]:
    """The files of the package that is installed, but for what Python compiles."""
    (package,) = venv.parents[1].glob("lib/*/site-packages/doit_images")
    stats = {path: path.stat() for path in package.rglob("*") if path.is_file()}
    return {str(path): (stat.st_mtime_ns, stat.st_size) for path, stat in stats.items() if path.suffix != ".pyc"}


def test_a_project_takes_it_in_and_out(home: Home, newer: Path) -> None:
    before = home.judged()
    folders = home.project.folders
    for folder in folders:
        said = home.run("doit_images", "init", "--dry-run", folder=folder)
        assert "dodo.py" in said
    assert not home.git("status", "--porcelain")
    for folder in folders:
        assert "never built here" in home.run("doit_images", "init", folder=folder)
    added = home.added()
    print(f"{added} lines are added")
    assert added <= 40
    diff = home.git("status", "--porcelain") + home.git("diff")
    for folder in folders:
        assert "nothing to write" in home.run("doit_images", "init", folder=folder)
    assert home.git("status", "--porcelain") + home.git("diff") == diff, "the second time nothing"
    assert home.judged() == before
    home.sync()
    package = written(home.python)
    lived_with(home)
    assert written(home.python) == package, "nothing is written into the package"
    home.sync(newer)
    assert home.run("doit_images", "--version").strip() == NEWER
    assert home.actions() == {"fresh"}
    assert any(":in-" in name for name in names(home.image))
    removed(home)


def lived_with(home: Home) -> None:
    """An edit, a branch, the way back, and the project's own tasks."""
    home.build()
    assert home.actions() == {"fresh"}
    home.git("switch", "--quiet", "--create", "feature")
    (home.root / home.project.edited).write_text("2\n")
    assert "build" in home.actions()
    home.build()
    home.commit(home.project.edited)
    home.git("switch", "--quiet", "main")
    assert "build" not in home.actions()
    assert "retag" in home.actions()
    home.build()
    assert home.actions() == {"fresh"}
    if home.project.prefix:
        assert home.run("doit").split() == ["docs", "mine"], "its own tasks are those that run by default"


def removed(home: Home) -> None:
    for folder in home.project.folders:
        changed = home.git("status", "--porcelain")
        assert ":in-" in home.run("doit_images", "remove", "--dry-run", folder=folder)
        assert home.git("status", "--porcelain") == changed
        home.run("doit_images", "remove", "--yes", folder=folder)
        assert home.git("status", "--porcelain") != changed
    if home.project.uv:
        indexed(UV, "lock", "--quiet", cwd=home.root)
    assert not home.git("status", "--porcelain"), home.git("diff")
    assert not list(home.root.rglob(".doit-images"))
    assert not list(Path(home.environ["XDG_STATE_HOME"]).glob("*"))
    assert names(home.image), "what is built stays"
    assert not [name for name in names(home.image) if ":in-" in name]
