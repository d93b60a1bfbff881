"""Contexts and sources that BuildKit clones: served by git's own daemon on loopback, judged by what is in the image."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import loopback
from tests.conftest import Lab
from tests.share.test_sent_again import contents

pytestmark = pytest.mark.engine


class Git:
    """A repository with a work tree in ``folder/repo``, which ``url`` serves."""

    def __init__(self, folder: Path, port: int) -> None:
        self.work = folder / "repo"
        self.work.mkdir(parents=True)
        self.url = f"git://127.0.0.1:{port}/repo/.git"
        self.run("init", "--quiet", "--initial-branch=one")
        self.run("config", "uploadpack.allowAnySHA1InWant", "true")

    def run(self, *words: str) -> str:
        name = ["-c", "user.name=t", "-c", "user.email=t@t"]
        done = subprocess.run(["git", *name, *words], cwd=self.work, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def commit(self, text: str, dockerfile: str = "FROM scratch\nCOPY f /\n") -> str:
        """A commit of a Dockerfile and of ``f`` with this text."""
        (self.work / "Dockerfile").write_text(dockerfile)
        (self.work / "f").write_text(text)
        self.run("add", ".")
        self.run("commit", "--quiet", "-m", text)
        return self.run("rev-parse", "HEAD")


@pytest.fixture
def git(lab: Lab) -> Iterator[Git]:
    port = loopback.free_port()
    one = Git(lab.folder / "git", port)
    argv = ["git", "daemon", "--listen=127.0.0.1", f"--port={port}", "--export-all", "--reuseaddr"]
    with loopback.running([*argv, f"--base-path={lab.folder / 'git'}"], port, lab.folder / "git.log"):
        yield one


def declare(lab: Lab, build: str, more: str = "") -> None:
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n  app: {{image: PREFIX/app, build: {build}}}\n{more}"})


def test_a_remote_context_at_another_ref(lab: Lab, git: Git) -> None:
    """Nothing but its URL says what is built."""
    commit = git.commit(f"one {lab.prefix}")
    git.run("switch", "--quiet", "-c", "two")
    git.commit(f"two {lab.prefix}")
    declare(lab, f"'{git.url}#one'")
    lab.build()
    assert contents(lab, "app")["f"][1] == f"one {lab.prefix}"
    declare(lab, f"'{git.url}#two'")
    assert lab.actions() == {"app": "build"}
    assert lab.build() == {"app": "built"}
    assert contents(lab, "app")["f"][1] == f"two {lab.prefix}"
    declare(lab, f"'{git.url}#{commit}'")
    assert lab.build() == {"app": "built"}
    assert contents(lab, "app")["f"][1] == f"one {lab.prefix}"
    # What no file can tell: the branch moved. Everything anew takes what it holds now.
    declare(lab, f"'{git.url}#two'")
    git.commit(f"three {lab.prefix}")
    assert lab.build() == {"app": "retagged"}
    assert lab.doit("rebuild_optimized").returncode == 0
    assert contents(lab, "app")["f"][1] == f"three {lab.prefix}"


def test_a_repository_that_add_names_by_a_variable(lab: Lab, git: Git) -> None:
    lab.write({"ctx/Dockerfile": "FROM scratch\nARG WHERE\nADD $WHERE /src\n", ".env": "REF=one\n"})
    declare(lab, f"{{context: ctx, args: {{WHERE: '{git.url}#${{REF}}'}}}}")
    for ref in ("one", "two"):
        if ref == "two":
            git.run("switch", "--quiet", "-c", "two")
        git.commit(f"{ref} {lab.prefix}")
        lab.write({".env": f"REF={ref}\n"})
        assert lab.build() == {"app": "built"}
        assert contents(lab, "app")["src/f"][1] == f"{ref} {lab.prefix}"


def test_a_folder_that_a_remote_dockerfile_reads(lab: Lab, git: Git) -> None:
    """What its Dockerfile reads of a named context only a build can see, so all of it counts."""
    commit = git.commit("f", "FROM scratch\nCOPY --from=more g /\n")
    lab.write({"more/g": "one PREFIX", "more/hidden": "1", "more/.dockerignore": "hidden"})
    declare(lab, f"{{context: '{git.url}#{commit}', additional_contexts: {{more: more}}}}")
    lab.build()
    lab.write({"more/hidden": "2"})
    assert lab.actions() == {"app": "fresh"}
    lab.write({"more/g": "another PREFIX"})
    assert lab.plan()["app"]["reasons"] == ["`more/g` changed"]
    assert lab.build() == {"app": "built"}
    assert contents(lab, "app")["g"][1] == f"another {lab.prefix}"


def test_an_image_that_a_remote_dockerfile_builds_on(lab: Lab, git: Git) -> None:
    commit = git.commit("f", "FROM base\nCOPY f /\n")
    lab.write({"base/Dockerfile": "FROM scratch\nCOPY g /\n", "base/g": "one PREFIX"})
    base = "  base: {image: PREFIX/base, build: base, scale: 0}\n"
    declare(lab, f"{{context: '{git.url}#{commit}', additional_contexts: {{base: 'service:base'}}}}", base)
    assert lab.plan()["app"]["parents"] == ["base"]
    lab.build()
    assert contents(lab, "app")["g"][1] == f"one {lab.prefix}"
    lab.write({"base/g": "another PREFIX"})
    assert lab.build() == {"base": "built", "app": "built"}
    assert contents(lab, "app")["g"][1] == f"another {lab.prefix}"


def test_a_dockerfile_of_ours_for_a_remote_context(lab: Lab, git: Git) -> None:
    commit = git.commit(f"f {lab.prefix}")
    for number in ("1", "2"):
        inline = f"FROM scratch\\nCOPY f /{lab.prefix}/{number}\\n"
        declare(lab, f"{{context: '{git.url}#{commit}', dockerfile_inline: \"{inline}\"}}")
        assert lab.build() == {"app": "built"}
        assert f"{lab.prefix}/{number}" in contents(lab, "app")
    for number in ("3", "4"):
        lab.write({"own/Dockerfile": f"FROM scratch\nCOPY f /{lab.prefix}/{number}\n"})
        declare(lab, f"{{context: '{git.url}#{commit}', dockerfile: '{lab.folder}/own/Dockerfile'}}")
        assert lab.build() == {"app": "built"}
        assert f"{lab.prefix}/{number}" in contents(lab, "app")


def test_what_an_image_of_a_remote_context_hands_on(lab: Lab, git: Git) -> None:
    """The variables that it sets and its ONBUILD instructions are known once it is there."""
    commit = git.commit("f", "FROM scratch\nENV PART=two\nONBUILD COPY by-onbuild /\n")
    child = '  kid: {image: PREFIX/kid, build: {context: kid, additional_contexts: {base: "service:app"}}}\n'
    declare(lab, f"'{git.url}#{commit}'", child)
    lab.write({"kid/Dockerfile": "FROM base\nCOPY ${PART}.txt /\n", "kid/.txt": "1", "kid/spare": "1"})
    lab.write({"kid/two.txt": "one PREFIX", "kid/by-onbuild": "one PREFIX"})
    lab.build()
    assert lab.actions() == {"app": "fresh", "kid": "fresh"}
    for name in ("two.txt", "by-onbuild"):
        lab.write({f"kid/{name}": "another PREFIX"})
        assert lab.build() == {"kid": "built"}
        assert contents(lab, "kid")[name][1] == f"another {lab.prefix}"
    lab.write({"kid/.txt": "2", "kid/spare": "2"})
    assert lab.actions() == {"app": "fresh", "kid": "fresh"}
