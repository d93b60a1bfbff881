"""The commands about caches, on a second engine: pruning keeps what is needed, used or foreign; carrying is checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from doit_images.ci import cache_records
from doit_images.core.base import checked_json, lock
from doit_images.core.base.errors import UserError
from doit_images.core.base.timestamps import DAY
from doit_images.core.building import context
from doit_images.core.engine.client import CacheRecord, Engine, LocalImage
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.core.history.store import Build, StepRecord
from doit_images.core.planning.reasons import DUE, NO_CACHE
from doit_images.pruning import cache_prune, disk_usage, repairs
from doit_images.pruning.cache_prune import prune_argv
from doit_images.pruning.prune import ANY_AGE, Item, ItemKind, choose
from doit_images.share import cache_mounts
from doit_images.ui import cache_view
from tests import loopback
from tests.conftest import Lab, no_build_ends_before
from tests.waiting import patience

FILES = {
    "compose.yml": """
        services:
          base:
            image: PREFIX/base
            build: {context: ., dockerfile: base.Dockerfile}
          app:
            image: PREFIX/app
            build:
              context: .
              dockerfile: app.Dockerfile
              additional_contexts: {base: "service:base"}
        """,
    "base.Dockerfile": "FROM tst-busybox:1\nCOPY base.txt /PREFIX\n",
    "base.txt": "base of PREFIX\n",
    "app.Dockerfile": "FROM base\nCOPY app.py /\n",
    "app.py": "0",
}


@pytest.fixture(scope="module")
def second(busybox: str) -> Iterator[TemporaryEngine]:
    try:
        with temporary_engine("cch-prune-", in_memory=True) as engine:
            engine.load(busybox)
            yield engine
    except UserError as trouble:
        pytest.skip(str(trouble))


@pytest.fixture
def project(second: TemporaryEngine, tmp_path: Path) -> Lab:
    one = Lab(tmp_path / "project")
    one.environ = {"DOCKER_HOST": second.address, "DOCKER_CONTEXT": ""}
    one.write(FILES)
    return one


def docker(project: Lab, *words: str) -> str:
    done = subprocess.run(["docker", *words], env=project.env(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def version(project: Lab, number: int) -> str:
    return f"{random.Random(number).randbytes(100_000).hex()} {project.prefix} {number}"


def history_of(project: Lab, count: int) -> list[str]:
    """Build so many versions of app, of 200 kB each, one after the other; the name that each of them keeps."""
    kept: list[str] = []
    for number in range(count):
        (project.folder / "app.py").write_text(version(project, number))
        assert "app" in project.build()
        kept += sorted(tag for tag in tags_of(project) if "/app:in-" in tag and tag not in kept)
    assert len(kept) == count
    return kept


def tags_of(project: Lab) -> set[str]:
    listed = docker(project, "image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    return {tag for tag in listed.split() if tag.startswith(project.prefix)}


@pytest.mark.engine
def test_prune_keeps_what_is_needed_used_and_foreign_and_dry_run_says_exactly_what_goes(project: Lab) -> None:
    used, named, *gone, _ = history_of(project, 4)
    docker(project, "create", "--name", f"{project.prefix}-uses", used, "sh")
    docker(project, "tag", named, f"{project.prefix}-mine:1")
    docker(project, "tag", "tst-busybox:1", f"{project.prefix}/app:in-foreign")
    before = tags_of(project)
    # Nothing is old or too much.
    assert "nothing to prune" in project.doit("cache_prune", "--dry-run").stdout
    dry = json.loads(project.doit("cache_prune", "--dry-run", "--all", "--json").stdout)
    assert tags_of(project) == before
    planned = {name for one in dry["gone"] if one["kind"] == "image" for name in one["name"].split()}
    assert planned == set(gone)
    # It asks, and nobody is here to answer.
    refused = project.doit("cache_prune", "--all")
    assert refused.returncode != 0
    assert "there is no terminal to ask on (pass --yes)" in refused.stderr
    assert tags_of(project) == before
    done = project.doit("cache_prune", "--all", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    really = json.loads(done.stdout)
    assert {one["name"] for one in really["gone"]} == {one["name"] for one in dry["gone"]}
    assert really["freed_bytes"] == dry["freed_bytes"] > 200_000
    assert tags_of(project) == before - set(gone)
    assert Engine(project.environ["DOCKER_HOST"]).build_cache() == ()
    assert project.actions() == {"base": "fresh", "app": "fresh"}
    docker(project, "rm", "--volumes", f"{project.prefix}-uses")


@pytest.mark.engine
def test_the_size_bound_holds_for_all_together(project: Lab) -> None:
    history_of(project, 3)
    done = project.doit("cache_prune", "--yes", CACHE_MAX_SIZE="300KB")
    assert done.returncode == 0, done.stderr
    after = json.loads(project.doit("cache_stats", "--json", CACHE_MAX_SIZE="300KB").stdout)
    assert 0 <= after["reclaimable_bytes"] <= 300_000
    assert after["over_bytes"] == 0
    assert project.actions() == {"base": "fresh", "app": "fresh"}


@pytest.mark.engine
def test_never_during_a_build_of_any_checkout(project: Lab, tmp_path: Path) -> None:
    history_of(project, 2)
    other = Lab(tmp_path / "other")
    other.environ, other.prefix = project.environ, f"{project.prefix}-other"
    other.write(FILES)
    gate = tmp_path / "gate"
    other.clock = no_build_ends_before(gate)
    building = other.start("-n", "1", "build_optimized")
    assert building.stdout is not None
    for line in building.stdout:
        if line.startswith("building base"):
            break
    before = tags_of(project)
    assert project.doit("cache_prune", "--all", "--dry-run").returncode == 0
    pruning = project.start("cache_prune", "--all", "--yes")
    assert pruning.stdout is not None
    said = ""
    for line in pruning.stdout:
        said += line
        if line.startswith("waiting for builds to end that use what is there"):
            break
    assert building.poll() is None, said
    assert tags_of(project) >= before, "nothing goes while it waits"
    gate.touch()
    assert building.wait(patience()) == 0
    said += pruning.communicate(timeout=patience())[0]
    assert pruning.returncode == 0, said
    other.clock = ""
    assert other.actions() == project.actions() == {"base": "fresh", "app": "fresh"}
    assert len([tag for tag in tags_of(project) if tag.startswith(f"{project.prefix}/app:in-")]) == 1


@pytest.mark.engine
def test_what_became_needed_or_used_between_the_question_and_the_answer_stays(project: Lab) -> None:
    used, wanted, goes, _ = history_of(project, 4)
    with lock.shared(lock.of_engine(project.environ["DOCKER_HOST"], "builds"), lambda: None):
        pruning = project.start("cache_prune", "--all", "--yes")
        assert pruning.stdout is not None
        said = ""
        for line in pruning.stdout:
            said += line
            if line.startswith("waiting for builds"):
                break
        assert all(tag in said for tag in (used, wanted, goes))
        docker(project, "create", "--name", f"{project.prefix}-uses", used, "sh")
        (project.folder / "app.py").write_text(version(project, 1))
    said += pruning.communicate(timeout=patience())[0]
    assert pruning.returncode == 0, said
    assert tags_of(project) >= {used, wanted}
    assert goes not in tags_of(project)
    assert f"{wanted} stays" in said
    assert project.actions() == {"base": "fresh", "app": "retag"}
    docker(project, "rm", "--volumes", f"{project.prefix}-uses")


@pytest.mark.engine
def test_what_another_checkout_needs_is_needed_until_that_is_gone(project: Lab, tmp_path: Path) -> None:
    other = Lab(tmp_path / "other")
    other.environ, other.prefix = project.environ, project.prefix
    other.write(FILES)
    (other.folder / "app.py").write_text("of the other")
    other.build()
    project.build()
    assert other.actions() == {"base": "fresh", "app": "retag"}, "both give their images the same names"
    assert project.doit("cache_prune", "--all", "--yes").returncode == 0
    assert other.actions() == {"base": "fresh", "app": "retag"}
    assert project.actions() == {"base": "fresh", "app": "fresh"}
    shutil.rmtree(other.folder)
    before = tags_of(project)
    done = project.doit("cache_prune", "--all", "--yes")
    assert len(before - tags_of(project)) == 1, done.stderr


@pytest.mark.engine
def test_a_name_that_a_killed_build_left_goes_when_it_is_old_whatever_its_image_says(project: Lab) -> None:
    project.environ = {**project.environ, "SOURCE_DATE_EPOCH": "1000000000"}
    history_of(project, 2)
    current = project.ref("app")
    before, now = tags_of(project), int(time.time())
    old_version = next(
        tag
        for tag in before
        if "/app:in-" in tag
        and docker(project, "image", "inspect", "-f", "{{.Id}}", tag)
        != docker(project, "image", "inspect", "-f", "{{.Id}}", current)
    )
    young = [
        f"{project.prefix}/app:building-{now}-0123456789ab",
        f"localhost:0/{project.prefix}/app:parent-{now}-0123456789ab",
    ]
    docker(project, "tag", old_version, young[0])
    docker(project, "image", "rm", old_version)
    docker(project, "tag", current, young[1])
    old = [one.replace(str(now), str(now - 100_000)) for one in young]
    for name in old:
        docker(project, "tag", current, name)
    every = ("image", "ls", "--format", "{{.Repository}}:{{.Tag}}")
    done = project.doit("cache_prune", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    there = Engine(project.environ["DOCKER_HOST"])
    ours = [ref for ref in there.snapshot().by_name if project.prefix in ref]
    for repair in repairs.names(there, ours):  # as `doctor --fix` does: a name takes no space
        repair.do()
    left = {tag for tag in docker(project, *every).split() if project.prefix in tag}
    assert left == before - {old_version} | {*young}
    docker(project, "image", "rm", *young)


@pytest.mark.engine
def test_links_to_contexts_go_when_no_build_can_be_using_them(project: Lab) -> None:
    project.build()
    links = project.folder / ".doit-images/contexts"
    [used] = links.iterdir()
    (links / "old").symlink_to(project.folder)
    two_days_ago = time.time() - 2 * 86400
    for path in links.iterdir():
        os.utime(path, (two_days_ago, two_days_ago), follow_symlinks=False)
    (links / "young").symlink_to(project.folder)
    (project.folder / "app.py").write_text("1")
    assert project.build() == {"app": "built"}, "which uses a link anew"
    dry = json.loads(project.doit("cache_prune", "--dry-run", "--all", "--json").stdout)
    assert [one["name"] for one in dry["gone"] if "contexts/" in one["name"]] == ["contexts/old, a link for builds"]
    assert project.doit("cache_prune", "--all", "--yes").returncode == 0
    assert {path.name for path in links.iterdir()} == {used.name, "young"}
    assert (project.folder / "app.py").exists()


def test_a_link_that_a_build_has_taken_up_meanwhile_stays(tmp_path: Path) -> None:
    """A build with another engine does not wait for pruning."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    assert not context.remove_unused(link)
    assert link.is_symlink()
    os.utime(link, (time.time() - 2 * 86400,) * 2, follow_symlinks=False)
    assert context.remove_unused(link)
    assert not link.is_symlink()
    assert context.remove_unused(link), "it is gone, whoever removed it"


@pytest.mark.engine
def test_the_folder_of_a_project_goes_with_its_compose_file_or_when_nobody_uses_it(project: Lab) -> None:
    project.build()
    gone, unused = project.folder / ".doit-images/gone.yml", project.folder / ".doit-images/unused.yml"
    for one in (gone, unused):
        shutil.copy(project.folder / "compose.yml", project.folder / one.name)
        assert project.doit("plan", COMPOSE_FILE=str(project.folder / one.name)).returncode == 0
    assert project.doit("cache_prune", "--all", "--yes").returncode == 0
    assert gone.is_dir()
    assert unused.is_dir()
    (project.folder / "gone.yml").unlink()
    week_ago = time.time() - 8 * 86400
    for path in (*unused.rglob("*"), unused):
        os.utime(path, (week_ago, week_ago))
    done = project.doit("cache_prune", "--yes", CACHE_MAX_SIZE="0")
    assert "unused.yml, a project of this folder" in done.stderr
    assert not gone.exists()
    assert not unused.exists()
    assert (project.folder / ".doit-images/compose.yml").is_dir()


@pytest.mark.engine
def test_a_project_carried_in_a_folder_is_not_built_again(
    project: Lab, second: TemporaryEngine, tmp_path: Path
) -> None:
    nothing = project.doit("cache_export", str(tmp_path / "out"))
    assert nothing.returncode != 0
    assert "nothing to export" in nothing.stderr
    project.build()
    with (project.folder / "base.Dockerfile").open("a") as file:
        file.write("# of which BuildKit makes the same\n")
    assert project.build() == {"base": "built", "app": "retagged"}, "app keeps the label that it was built with"
    done = project.doit("cache_export", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    assert "wrote 2 images" in done.stderr
    out, foreign = tmp_path / "out", tmp_path / "foreign.tar"
    index = json.loads((out / "export.json").read_text())
    docker(project, "save", "--output", str(foreign), *(image["ref"] for image in index["images"]), "tst-busybox:1")
    for tag in tags_of(project):
        docker(project, "image", "rm", "--force", tag)
    assert project.actions() == {"base": "build", "app": "build"}
    # Damaged, missing, foreign: one sentence each, and nothing is taken.
    whole = (out / "images.tar").read_bytes()
    (out / "images.tar").write_bytes(whole[:-1] + b"x")
    damaged = project.doit("cache_import", str(out))
    assert "images.tar is not what was exported" in damaged.stderr
    (out / "images.tar").unlink()
    assert "images.tar is missing" in project.doit("cache_import", str(out)).stderr
    assert "there is no export.json" in project.doit("cache_import", str(tmp_path)).stderr
    (out / "images.tar").write_bytes(whole)
    (out / "export.json").write_text(
        json.dumps({**index, "files": {**index["files"], "../x": {"size": 1, "sha256": "0"}}})
    )
    assert "../x is missing" in project.doit("cache_import", str(out)).stderr
    (out / "export.json").write_text(json.dumps({**index, "platform": "linux/s390x"}))
    assert "exported on linux/s390x" in project.doit("cache_import", str(out)).stderr
    assert tags_of(project) == set()
    (out / "export.json").write_text(json.dumps(index))
    # Nothing comes from elsewhere, nothing that nobody listed, and nothing of the base's name.
    (out / "cache").mkdir()
    (out / "cache" / "unlisted").touch()
    assert "cache/unlisted is not in the list" in project.doit("cache_import", str(out)).stderr
    (out / "cache" / "unlisted").unlink()
    (out / "cache" / "link").symlink_to("/etc")
    assert "cache/link is a link" in project.doit("cache_import", str(out)).stderr
    (out / "cache" / "link").unlink()
    other = foreign.read_bytes()
    (out / "images.tar").write_bytes(other)
    size = {"size": len(other), "sha256": hashlib.sha256(other).hexdigest()}
    (out / "export.json").write_text(json.dumps({**index, "files": {"images.tar": size}}))
    assert "holds tst-busybox:1, which was not exported" in project.doit("cache_import", str(out)).stderr
    (out / "export.json").write_text(json.dumps(index))
    (out / "images.tar").write_bytes(whole)
    key, listed = str(tmp_path / "key"), str(tmp_path / "list.toml")
    assert project.doit("share_key", "one", key, SHARE_BUILDERS=listed).returncode == 0
    assert "is not taken: it is not signed" in project.doit("cache_import", str(out), SHARE_BUILDERS=listed).stderr
    assert tags_of(project) == set()
    taken = project.doit("cache_import", str(out))
    assert taken.returncode == 0, taken.stderr
    assert project.actions() == {"base": "retag", "app": "retag"}
    assert project.build() == {"base": "retagged", "app": "retagged"}
    refused = project.doit("cache_export", str(project.folder))
    assert "holds something else" in refused.stderr
    assert (project.folder / "compose.yml").exists()


MOUNTED = """\
FROM tst-busybox:1
RUN --mount=type=cache,id=PREFIX,target=/named --mount=type=cache,target=/var/PREFIX \
    ls /named /var/PREFIX > /seen; touch /named/kept /var/PREFIX/x
"""


@pytest.mark.engine
def test_cache_mounts_are_carried_to_a_builder_that_never_had_them(project: Lab, lab: Lab, busybox: str) -> None:
    """Both machines are of one project: the second sees in its mounts what the first one's step left there."""
    lab.prefix = project.prefix
    for each in (lab, project):
        each.write({"compose.yml": "services: {a: {image: PREFIX/a, build: .}}", "Dockerfile": MOUNTED})
    lab.build()
    out = lab.folder / "out"
    done = lab.doit("cache_export", "--mounts", str(out))
    assert done.returncode == 0, done.stderr
    assert "wrote 2 cache mounts" in done.stderr
    assert json.loads((out / "mounts.json").read_text())["mounts"] == ["/var/" + lab.prefix, lab.prefix]
    taken = project.doit("cache_import", "--mounts", str(out))
    assert taken.returncode == 0, taken.stderr
    project.build()
    seen = docker(project, "run", "--rm", project.ref("a"), "cat", "/seen").split()
    assert "kept" in seen
    assert "x" in seen


@pytest.mark.parametrize(
    ("index", "why"),
    [
        (None, "there is no mounts.json"),
        ("{", "are not what cache_export writes"),
        ('{"format": 1, "mounts": ["a,target=/etc"]}', "are not what cache_export writes"),
        ('{"format": 1, "mounts": [1]}', "are not what cache_export writes"),
        ('{"format": 1, "mounts": []}', "are not what cache_export writes"),
        ('{"format": 2, "mounts": ["a"]}', "are not what cache_export writes"),
        ('{"format": 1, "mounts": ["a"]}', "are not what cache_export writes"),  # there is no archive
    ],
)
def test_cache_mounts_of_another_form_are_not_taken(tmp_path: Path, index: str | None, why: str) -> None:
    if index is not None:
        (tmp_path / "mounts.json").write_text(index)
    with pytest.raises(UserError, match=why):
        cache_mounts.listed(tmp_path)


def test_cache_mounts_go_to_a_folder_of_any_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    outputs: list[str] = []

    def build(run: object, decision: object, draft: Path, lines: list[str], output: str) -> None:
        outputs.append(output.replace(str(draft), "DRAFT"))
        (draft / "out").mkdir()
        (draft / "out/mounts.tar").write_text("packed")

    monkeypatch.setattr(cache_mounts, "_base", lambda planner: (None, "base"))
    monkeypatch.setattr(cache_mounts, "_build", build)
    run = SimpleNamespace(planner=SimpleNamespace(declared=lambda: {"a": SimpleNamespace(mounts=("m",))}))
    cache_mounts.pack(run, tmp_path / "one, two")
    assert outputs == ['type=local,"dest=DRAFT/out"']
    assert cache_mounts.listed(tmp_path / "one, two") == ["m"]


def test_cache_mounts_come_from_a_disk_that_can_only_be_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    disk, common = tmp_path / "disk", tmp_path / ".doit-images"
    disk.mkdir()
    common.mkdir()
    (disk / "mounts.json").write_text('{"format": 1, "mounts": ["a"]}')
    (disk / "mounts.tar").write_text("packed")
    built: list[str] = []

    def another_disk(source: Path, target: Path) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    monkeypatch.setattr(cache_mounts, "_base", lambda planner: (None, "base"))
    monkeypatch.setattr(
        cache_mounts, "_build", lambda run, decision, draft, *_: built.append((draft / "mounts.tar").read_text())
    )
    for folder in (disk, tmp_path):
        folder.chmod(0o500)
    try:
        said = cache_mounts.unpack(SimpleNamespace(common=common, planner=None), disk)
    finally:
        for folder in (disk, tmp_path):
            folder.chmod(0o700)
    assert said.startswith("filled 1 cache mounts")
    assert built == ["packed"]
    assert list(common.iterdir()) == []


@pytest.mark.engine
def test_export_pushes_to_the_registry_what_it_lacks(project: Lab, tmp_path: Path) -> None:
    project.build()
    assert "needs a FOLDER, or CACHE_REGISTRY" in project.doit("cache_export").stderr
    with loopback.registry(tmp_path / "registry") as server:
        assert "pushed 2 images" in project.doit("cache_export", CACHE_REGISTRY=server.address).stderr
        assert "pushed 0 images" in project.doit("cache_export", CACHE_REGISTRY=server.address).stderr
        stats = json.loads(project.doit("cache_stats", "--json", CACHE_REGISTRY=server.address).stdout)
        assert (stats["registry"]["results"], stats["registry"]["current_images"]) == (2, 2)
        read_only = project.doit("cache_export", CACHE_REGISTRY=server.address, CACHE_WRITE="0")
        assert "CACHE_WRITE=0 forbids to push" in read_only.stderr


def layers_of(project: Lab) -> list[str]:
    """The layers of app that hold something random: that of its parent, and its own."""
    layers = json.loads(docker(project, "image", "inspect", "-f", "{{json .RootFS.Layers}}", project.ref("app")))
    return [layers[-3], layers[-1]]


@pytest.mark.engine
def test_rebuild_uses_no_cache(project: Lab) -> None:
    project.write({"base.Dockerfile": "FROM tst-busybox:1\nRUN head -c 9 /dev/urandom > /PREFIX\n"})
    project.write({"app.Dockerfile": "FROM base\nCOPY app.py /\nRUN head -c 9 /dev/urandom > /random\n"})
    project.build()
    before = layers_of(project)
    done = project.doit("rebuild_optimized")
    assert done.returncode == 0, done.stderr
    assert "0 of 1 steps cached" in done.stderr
    assert "0 of 2 steps cached" in done.stderr
    after = layers_of(project)
    assert len({*before, *after}) == 4, "both random files are others"
    assert project.actions() == {"base": "fresh", "app": "fresh"}
    stats = json.loads(project.doit("cache_stats", "--json").stdout)
    assert {one["image"]: (one["built"], one["evicted"]) for one in stats["images"]} == {"base": (2, 0), "app": (2, 0)}


@pytest.mark.engine
def test_what_was_evicted_is_counted_as_missed(project: Lab) -> None:
    project.build()
    for tag in tags_of(project):
        docker(project, "image", "rm", "--force", tag)
    docker(project, "builder", "prune", "--all", "--force")
    project.build()
    stats = json.loads(project.doit("cache_stats", "--json").stdout)
    assert {one["image"]: one["evicted"] for one in stats["images"]} == {"base": 1, "app": 1}
    table = project.doit("cache_stats")
    assert table.returncode == 0, table.stderr
    assert "engine's build cache" in table.stdout


# ---- what needs no engine


def test_records_that_lie_on_others_go_first_and_busy_ones_stay() -> None:
    records = [
        CacheRecord("below", (), "layer", 10, 0.0, 1),
        CacheRecord("above", ("below",), "layer", 10, 0.0, 1),
        CacheRecord("busy", (), "layer", 10, 0.0, 1, busy=True),
        CacheRecord("under busy", (), "layer", 10, 0.0, 1),
        CacheRecord("on it", ("under busy",), "layer", 10, 0.0, 1, busy=True),
    ]
    chosen = choose(disk_usage.build_cache(ItemKind.ENGINE, records, 100.0), 1.0, 0)
    assert [item.key for item, _ in chosen.gone] == ["above", "below"]


def test_what_was_agreed_to_stays_where_it_was_used_since() -> None:
    """What a dedicated builder says of its records is in round figures, so there it goes by what was agreed alone."""
    items = [
        Item("used since", ItemKind.IMAGE, "", idle=5.0),
        Item("used before", ItemKind.IMAGE, "", idle=90.0),
        Item("came since", ItemKind.IMAGE, "", idle=90.0),
        Item("record", ItemKind.BUILDER, "", idle=5.0),
    ]
    agreed, asked = {"used since", "used before", "record"}, time.time() - 60
    gone = cache_prune._choose_unused(items, ANY_AGE, 0, agreed, asked).gone
    assert {item.key for item, _ in gone} == {"used before", "record"}


def test_folders_of_other_projects_go_when_their_file_is_gone_or_they_are_old(tmp_path: Path) -> None:
    """Never that of the project itself, nor one that is alive."""
    for name, days in {"own": 90, "alive": 29, "old": 31, "gone": 0}.items():
        file = tmp_path / name / "project.json"
        if name != "gone":
            (tmp_path / f"{name}.yml").touch()
        checked_json.remember(file, {"project": {"files": [str(tmp_path / f"{name}.yml")]}})
        os.utime(file.parent, (time.time() - days * DAY,) * 2)
    run = SimpleNamespace(
        common=tmp_path,
        folder=tmp_path / "own",
        expected=SimpleNamespace(builds={}),
        project=SimpleNamespace(images={}, directory=tmp_path),
        cache_folder=tmp_path / "own/cache",
        settings=SimpleNamespace(cache_max_age=30 * DAY),
    )
    found = {item.name for item in disk_usage.files(run, time.time())}
    assert found == {"gone, whose Compose file is gone", "old, a project of this folder"}


@pytest.mark.parametrize(
    ("tags", "users", "why"),
    [
        (("app/one:in-0123456789abcdef",), {"id": ("web", "more")}, "the container web was made from it"),
        (("app/one:in-0123456789abcdef", "app/one:1"), {}, "it is also called `app/one:1`"),
        (("app/one:building-1795505378-0a1b2c3d4e5f",), {}, "a build may be making or using it"),
        (("app/one:building-1795505000-0a1b2c3d4e5f",), {"another": ("web",)}, ""),
        (("app/one:in-0123456789abcdef",), {}, ""),
    ],
)
def test_what_is_in_use_stays(tags: tuple[str, ...], users: dict[str, tuple[str, ...]], why: str) -> None:
    one = LocalImage("id", tags, {FINGERPRINT: "0123456789abcdef" * 4})
    assert disk_usage._in_use(one, users, {"app/one"}, 1795505300.0 + DAY) == why


def test_what_a_record_shares_with_an_image_counts_as_the_images() -> None:
    records = [CacheRecord("r1", (), "RUN", 500, 0.0, 1, shared=True), CacheRecord("r2", (), "RUN", 70, 0.0, 1)]
    image = Item("i1", ItemKind.IMAGE, "old", {"layer": 500}, idle=100.0)
    chosen = choose([image, *disk_usage.build_cache(ItemKind.ENGINE, records, 100.0)], 1.0, 0)
    assert {item.key: size for item, size in chosen.gone} == {"i1": 500, "r1": 0, "r2": 70}


def test_a_random_build_cache_never_breaks() -> None:
    chance = random.Random(5)
    records: list[CacheRecord] = []
    for number in range(3000):
        parents = tuple({chance.choice(records).id for _ in range(chance.randrange(3))}) if records else ()
        size, used, busy = chance.randrange(10**6), chance.random() * 1e6, chance.random() < 0.05
        records.append(CacheRecord(str(number), parents, "x", size, used, 1, busy))
    chosen = choose(disk_usage.build_cache(ItemKind.ENGINE, records, 1e6), 8e5, 10**8)
    there = {record.id: record for record in records}
    for item, _ in chosen.gone:
        record = there.pop(item.key)
        assert not record.busy
        assert not any(record.id in other.parents for other in there.values())


DU = """\
ID:\t\tyuoxg
Created at:\t2026-11-24 07:29:27.921242835 +0000 UTC
Mutable:\tfalse
Reclaimable:\ttrue
Shared:\t\ttrue
Size:\t\t347.6MB
Description:\tpulled from docker.io/library/base@sha256:0c96
Usage count:\t4
Last used:\t3 minutes ago
Type:\t\tregular

ID:\t\trjhku
Parents:
 - yuoxg
 - other
Created at:\t2026-11-24 07:29:37.313704137 +0000 UTC
Mutable:\tfalse
Reclaimable:\tfalse
Shared:\t\tfalse
Size:\t\t10.24kB
Description:\t[1/3] COPY f: /f
Usage count:\t1
Last used:\tAbout an hour ago
Type:\t\tregular

Shared:\t\t347.6MB
Total:\t\t347.7MB
"""


def test_what_buildx_du_prints() -> None:
    shared, copied = cache_records.read_du(DU, now=10_000.0)
    assert shared == CacheRecord(
        "yuoxg",
        (),
        "pulled from docker.io/library/base@sha256:0c96",
        347600000,
        9820.0,
        4,
        shared=True,
        made=1795505367.921242,
    )
    assert copied == CacheRecord(
        "rjhku", ("yuoxg", "other"), "[1/3] COPY f: /f", 10240, 6400.0, 1, busy=True, made=1795505377.313704
    )
    assert cache_records.read_du("", 0.0) == []


def test_the_command_that_prunes_a_dedicated_builder() -> None:
    assert prune_argv("b", ["x1", "y2"]) == [
        "docker", "buildx", "prune", "--builder", "b", "--force", "--all", "--filter", 'id="^(x1$|y2$)"',
    ]  # fmt: skip


def build(number: int, action: str = "build", seconds: float = 10.0, **more: object) -> Build:
    values: dict[str, object] = {"fingerprint": f"f{number}", "reasons": (), "status": "done", **more}
    return Build(image="a", ref="a", action=action, started=float(number), seconds=seconds, id=number, **values)


def test_hits_are_counted_from_history() -> None:
    ran = (StepRecord("RUN x", number=2, total=2, seconds=7.0), StepRecord("FROM y", number=1, total=2))
    hit = (StepRecord("RUN x", number=2, total=2, cached=True),)
    past = [
        build(1, steps=ran),
        build(2, steps=hit),
        build(3, "retag", 0.1),
        build(4, "pull", 1.0),
        build(5, status="failed", steps=ran),
        build(6, fingerprint="f1", steps=ran),
        build(7, fingerprint="f1", steps=ran, reasons=(NO_CACHE,)),
    ]
    one = cache_view.images(reversed(past))["a"]
    assert (one["built"], one["retagged"], one["pulled"]) == (4, 1, 1)
    assert one["step_hit_rate"] == 0.25
    assert one["image_hit_rate"] == pytest.approx(2 / 6)
    assert one["seconds_saved"] == pytest.approx(7.0 + 9.9 + 9.0)
    assert (one["evicted"], one["evicted_seconds"]) == (1, 10.0)
    assert one["costliest"] == ["RUN x"]
    assert cache_view.images([]) == {}


def test_what_is_built_in_every_run_was_not_evicted() -> None:
    assert cache_view.images([build(1), build(2, fingerprint="f1", reasons=(DUE,))])["a"]["evicted"] == 0
    assert cache_view.images([build(1), build(2, fingerprint="f1")])["a"]["evicted"] == 1


def test_a_hit_counts_when_a_step_was_put_before_it() -> None:
    def steps(*texts: str, cached: bool = False) -> tuple[StepRecord, ...]:
        total = len(texts) + 1
        return tuple(
            StepRecord(f"[b {n}/{total}] {text}", "b", n, total, seconds=4.0, cached=cached)
            for n, text in enumerate(texts, 2)
        )

    past = [build(1, steps=steps("RUN x", "RUN y")), build(2, steps=steps("RUN new", "RUN x", "RUN y", cached=True))]
    one = cache_view.images(past)["a"]
    assert one["seconds_saved"] == pytest.approx(8.0)
    assert [(step["name"], step["seen"], step["cached"]) for step in one["steps"]] == [
        ("[b 3/4] RUN x", 2, 1),
        ("[b 4/4] RUN y", 2, 1),
        ("[b 2/4] RUN new", 1, 1),
    ]


def test_our_own_files_of_images_that_are_no_more_can_go(lab: Lab, busybox: str) -> None:
    lab.write(FILES)
    lab.build()
    logs = lab.folder / ".doit-images" / "compose.yml" / "logs"
    (logs / "gone.log").write_text("x")
    records = lab.folder / ".doit-images" / "compose.yml" / "images"
    shutil.copy(records / "app.json", records / "gone.json")
    dry = json.loads(lab.doit("cache_prune", "--dry-run", "--all", "--json").stdout)
    names = {one["name"] for one in dry["gone"] if one["kind"] == "log"}
    assert {"logs/gone.log", "images/gone.json", "logs/app.log"} <= names
    assert "images/app.json" not in names
