"""The rule of the ignore file, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from doit_images.advise import ignore_file
from doit_images.advise.patch import Patch
from tests.advise import examples
from tests.advise.test_proof import advised
from tests.ci.test_release import git
from tests.conftest import Lab

COMPOSE = "services: {web: {image: x/web, build: .}}\n"
TEXT = "FROM base\nWORKDIR /app\nCOPY . .\n"
HELD = {"main.py": "1\n", ".git/HEAD": "1\n", "a/b/__pycache__/c.pyc": "1\n", "a/b/c.py": "1\n"}


def proposed(folder: Path, files: dict[str, str]) -> list[tuple[list[str], Patch]]:
    whole = examples.whole(folder, {"compose.yml": COMPOSE, "Dockerfile": TEXT} | files)
    return [([*names], patch) for names, patch in ignore_file.patches(whole)]


def test_what_no_image_needs_is_hidden_and_said_to_be_gone(tmp_path: Path) -> None:
    names, patch = proposed(tmp_path, HELD)[0]
    assert (names, patch.line, patch.text) == (["web"], 3, TEXT)
    assert patch.others == {
        tmp_path / ".dockerignore": ".git\n**/__pycache__\nDockerfile\ncompose.yml\n.dockerignore\n"
    }
    assert patch.removes == {
        "/app/.git": "git's own",
        "/app/a/b/__pycache__": "a cache that is made again",
        "/app/Dockerfile": "a Dockerfile",
        "/app/compose.yml": "a Compose file",
    }


@pytest.mark.parametrize(
    ("ignore", "files", "after"),
    [
        (".dockerignore", {".dockerignore": "# ours\ndist"}, "# ours\ndist\n.git\n.dockerignore\n"),
        (".dockerignore", {".dockerignore": "*\r\n!.git\r\n!main.py\r\n"}, "*\r\n!.git\r\n!main.py\r\n.git\r\n"),
        (
            "Dockerfile.dockerignore",
            {".dockerignore": "x\n", "Dockerfile.dockerignore": ".docker*\n"},
            ".docker*\n.git\n",
        ),
    ],
)
def test_the_file_that_buildkit_reads_is_added_to(
    tmp_path: Path, ignore: str, files: dict[str, str], after: str
) -> None:
    more = {"Dockerfile": "FROM base\nCOPY . /app/\nRUN rm -f Dockerfile compose.yml\n"}
    (_, patch), *_ = proposed(tmp_path, {"main.py": "1\n", ".git/HEAD": "1\n"} | files | more)
    names = ["Dockerfile", "compose.yml", "Dockerfile.dockerignore"]
    end = "\r\n" if "\r" in after else "\n"
    (text,) = patch.others.values()
    assert {tmp_path / ignore} == patch.others.keys()
    assert "".join(line for line in text.splitlines(keepends=True) if line.rstrip() not in names) == after
    assert text.count(end) == text.count("\n")


ONLY = {"compose.yml": "name: x\nservices: {web: {image: x/web, build: app}}\n", "Dockerfile": "", "app/main.py": "1\n"}


@pytest.mark.parametrize(
    ("dockerfile", "files"),
    [
        (TEXT, {}),
        ("FROM base\nCOPY main.py /app/\n", {".git/HEAD": "1\n"}),
        (f"{TEXT}RUN git describe > /version\n", {".git/HEAD": "1\n"}),
        (f"{TEXT}COPY .github/x /x\n", {".github/x": "1\n"}),
        (f"{TEXT}COPY .gitmodule* /x/\n", {".gitmodules": "1\n"}),
        (f"{TEXT}RUN npm run build\n", {"node_modules/a/b.js": "1\n"}),
        ("FROM base\nWORKDIR /app\nRUN npm ci\nCOPY . .\n", {"node_modules/a/b.js": "1\n"}),
        (f"{TEXT}FROM base\nRUN npm ci\nCOPY --from=0 /app /app\n", {"node_modules/a/b.js": "1\n"}),
        ("FROM base\nCOPY sub /app\n", {"sub/a.py": "1\n", ".vscode/x": "1\n"}),
        (TEXT, {"dist/a.js": "1\n", "docs/README.md": "1\n", ".env.example": "1\n", "x.pyc": "1\n"}),
    ],
)
def test_what_may_be_needed_or_is_not_copied_stays(tmp_path: Path, dockerfile: str, files: dict[str, str]) -> None:
    own = {"app/Dockerfile": dockerfile, "app/.dockerignore": ".dockerignore\nDockerfile\n"}
    assert proposed(tmp_path, {**ONLY, **own, **{f"app/{name}": text for name, text in files.items()}}) == []


@pytest.mark.parametrize(
    ("more", "hidden"),
    [
        ({"app/pyproject.toml": "[project]\nname = 'x'\n", "app/.github/x": "see README.md\n"}, True),
        ({"app/pyproject.toml": "[project]\nreadme = 'README.md'\n"}, False),
        ({"app/pyproject.toml": "[project]\ndynamic = ['readme']\n"}, False),
        ({"app/site.py": "Path('.').glob('*.md')\n"}, False),
        ({"app/big": "x" * (1 << 20) + "y"}, False),
        ({"app/Dockerfile": f"{TEXT}RUN cat README.md\n"}, False),
        ({"app/Dockerfile": f"{TEXT}COPY README.md /\n"}, False),
    ],
)
def test_what_is_for_people_is_hidden_where_nothing_means_it(
    tmp_path: Path, more: dict[str, str], hidden: bool
) -> None:
    own = {"app/Dockerfile": TEXT, "app/.dockerignore": ".dockerignore\nDockerfile\n", "app/README.md": "1\n"}
    found = proposed(tmp_path, {**ONLY, **own, **more})
    assert any("README.md\n" in text for _, patch in found for text in patch.others.values()) == hidden


def test_modules_that_are_installed_anew_are_hidden_and_have_to_stay_the_same(tmp_path: Path) -> None:
    own = {"app/Dockerfile": f"{TEXT}RUN npm ci\n", "app/.dockerignore": ".dockerignore\nDockerfile\n"}
    ((_, patch),) = proposed(tmp_path, {**ONLY, **own, "app/node_modules/a/b.js": "1\n"})
    assert [*patch.others.values()] == [".dockerignore\nDockerfile\nnode_modules\n"]
    assert patch.removes == {}


def test_what_another_image_of_the_same_file_needs_stays(tmp_path: Path) -> None:
    services = "{web: {image: x/web, build: .}, ci: {image: x/ci, build: {context: ., dockerfile: ci.Dockerfile}}}"
    more = {"compose.yml": f"services: {services}\n", "ci.Dockerfile": "FROM base\nCOPY .github/a /\n"}
    (names, patch), *_ = proposed(tmp_path, {".github/a": "1\n", ".vscode/a": "1\n", "main.py": "1\n"} | more)
    assert names == ["web", "ci"]
    assert {".github", ".vscode"}.intersection("".join(patch.others.values()).split()) == {".vscode"}


@pytest.mark.engine
def test_it_is_proved_for_each_image_and_what_a_build_needs_all_the_same_is_found_out(lab: Lab, busybox: str) -> None:
    lab.write(
        {
            "compose.yml": "services: {one: {image: PREFIX/one, build: .}, two: {image: PREFIX/two, build: {context: .,"
            " dockerfile: two.Dockerfile}}}\n",
            "Dockerfile": "FROM tst-busybox:1\nWORKDIR /app\nCOPY . .\nRUN cat .editorconfig > /used\n",
            "two.Dockerfile": "FROM tst-busybox:1\nCOPY . /two/\n",
            ".editorconfig": "1\n",
            "main.py": "1\n",
        }
    )
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        git(lab.folder, *words)
    (lab.folder / "main.py").write_text("2\n")
    git(lab.folder, "commit", "--quiet", "--all", "--message", "second")
    found = advised(lab, "ignore-file", "--apply")
    verdicts = [[each["proofs"][name]["verdict"] for name in ("one", "two")] for each in found]
    assert verdicts[0] == ["fails", "same but for"], "all at once"
    good = [each for each in found if each["proofs"]["one"]["verdict"] == "same but for"]
    assert (lab.folder / ".dockerignore").read_text() == good[-1]["files"][".dockerignore"]
    assert set((lab.folder / ".dockerignore").read_text().split()) == {
        ".dockerignore", ".git", "Dockerfile", "two.Dockerfile", "compose.yml",
    }  # fmt: skip
    assert "two/.git/HEAD" in good[0]["proofs"]["two"]["removed"]
    assert git(lab.folder, "status", "--porcelain") == "?? .dockerignore"
