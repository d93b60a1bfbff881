"""A patch that changes more than a Dockerfile: an ignore file, the Compose file and a Dockerfile that is new."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.advise import rules
from doit_images.advise.patch import Patch, difference
from doit_images.advise.proof import Verdict
from doit_images.advise.proposals import Mode, Proposals
from doit_images.advise.rules import ProjectRule
from doit_images.advise.whole import Whole
from doit_images.core.base import commands
from doit_images.core.run import Run
from tests.conftest import Lab

COMPOSE = """\
services:
  one: {image: PREFIX/one, build: {context: ., dockerfile: one.Dockerfile}}
  two: {image: PREFIX/two, build: .}
"""
AFTER = """\
services:
  base: {image: PREFIX/base, build: {context: ., dockerfile: base.Dockerfile}}
  one:
    image: PREFIX/one
    build: {context: ., dockerfile: one.Dockerfile, additional_contexts: {base: "service:base"}}
  two: {image: PREFIX/two, build: .}
"""
FILES = {
    "compose.yml": COMPOSE,
    "one.Dockerfile": "FROM tst-busybox:1\nRUN touch /base\nCOPY . /app\n",
    "Dockerfile": "FROM tst-busybox:1\nCOPY . /app\n",
    ".dockerignore": "*Dockerfile\ncompose.yml\n.dockerignore",
    "cache/a": "1\n",
    "main": "1\n",
}


@pytest.mark.parametrize(
    ("before", "after"),
    [("a\nb", "a\nc"), ("a\nb", "a\nb\n"), ("a\n", "a"), (None, "a\nb\n"), ("", "a\n"), (None, "a")],
)
def test_git_applies_what_becomes_of_any_file(tmp_path: Path, before: str | None, after: str) -> None:
    if before is not None:
        (tmp_path / "a b").write_text(before)
    done = commands.run(["git", "apply", "-"], cwd=tmp_path, stdin=difference(before, after, "a b").encode())
    assert (done.status, (tmp_path / "a b").read_text()) == (0, after), done.stderr


@pytest.mark.engine
@pytest.mark.parametrize("base", ["touch /base", "touch /other", "exit 3"])
def test_all_its_files_count_for_the_proof(lab: Lab, busybox: str, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    lab.write(FILES)
    (lab.folder / "two").write_text("")
    new = {"base.Dockerfile": f"FROM tst-busybox:1\nRUN {base}\n", "compose.yml": AFTER}
    new[".dockerignore"] = f"{FILES['.dockerignore']}\ncache\n"
    texts = {lab.folder / name: text.replace("PREFIX", lab.prefix) for name, text in new.items()}

    def patches(whole: Whole) -> Iterator[tuple[list[str], Patch]]:
        text = "FROM base\nCOPY . /app\n"
        if whole.images["one"].dockerfile_text != text:
            yield ["one"], Patch("several", 1, "why", text, {"/app/cache": "a cache"}, texts)

    monkeypatch.setattr(rules, "PROJECT_RULES", (ProjectRule("several", patches),))
    monkeypatch.setattr(rules, "NAMES", {"several"})
    run = Run((lab.folder / "compose.yml",), {**os.environ}, lab.folder)
    (found,) = Proposals(run, Mode.PROVE).of([], ["several"])
    assert found.changes.keys() == {"one.Dockerfile", *new}
    assert found.changes["base.Dockerfile"][0] is None
    assert found.read == {}
    assert {name: each.verdict for name, each in found.proofs.items()} == {
        "one": {"touch /base": Verdict.SAME_BUT, "touch /other": Verdict.DIFFERS}.get(base, Verdict.FAILS),
        "two": Verdict.SAME_BUT,
    }, "also the other image that has this ignore file"
    assert found.proofs["two"].removed == {"app/cache": "a cache", "app/cache/a": "a cache"}
    assert not (lab.folder / "base.Dockerfile").exists()
    assert [line for line in lab.images() if ":building" in line] == []


@pytest.mark.engine
def test_an_image_that_copies_what_is_changed_is_named(lab: Lab, busybox: str) -> None:
    lab.write({"compose.yml": "services: {web: {image: PREFIX/web, build: .}}\n", "requirements.txt": "x\n"})
    lab.write({"Dockerfile": "FROM tst-busybox:1\nWORKDIR /app\nCOPY . .\nRUN pip install -r requirements.txt\n"})
    done = lab.doit("advise", "locks-first", "--patch", "--json")
    assert json.loads(done.stdout)["patches"][0]["read"] == {"web": ["Dockerfile"]}
    told = lab.doit("advise", "locks-first", "--patch")
    assert "web: copies Dockerfile itself, which the proof left as it was" in told.stdout.splitlines()
    assert f"page: {lab.folder}/.doit-images/compose.yml/advise.html" in told.stderr.splitlines()
