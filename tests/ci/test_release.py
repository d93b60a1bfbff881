"""How do images that were built and tested here get the names by which people use them?"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.ci import release, release_tags
from doit_images.ci.release import Release
from doit_images.core.base.errors import UserError
from doit_images.core.base.oci import MANIFEST
from doit_images.core.base.references import digest_of
from doit_images.core.base.settings import Settings
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.share import referrers, signatures, trusted
from doit_images.share.copying import Place
from doit_images.share.no_answer import NoImage, Unavailable
from doit_images.share.registry import Registry
from doit_images.share.signing import BUNDLE
from doit_images.share.trusted import Claimed
from tests import hosted, loopback
from tests.conftest import Lab, printed

FILES = {
    "compose.yml": """
        services:
          base: {image: PREFIX/base, scale: 0, build: base}
          web: {image: PREFIX/web, build: {context: web, additional_contexts: {base: "service:base"}}}
          db: {image: PREFIX/db, build: db}
        x-test:
          web: {command: [sh, -c, "cat /web.txt"]}
          web-live: {service: web, command: ["true"], cache: never}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nCOPY base.txt /\n",
    "base/base.txt": "PREFIX\n",
    "web/Dockerfile": "FROM base\nCOPY web.txt /\n",
    "web/web.txt": "1\n",
    "db/Dockerfile": "FROM tst-busybox:1\nCOPY db.txt /\n",
    "db/db.txt": "PREFIX\n",
    ".gitignore": "*.log\n",
}


def git(folder: Path, *words: str) -> str:
    own = ["-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", *own, *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def commit(tmp_path: Path) -> str:
    """A repository of one commit, by its first twelve digits."""
    git(tmp_path, "init", "--quiet", "--initial-branch", "feature/x+1")
    (tmp_path / "file").write_text("1\n")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return git(tmp_path, "rev-parse", "HEAD")[:12]


def test_git_gives_tags_and_commits_and_versions_stay(tmp_path: Path, commit: str) -> None:
    def named(*words: str, changed: bool = False) -> dict[str, bool]:
        return release_tags.names(tmp_path, words, changed=changed)

    assert named("v1.2.3", "1.2.3-rc.1", "v1.2", "latest") == {
        "v1.2.3": True, "1.2.3-rc.1": True, "v1.2": False, "latest": False
    }  # fmt: skip
    assert named("@sha", "@branch") == {commit: True, "feature-x-1": False}
    assert named("@describe") == {commit[:7]: True}
    git(tmp_path, "tag", "v2.0.0")
    assert named("@describe", "@branch") == {"v2.0.0": True, "feature-x-1": False}
    assert named("@describe", "@sha", "@branch", changed=True) == {
        "v2.0.0-dirty": True, f"{commit}-dirty": True, "feature-x-1": False
    }  # fmt: skip
    git(tmp_path, "checkout", "--quiet", "--detach")
    with pytest.raises(UserError, match=r"git gives nothing for --tag @branch: .*on CI no branch is checked out"):
        named("@branch")
    with pytest.raises(UserError, match=r"--tag @semver means nothing \(@describe, @sha, @branch, or"):
        named("@semver")


@pytest.mark.parametrize("tag", ["", "-x", "a/b", "a" * 129, f"in-{'0' * 16}", f"test-{'0' * 32}", "keep-x", "cache-x"])
def test_what_is_no_tag_or_one_of_ours_is_refused(tmp_path: Path, tag: str) -> None:
    with pytest.raises(UserError, match="an image cannot be tagged"):
        release_tags.names(tmp_path, [tag], changed=False)


def test_a_tree_that_is_no_commit_is_refused_unless_it_may_be_dirty(tmp_path: Path, commit: str) -> None:
    assert not release_tags.changed(tmp_path, ["@sha"], dirty=False)
    (tmp_path / "file").write_text("2\n")
    (tmp_path / "new").touch()
    with pytest.raises(UserError, match="published: file, new are not as the commit has them"):
        release_tags.changed(tmp_path, ["v1.2.3"], dirty=False)
    assert release_tags.changed(tmp_path, ["@sha"], dirty=True)
    assert not release_tags.changed(tmp_path, ["v1.2.3"], dirty=True), "it is not asked"


def test_what_is_in_no_repository_is_published_if_it_may_be_dirty(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="git cannot tell from which commit this is made"):
        release_tags.changed(tmp_path, ["v1.2.3"], dirty=False)
    assert not release_tags.changed(tmp_path, ["v1.2.3"], dirty=True)


class Failing(Registry):
    """A registry that takes so many more names."""

    left = 100

    def give_manifest(self, path: str, reference: str, media: str, text: bytes) -> bool:
        if ":" not in reference:
            self.left -= 1
            if self.left == -1:
                raise Unavailable("is full")
        return super().give_manifest(path, reference, media, text)


def made(place: Place, content: bytes) -> str:
    """A small image in a repository; its digest."""
    blobs = [referrers.give_blob(place.registry, place.path, "text/plain", one) for one in (b"{}", content)]
    manifest = {"schemaVersion": 2, "mediaType": MANIFEST, "config": blobs[0], "layers": blobs[1:]}
    text = json.dumps(manifest).encode()
    place.registry.give_manifest(place.path, digest_of(text), MANIFEST, text)
    return digest_of(text)


def test_names_are_taken_back_wherever_the_registry_fails(tmp_path: Path) -> None:
    run: Any = SimpleNamespace(events=SimpleNamespace(say=lambda _: None))
    tags = {"v1.0.0": True, "latest": False}

    def releases(registry: Registry, content: bytes) -> list[Release]:
        places = [(Place(registry, name), Place(registry, f"for-people/{name}")) for name in ("web", "db")]
        return [Release(one.path, made(one, content), one, other) for one, other in places]

    def seen() -> dict[str, str | None]:
        """Where a name was taken back, the registry may be asked for it and has nothing."""
        found = release.free(first, {**tags, "v1.0.1": False}, move=True)
        return {f"{place.path}:{tag}": digest_of(text) if text else None for (place, tag), text in found.items()}

    with loopback.registry(tmp_path / "registry") as server:
        registry = Failing(server.address)
        first = releases(registry, b"1")
        release.publish(run, first, tags, move=False)
        before, second = seen(), releases(registry, b"2")
        assert set(before.values()) == {None, *(one.digest for one in first)}
        for names in range(4):
            registry.left = names
            with pytest.raises(UserError, match=r"cannot be given: the registry is full; no name was changed$"):
                release.publish(run, second, {"v1.0.1": True, "latest": False}, move=False)
            assert seen() == before, names
        registry.left = 100
        with pytest.raises(UserError, match=r"web:v1.0.0 is sha256:\w{12}, which is not what is here"):
            release.publish(run, second, tags, move=False)
        assert seen() == before
        release.publish(run, second, tags, move=True)
        assert [*seen().values()] == [
            second[0].digest,
            second[0].digest,
            None,
            second[1].digest,
            second[1].digest,
            None,
        ]


class Project(Lab):
    """One with a signed registry of its team, all built and tested."""

    def published(self, *words: str, status: int = 0) -> str:
        """What it says, or prints where that works."""
        done = self.doit("publish", *words)
        assert done.returncode == status, done.stderr
        return done.stderr if status else done.stdout

    def edit(self, text: str) -> None:
        (self.folder / "web/web.txt").write_text(text)
        git(self.folder, "commit", "--quiet", "--all", "--message", text)
        assert self.doit("test_image").returncode == 0


@pytest.fixture
def project(lab: Lab, busybox: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    lab.__class__, aside = Project, tmp_path_factory.mktemp("aside")
    assert isinstance(lab, Project)
    lab.write(FILES)
    git(lab.folder, "init", "--quiet")
    git(lab.folder, "add", ".")
    git(lab.folder, "commit", "--quiet", "--message", "first")
    with loopback.registry(aside / "team") as team:
        key = str(aside / "key")
        lab.environ |= {"CACHE_REGISTRY": team.address, "SHARE_BUILDERS": str(aside / "builders.toml")}
        assert lab.doit("share_key", "ci", key).returncode == 0
        lab.environ["SHARE_KEY"] = key
        lab.build()
        yield lab


def names(registry: Registry, path: str) -> dict[str, str]:
    """The tags that are for people."""
    ours = ("in-", "test-", "cache-", "sha256-")
    digests = {tag: digest(registry, path, tag) for tag in registry.tags(path) if not tag.startswith(ours)}
    return {tag: one for tag, one in digests.items() if one}


def digest(registry: Registry, path: str, tag: str) -> str:
    try:
        manifest = json.loads(registry.raw_manifest(path, tag))
    except NoImage:
        return ""
    image = registry.image(path, tag, "linux/amd64") if manifest["layers"] else None
    return image.digest if image else ""


@pytest.mark.engine
@pytest.mark.parametrize("kind", ["Zot", "GHCR"])
def test_what_was_tested_gets_its_names_elsewhere_with_all_that_is_attached(
    project: Project, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    untested = project.published("--tag", "v1.2.3", status=1)
    assert "only what was tested is published: web did not pass on it" in untested
    assert "(doit test_image:web)" in untested
    assert project.doit("test_image").returncode == 0
    for task in ("sbom", "provenance"):
        assert project.doit(task, "--attach", "web").returncode == 0
    team, path = Registry(project.environ["CACHE_REGISTRY"]), f"{project.prefix}/web"
    with loopback.registry(tmp_path_factory.mktemp("public"), ways=hosted.KINDS[kind]) as public:
        where = f"{public.address}/shop"
        words = ("--registry", where, "--tag", "v1.2.3", "--tag=latest", "--json")
        dry = json.loads(project.published(*words, "--dry-run"))
        there = Registry(where)
        assert there.tags(path) == []
        named = json.loads(project.published(*words))
        assert named == dry
        assert {one["name"] for one in named} == {
            f"{where}/{project.prefix}/{name}:{tag}" for name in ("web", "db") for tag in ("v1.2.3", "latest")
        }
        (first,) = {one["digest"] for one in named if one["service"] == "web"}
        assert names(there, path) == {"v1.2.3": first, "latest": first}
        of_team, of_public = (
            {one["digest"] for one in referrers.attached(each, path, first)} for each in (team, there)
        )
        assert len(of_team) == 5, "its signature, three SBOMs and the provenance"
        assert of_public == of_team
        bundles = signatures.bundles(there, path, first)
        labels = there.known[first].labels
        claimed = Claimed(first, labels[FINGERPRINT], "linux/amd64")
        trust = trusted.of(Settings(share_builders=project.environ["SHARE_BUILDERS"]))
        assert trust.judge(claimed, bundles)[0] == "", "cosign reads them, as test_trust shows"
        pulled = printed(f"{where}/{path}:latest", "cat", "/base.txt", "/web.txt")
        assert pulled == f"{project.prefix}\n1\n"
        assert project.published(*words) == json.dumps(named, indent=2) + "\n", "once more changes nothing"
        project.edit("2\n")
        taken = project.published(*words, status=1)
        assert f"{where}/{path}:v1.2.3 is {first[:19]}, which is not what is here" in taken
        assert names(there, path) == {"v1.2.3": first, "latest": first}, "latest neither"
        (second,) = {
            one["digest"]
            for one in json.loads(project.published("web", *words[:2], "--tag", "latest", "--tag", "@sha", "--json"))
        }
        sha = git(project.folder, "rev-parse", "HEAD")[:12]
        assert names(there, path) == {"v1.2.3": first, "latest": second, sha: second}
        (project.folder / "web/new.txt").touch()
        assert "web/new.txt are not as the commit has them" in project.published("web", "--tag", "v1.2.4", status=1)


@pytest.mark.engine
def test_all_names_are_given_or_none(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert project.doit("test_image").returncode == 0
    with loopback.registry(tmp_path_factory.mktemp("public")) as public:
        words = ("--registry", public.address, "--tag", "v1", "--tag", "stable")
        paths = [f"{project.prefix}/{name}" for name in ("web", "db")]
        project.published(*words, "web")
        there = Registry(public.address)
        before = [names(there, path) for path in paths]
        project.edit("2\n")
        assert public.front
        public.front.ways = replace(hosted.KINDS["Harbor"], tokens=False)
        refused = project.published(*words, "db", "web", status=1)
        assert f"{paths[0]}:v1 cannot be given" in refused
        assert "no name was changed" in refused
        assert [names(there, path) for path in paths] == before


@pytest.mark.engine
def test_a_name_in_the_shared_registry_keeps_its_image_from_pruning(project: Project) -> None:
    assert project.doit("test_image").returncode == 0
    project.published("--tag", "v1.2.3")
    team, path = Registry(project.environ["CACHE_REGISTRY"]), f"{project.prefix}/web"
    first = names(team, path)["v1.2.3"]
    project.edit("2\n")
    git(project.folder, "update-ref", "-d", "HEAD")  # nobody needs what was there
    git(project.folder, "add", ".")
    git(project.folder, "commit", "--quiet", "--message", "anew")
    done = project.doit("registry_prune", "--all", "--yes")
    assert done.returncode == 0, done.stderr
    assert names(team, path) == {"v1.2.3": first}
    loaded: Any = json.loads(team.raw_manifest(path, first))
    assert all(team.has_blob(path, layer["digest"]) for layer in loaded["layers"])
    assert referrers.attached(team, path, first, BUNDLE)
