"""Rebuild exactly what changed, on the real engine: every way in which an image can stop being what its inputs say."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from doit_images.core.compose import made_env
from doit_images.core.run import Run
from doit_images.pruning import disk_usage
from tests import loopback
from tests.conftest import ROOT, Lab, docker, file_in, no_build_ends_before, printed
from tests.waiting import patience, until

pytestmark = pytest.mark.engine

FAMILY = {
    "compose.yml": """
        name: PREFIX
        services:
          base: {image: PREFIX/base, build: {context: base}, scale: 0}
          app:
            image: PREFIX/app
            build: {context: app, additional_contexts: {base: "service:base"}}
          other: {image: PREFIX/other, build: {context: other}}
        """,
    "base/Dockerfile": "FROM scratch\nCOPY base.txt /\n",
    "base/base.txt": "base of PREFIX\n",
    "base/unused.txt": "nobody copies this\n",
    "app/Dockerfile": "FROM base\nCOPY app.txt /\n",
    "app/app.txt": "app of PREFIX\n",
    "other/Dockerfile": "FROM scratch\nCOPY other.txt /\n",
    "other/other.txt": "other of PREFIX\n",
}
FRESH = {"base": "fresh", "app": "fresh", "other": "fresh"}


class Family(Lab):
    """The family, which can be had again as it was built, without a build."""

    def actions(self, **environ: str) -> dict[str, str]:
        """Asked of what `doit plan` asks, without a doit."""
        decisions = Run((self.folder / "compose.yml",), self.env(**environ)).planner.decisions()
        return {name: decision.action.value for name, decision in decisions.items()}

    def held(self) -> set[str]:
        """What the engine holds under each name."""
        form = "{{.Repository}}:{{.Tag}} {{.ID}}"
        return set(
            docker("image", "ls", "--format", form, "--filter", f"reference={self.prefix}/*").stdout.splitlines()
        )

    def keep(self) -> None:
        self._held, self._kept = self.held(), self.folder.parent / "kept"
        shutil.copytree(self.folder, self._kept, symlinks=True)
        done = docker("save", "--output", f"{self._kept}.tar", *self.images())
        assert done.returncode == 0, done.stderr

    def again(self) -> None:
        shutil.rmtree(self.folder)
        shutil.copytree(self._kept, self.folder, symlinks=True)
        if self.held() != self._held:
            self.close()
            docker("load", "--input", f"{self._kept}.tar")
            assert self.held() == self._held


@pytest.fixture(scope="module")
def built(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Family]:
    one = Family(tmp_path_factory.mktemp("family") / "project")
    one.write(FAMILY)
    assert one.build() == dict.fromkeys(FRESH, "built")
    assert one.actions() == FRESH
    one.keep()
    yield one
    one.close()


@pytest.fixture
def family(built: Family) -> Family:
    """All is fresh, whatever the test before did."""
    built.again()
    return built


def test_nothing_changed_builds_nothing(family: Family) -> None:
    before = {name: family.image_id(family.ref(name)) for name in FRESH}
    done = family.doit()
    assert done.returncode == 0
    assert done.stderr.strip() == "3 images fresh"
    assert done.stdout == ""
    assert {name: family.image_id(family.ref(name)) for name in FRESH} == before


def test_a_file_of_one_image_builds_that_image(family: Family) -> None:
    family.write({"other/other.txt": "changed\n"})
    plan = family.plan()
    assert {name: one["action"] for name, one in plan.items()} == {**FRESH, "other": "build"}
    assert plan["other"]["reasons"] == ["`other/other.txt` changed"]
    assert family.build() == {"other": "built"}
    assert family.actions() == FRESH


def test_a_file_of_a_parent_builds_it_and_its_children(family: Family) -> None:
    family.write({"base/base.txt": "changed\n"})
    plan = family.plan()
    assert {name: one["action"] for name, one in plan.items()} == {"base": "build", "app": "build", "other": "fresh"}
    assert plan["app"]["reasons"] == ["`base` is made again"]
    assert family.build() == {"base": "built", "app": "built"}
    assert family.actions() == FRESH


def test_what_no_dockerfile_reads_changes_nothing(family: Family) -> None:
    family.write({"base/unused.txt": "changed\n", "base/more.txt": "new\n"})
    assert family.actions() == FRESH
    assert family.build() == {}


def test_a_part_is_built_with_what_it_needs_and_nothing_else(family: Family) -> None:
    for name in FRESH:
        family.write({f"{name}/{name}.txt": "changed\n"})
    assert family.doit("build_base").returncode == 0
    assert family.actions() == {"base": "fresh", "app": "build", "other": "build"}
    family.write({"base/base.txt": "changed again\n"})
    assert family.doit("build_app_optimized").returncode == 0
    assert family.actions() == {"base": "fresh", "app": "fresh", "other": "build"}


def test_a_removed_image_is_built_again(family: Family) -> None:
    names = [name for name in family.images() if "/other:" in name]
    docker("image", "rm", "--force", *names)
    plan = family.plan()
    assert {name: one["action"] for name, one in plan.items()} == {**FRESH, "other": "build"}
    assert plan["other"]["reasons"] == ["image was removed"]
    assert family.build() == {"other": "built"}


def test_a_name_that_points_elsewhere_is_put_right_without_a_build(family: Family) -> None:
    right = family.image_id(family.ref("other"))
    docker("tag", family.ref("app"), family.ref("other"))
    plan = family.plan()
    assert plan["other"]["action"] == "retag"
    assert plan["other"]["reasons"] == [f"tag `{family.ref('other').removesuffix(':latest')}` points elsewhere"]
    assert family.build() == {"other": "retagged"}
    assert family.image_id(family.ref("other")) == right


def test_a_lost_build_folder_changes_nothing(family: Family) -> None:
    shutil.rmtree(family.folder / ".doit-images")
    assert family.actions() == FRESH
    assert family.build() == {}
    assert (family.folder / ".doit-images/compose.yml/images/app.json").exists()


def test_a_lost_doit_database_changes_nothing(family: Family) -> None:
    (family.folder / ".doit-images/compose.yml/doit.sqlite3").unlink()
    assert family.actions() == FRESH
    assert family.build() == {}


def test_a_clone_with_fresh_times_changes_nothing(family: Family) -> None:
    for path in family.folder.rglob("*"):
        if ".doit-images" not in path.parts:
            os.utime(path)
    shutil.rmtree(family.folder / ".doit-images")
    assert family.actions() == FRESH


def test_back_to_an_earlier_state_needs_no_build(family: Family) -> None:
    family.write({"base/base.txt": "a branch\n", "app/app.txt": "a branch\n"})
    assert family.build() == {"base": "built", "app": "built"}
    family.write(FAMILY)
    assert family.actions() == {"base": "retag", "app": "retag", "other": "fresh"}
    assert family.build() == {"base": "retagged", "app": "retagged"}
    family.write({"base/base.txt": "a branch\n", "app/app.txt": "a branch\n"})
    assert family.build() == {"base": "retagged", "app": "retagged"}


def test_a_parent_that_comes_out_the_same_leaves_its_children(family: Family) -> None:
    family.write({"base/Dockerfile": "# only a comment\nFROM scratch\nCOPY base.txt /\n"})
    ended = family.build()
    assert ended["base"] == "built"
    assert ended.get("app") == "retagged"
    assert family.actions() == FRESH


def test_a_removed_parent_that_comes_out_the_same_leaves_its_children(family: Family) -> None:
    app = family.image_id(family.ref("app"))
    docker("image", "rm", "--force", *[name for name in family.images() if "/base:" in name])
    assert family.actions()["base"] == "build"
    assert family.build() == {"base": "built"}
    assert family.image_id(family.ref("app")) == app
    assert family.actions() == FRESH


def test_a_parent_with_other_content_under_the_same_fingerprint_builds_its_children(
    family: Family, busybox: str
) -> None:
    family.write({"base/Dockerfile": f"FROM {busybox}\nCOPY base.txt /\nRUN cat /proc/sys/kernel/random/uuid >/id\n"})
    assert family.build() == {"base": "built", "app": "built"}
    argv = ["docker", "buildx", "build", "--no-cache", "--quiet", str(family.folder / "base")]
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", family.ref("base")).stdout)
    tags = [name for name in family.images() if "/base:" in name]
    for name, value in labels.items():
        argv += ["--label", f"{name}={value}"]
    for tag in tags:
        argv += ["--tag", tag]
    subprocess.run(argv, check=True, capture_output=True)
    assert family.actions() == {"base": "fresh", "app": "build", "other": "fresh"}
    assert family.build() == {"app": "built"}
    assert family.actions() == FRESH


def test_an_edit_during_the_build_does_not_pass_for_built(family: Family) -> None:
    """One before an image's turn is simply built."""
    family.write({"base/base.txt": "before, in PREFIX\n"})
    gate, log = family.folder.parent / "gate", family.folder / ".doit-images/compose.yml/logs/base.log"
    log.unlink()
    family.clock = no_build_ends_before(gate)
    run = family.start("build_optimized")
    family.clock = ""
    until(lambda: log.exists() and "COPY base.txt" in log.read_text())
    family.write({"base/base.txt": "after, in PREFIX\n", "app/app.txt": "edited while its parent was built\n"})
    gate.touch()
    output, _ = run.communicate()
    assert run.returncode == 0, output
    assert "base: `base/base.txt` changed while it was built, building again (1 of 2)" in output
    assert output.count("building again") == 1
    assert file_in(family.ref("base"), "/base.txt", family.folder.parent) == f"after, in {family.prefix}\n"
    assert family.actions() == FRESH


def test_a_broken_image_holds_up_only_what_needs_it(family: Family) -> None:
    family.write({"other/other.txt": "changed\n"})
    (family.folder / "base/base.txt").unlink()
    plan = family.plan()
    assert {name: one["action"] for name, one in plan.items()} == {"base": "broken", "app": "broken", "other": "build"}
    assert plan["base"]["reasons"][0].startswith("base/Dockerfile:2: ")
    assert plan["app"]["reasons"] == ["needs `base`, which is broken"]
    assert family.doit("plan").returncode == 1
    done = family.doit("run", "-c", "build_optimized")
    assert done.returncode != 0
    assert "base/Dockerfile:2: " in done.stderr
    assert "app: `base` failed" in done.stderr
    assert family.actions()["other"] == "fresh"


def test_a_failing_step_says_where_and_what_was_held_up(family: Family, busybox: str) -> None:
    family.write({"base/Dockerfile": f"FROM {busybox}\nCOPY base.txt /\nRUN echo this went wrong && exit 7\n"})
    family.write({"other/other.txt": "changed\n"})
    done = family.doit("run", "-c", "build_optimized")
    assert done.returncode != 0
    for word in ("base", "RUN echo this went wrong", "7", "this went wrong", "logs/base.log", "app: `base` failed"):
        assert word in done.stderr
    assert "Traceback" not in done.stderr
    assert family.actions() == {"base": "build", "app": "build", "other": "fresh"}


def test_two_runs_at_once_both_end_well(family: Family, busybox: str) -> None:
    family.write({"base/Dockerfile": f"FROM {busybox}\nCOPY base.txt /\nRUN sleep 1\n"})
    runs = [family.start("build_optimized") for _ in range(2)]
    for run in runs:
        output, _ = run.communicate()
        assert run.returncode == 0, output
    assert family.actions() == FRESH


@pytest.mark.parametrize(
    "number", [*(pytest.param(one, marks=pytest.mark.all) for one in (signal.SIGINT, signal.SIGTERM)), signal.SIGKILL]
)
def test_killed_at_any_time_the_next_run_is_right(family: Family, busybox: str, number: signal.Signals) -> None:
    slow = f"FROM {busybox}\nCOPY base.txt /\nRUN : {number}; sleep 100\n"
    family.write({"base/Dockerfile": slow, "other/Dockerfile": slow.replace("base.txt", "other.txt")})
    run = family.start("build_optimized")
    log = family.folder / ".doit-images/compose.yml/logs/base.log"
    until(lambda: run.poll() is not None or (log.exists() and "sleep" in log.read_text()))
    run.send_signal(number)
    output, _ = run.communicate(timeout=patience())
    assert run.returncode == (-number if number == signal.SIGKILL else 128 + number), output
    assert "Traceback" not in output
    if number != signal.SIGKILL:
        assert _commands_in(family.folder) == []
    assert family.actions()["base"] == "build"
    family.write({**FAMILY, "base/base.txt": "after it\n"})
    assert family.build() == {"base": "built", "app": "built"}
    assert family.actions() == FRESH


def test_an_image_that_is_referred_to_by_its_name_is_a_parent(family: Family) -> None:
    family.write({"app/Dockerfile": "FROM scratch\nCOPY --from=PREFIX/base /base.txt /\nCOPY app.txt /\n"})
    family.write({"compose.yml": FAMILY["compose.yml"].replace(', additional_contexts: {base: "service:base"}', "")})
    assert family.plan()["app"]["parents"] == ["base"]
    assert family.build() == {"app": "built"}
    family.write({"base/base.txt": "changed\n"})
    assert family.build() == {"base": "built", "app": "built"}


def test_services_that_share_an_image_build_it_once(lab: Lab) -> None:
    same = "{image: PREFIX/app, build: {context: app}}"
    lab.write(FAMILY | {"compose.yml": f"name: PREFIX\nservices: {{web: {same}, worker: {same}, cron: {same}}}\n"})
    lab.write({"app/Dockerfile": "FROM scratch\nCOPY app.txt /\n"})
    plan = lab.plan()
    assert [one["action"] for one in plan.values()] == ["build"] * 3
    assert plan["worker"]["reasons"] == ["the same image as `cron`"]
    assert lab.build() == {"cron": "built"}
    assert set(lab.actions().values()) == {"fresh"}
    lab.write({"app/app.txt": "changed\n"})
    shown = json.loads(lab.doit("plan", "--json", "worker").stdout)
    assert [one["name"] for one in shown["images"]] == ["cron", "worker"]
    seconds = {one["name"]: one["estimated_seconds"] for one in shown["images"]}
    assert seconds["worker"] == 0
    assert shown["estimated_wall_seconds"] == seconds["cron"] > 0
    again = lab.doit("rebuild_optimized")
    assert again.returncode == 0, again.stderr
    assert [line.split()[1] for line in again.stderr.splitlines() if line.startswith("built ")] == ["cron"]
    assert set(lab.actions().values()) == {"fresh"}


def test_services_that_share_a_tag_build_it_once(lab: Lab) -> None:
    one, two = (f"{{image: PREFIX/{name}, build: {{context: app, tags: [PREFIX/shared]}}}}" for name in ("one", "two"))
    lab.write(FAMILY | {"compose.yml": f"name: PREFIX\nservices: {{one: {one}, two: {two}}}\n"})
    lab.write({"app/Dockerfile": "FROM scratch\nCOPY app.txt /\n"})
    assert lab.build() == {"one": "built", "two": "retagged"}
    assert lab.image_id(lab.ref("one")) == lab.image_id(lab.ref("two")) == lab.image_id(lab.ref("shared"))
    again = lab.doit("rebuild_optimized")
    assert again.returncode == 0, again.stderr
    assert lab.image_id(lab.ref("one")) == lab.image_id(lab.ref("two")) == lab.image_id(lab.ref("shared"))
    assert set(lab.actions().values()) == {"fresh"}


def test_images_may_share_a_repository(lab: Lab) -> None:
    """Side by side, each under a temporary name of its own."""
    names = ["one", "two", "three"]
    services = "".join(f'  {name}: {{image: "PREFIX/app:{name}", build: {{context: {name}}}}}\n' for name in names)
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n{services}"})
    for name in names:
        lab.write({f"{name}/Dockerfile": "FROM scratch\nCOPY f /\n", f"{name}/f": f"{name} of PREFIX\n"})
    assert lab.build() == dict.fromkeys(names, "built")
    assert lab.actions() == dict.fromkeys(names, "fresh")
    assert not [name for name in lab.images() if ":building-" in name]


def test_what_a_killed_build_left_is_not_taken(family: Family) -> None:
    """It was labelled when it began: whether its inputs moved meanwhile nobody looked."""
    right = family.image_id(family.ref("other"))
    docker("tag", right, f"{family.prefix}/other:building-0123")
    docker("image", "rm", *[name for name in family.images() if "/other:" in name and ":building-" not in name])
    assert family.actions() == {**FRESH, "other": "build"}


def test_what_was_made_from_ours_is_neither_taken_nor_pruned(family: Family) -> None:
    """It inherits all labels, as `docker commit` and `FROM` leave them, whatever it is called."""
    in_progress, numbered = (f"{family.prefix}/other:in-{name}" for name in ("progress", "0" * 16))
    container = docker("create", family.ref("other"), "none").stdout.strip()
    docker("cp", str(family.folder / "compose.yml"), f"{container}:/evil")
    for name in (in_progress, numbered):
        assert docker("commit", container, name).returncode == 0
    docker("rm", "--volumes", container)
    assert family.actions() == FRESH
    docker(
        "image", "rm", *[name for name in family.images() if "/other:" in name and name not in (in_progress, numbered)]
    )
    planned = family.plan()["other"]
    assert planned["action"] == "build"
    assert "does not count" in planned["reasons"][0]
    run = Run((family.folder / "compose.yml",), family.env())
    assert not {in_progress, numbered}.intersection(ref for item in disk_usage.images(run, 0.0) for ref in item.refs)


def test_what_a_pinned_base_reads_by_onbuild_counts(family: Family) -> None:
    """A digest says what the base is, but not to us: only when the engine holds it its ONBUILD is known."""
    with loopback.registry(family.folder.parent / "registry") as service:
        ref = f"{service.address}/{family.prefix}:1"
        dockerfile = b"FROM scratch\nCOPY base.txt /\nONBUILD COPY other.txt /by-onbuild\n"
        folder = str(family.folder / "base")
        assert (
            docker("buildx", "build", "--quiet", "--tag", ref, "--file", "-", folder, stdin=dockerfile).returncode == 0
        )
        assert docker("push", ref).returncode == 0
        pinned = docker("image", "inspect", "--format", "{{index .RepoDigests 0}}", ref).stdout.strip()
        docker("image", "rm", "--force", family.image_id(ref))
        family.write({"other/Dockerfile": f"FROM {pinned}\n"})
        try:
            assert family.build() == {"other": "built"}
            assert family.actions() == FRESH
            family.write({"other/other.txt": "changed\n"})
            assert family.plan()["other"]["reasons"] == ["`other/other.txt` changed"]
        finally:
            docker("image", "rm", "--force", pinned)


def test_a_whole_project_is_copied_without_our_own_folder_and_the_env_file_that_we_made(lab: Lab, busybox: str) -> None:
    lab.write({"compose.yml": "name: PREFIX\nservices: {all: {image: PREFIX/all, build: .}}\n"})
    lab.write({"Dockerfile": f"FROM {busybox}\nCOPY . /all/\n", ".dockerignore": "*.md\n", "notes.md": "", "f": ""})
    assert lab.build() == {"all": "built"}
    lab.write({".env": f"PASSWORD={'a0' * 32}\n"})
    made_env.note(lab.folder / ".env", lab.folder / ".doit-images")
    assert lab.actions() == {"all": "fresh"}
    lab.write({"g": ""})
    assert lab.build() == {"all": "built"}
    listed = printed(lab.ref("all"), "ls", "-A", "/all").split()
    assert sorted(listed) == [".dockerignore", "Dockerfile", "compose.yml", "f", "g"]
    lab.write({".env": "PASSWORD=theirs\n"})
    assert lab.actions() == {"all": "broken"}, "it is not the one that was made"


@pytest.mark.parametrize("junk", [b'{"a": 1}', b"[]", b"\xff garbage", b""])
def test_state_that_is_damaged_changes_nothing(family: Family, junk: bytes) -> None:
    own = family.folder / ".doit-images/compose.yml"
    damaged = [own / name for name in ("reads.json", "project.json", "images/app.json", "doit.sqlite3")]
    for path in (*damaged, *(family.folder / ".doit-images" / name for name in ("facts.json", "contexts.sqlite3"))):
        assert path.is_file()
        path.write_bytes(junk)
    assert family.actions() == FRESH
    assert family.build() == {}


def test_every_tag_must_be_there(family: Family) -> None:
    family.write(
        {"compose.yml": FAMILY["compose.yml"].replace("{context: other}", "{context: other, tags: [PREFIX/other:2]}")}
    )
    family.build()
    docker("image", "rm", f"{family.prefix}/other:2")
    plan = family.plan()
    assert (plan["other"]["action"], plan["other"]["reasons"]) == (
        "retag",
        [f"tag `{family.prefix}/other:2` is missing"],
    )
    assert family.build() == {"other": "retagged"}


def test_an_external_base_that_moved_builds_what_is_on_it(family: Family) -> None:
    family.write({"other/Dockerfile": "FROM PREFIX/outside:1\nCOPY other.txt /\n"})
    docker("import", "-", f"{family.prefix}/outside:1", stdin=_tar(family.folder / "base"))
    family.build()
    assert family.actions() == FRESH
    docker("import", "-", f"{family.prefix}/outside:1", stdin=_tar(family.folder / "app"))
    plan = family.plan()
    assert plan["other"]["action"] == "build"
    assert plan["other"]["reasons"][0].startswith(f"`{family.prefix}/outside:1` moved sha256:")
    assert family.build() == {"other": "built"}


def test_doit_info_tells_the_same_reason(family: Family) -> None:
    family.write({"other/other.txt": "changed\n"})
    assert "`other/other.txt` changed" in family.doit("info", "build_optimized:other").stdout


def test_the_bake_definition_builds_the_same_images(family: Family) -> None:
    content = {name: _content(family.ref(name)) for name in FRESH}
    printed = family.doit("plan", "--bake").stdout
    docker("image", "rm", "--force", *family.images())
    path = family.folder / "docker-bake.json"
    path.write_text(printed)
    argv = ["docker", "buildx", "bake", "--file", str(path)]
    done = subprocess.run(argv, cwd=family.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {name: _content(family.ref(name)) for name in FRESH} == content


def test_inputs_are_listed(family: Family) -> None:
    assert family.doit("plan", "app", "--inputs").stdout.split() == ["app/Dockerfile", "app/app.txt"]


def test_it_writes_only_into_a_folder_that_ignores_itself(family: Family) -> None:
    names = {path.name for path in family.folder.iterdir()}
    assert names == {".doit-images", "compose.yml", "base", "app", "other"}
    assert (family.folder / ".doit-images/.gitignore").read_text() == "*\n"


def _commands_in(folder: Path) -> list[str]:
    """The command lines of all processes that name this folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(folder) in line and "buildx" in line:
            found.append(line)
    return found


def _tar(folder: Path) -> bytes:
    return subprocess.run(["tar", "-C", str(folder), "-c", "."], check=True, capture_output=True).stdout


def _content(ref: str) -> list[str]:
    layers: list[str] = json.loads(docker("image", "inspect", "--format", "{{json .RootFS.Layers}}", ref).stdout)
    return layers


def test_each_image_leaves_no_file_open(lab: Lab) -> None:
    """Else a thousand images are more than a process may have."""
    count = 20
    services = "".join(
        f"  s{number}: {{image: PREFIX/s{number}, build: {{context: ., dockerfile_inline: "
        f'"FROM scratch\\nCOPY f /{number}\\n"}}}}\n'
        for number in range(count)
    )
    lab.write({"compose.yml": f"name: PREFIX\nservices:\n{services}", "f": "PREFIX"})
    done = subprocess.run(
        lab.argv("-n", "2", "build_optimized"),
        cwd=ROOT,
        env=lab.env(),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (34, 4096)),  # buildx asks for more by itself
    )
    assert done.returncode == 0, done.stderr
    assert len([line for line in done.stderr.splitlines() if line.startswith("built ")]) == count
