"""What goes from the shared registry, and what stays: on a real one, with a repository of its own."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.core.base import oci
from doit_images.core.base.errors import UserError
from doit_images.core.base.references import digest_of, tag_of
from doit_images.core.base.timestamps import utc
from doit_images.core.buildkit import backends
from doit_images.core.compose.image import Image
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.core.run import Parts, Run
from doit_images.pruning import git_states, registry_prune
from doit_images.pruning.prune import ANY_AGE, Item, ItemKind
from doit_images.pruning.registry_contents import Repository
from doit_images.share import referrers
from doit_images.share.connection import Machines
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry
from doit_images.share.transport import Answer
from tests import loopback
from tests.conftest import Lab
from tests.pruning.pusher import Pusher


@pytest.fixture
def server(tmp_path: Path) -> Iterator[loopback.Service]:
    with loopback.registry(tmp_path / "registry") as service:
        yield service


def git(lab: Lab, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    subprocess.run(["git", "-C", str(lab.folder), *who, *words], check=True, capture_output=True)


def results(server: loopback.Service, path: str) -> list[str]:
    return [tag for tag in loopback.tags(server, path) if tag.startswith("in-")]


def prune(lab: Lab, server: loopback.Service, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Prune through a proxy that lists in pages, as hosted registries do."""
    with loopback.paging(server, 1) as address:
        return lab.doit("registry_prune", *words, **{"CACHE_REGISTRY": address, **environ})


def gone(lab: Lab, server: loopback.Service, *words: str, **environ: str) -> list[str]:
    """The tags of what a dry run would remove."""
    done = prune(lab, server, "--dry-run", "--json", *words, **environ)
    assert done.returncode == 0, done.stderr
    return [tag for each in json.loads(done.stdout)["gone"] for tag in each["tags"]]


ONE = {
    "compose.yml": "services: {one: {image: PREFIX/one, build: {context: .}}}\n",
    "Dockerfile": "FROM scratch\nCOPY text /\n",
}


def test_what_a_registry_lists_on_its_second_page_counts(lab: Lab, server: loopback.Service) -> None:
    """Else a result with the tag of a release would go: `in-…` is on the first page, `v1.0` on the next."""
    path = f"{lab.prefix}/one"
    lab.environ = {"CACHE_REGISTRY": server.address}
    for text in ("first", "second"):
        lab.write({**ONE, "text": f"PREFIX {text}"})
        lab.build()
    registry, [old, *_] = Registry(server.address), gone(lab, server, "--all")
    registry.give_manifest(path, "v1.0", registry_media(registry, path, old), registry.raw_manifest(path, old))
    with loopback.paging(server, 1) as address:
        assert sorted(Registry(address).tags(path)) == sorted(registry.tags(path))
    assert gone(lab, server, "--all") == []


def registry_media(registry: Registry, path: str, tag: str) -> str:
    """The media type of a manifest."""
    return str(json.loads(registry.raw_manifest(path, tag))["mediaType"])


@pytest.mark.parametrize(
    ("how", "why"),
    [
        (["--depth=1"], r"shallow, so what other commits need cannot be known \(git fetch --unshallow\)"),
        (["--single-branch"], r"has not all branches of origin, .*\(git remote set-branches origin"),
        ([], ""),
    ],
    ids=["shallow", "single branch", "whole"],
)
def test_a_clone_of_a_part_prunes_nothing(lab: Lab, tmp_path: Path, how: list[str], why: str) -> None:
    lab.write(ONE)
    git(lab, "init", "--initial-branch=main")
    git(lab, "add", ".")
    for text in ("first", "second"):
        git(lab, "commit", "--allow-empty", "--message", text)
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", *how, f"file://{lab.folder}", str(clone)], check=True)
    if not why:
        assert git_states._refs(clone)
        return
    with pytest.raises(UserError, match=why):
        git_states._refs(clone)


def dated(lab: Lab, days: float, *words: str) -> str:
    """Commit so many days ago; the commit."""
    when = f"{time.time() - days * 86400:.0f} +0000"
    env = {**os.environ, "GIT_COMMITTER_DATE": when, "GIT_AUTHOR_DATE": when}
    who = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    argv = ["git", "-C", str(lab.folder), *who, "commit", "--allow-empty", "--message", f"{days}", *words]
    subprocess.run(argv, check=True, capture_output=True, env=env)
    return subprocess.run(argv[:3] + ["rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_a_commit_needs_its_results_until_another_takes_its_place(lab: Lab) -> None:
    """However old it is: a branch that stood still for a year was deployed until yesterday."""
    git(lab, "init", "--initial-branch=main")
    dated(lab, 700)
    git(lab, "branch", "other")
    dated(lab, 600)
    replaced, young = dated(lab, 400), dated(lab, 1)
    git(lab, "checkout", "--quiet", "other")
    tip, refs = dated(lab, 500), git_states._refs(lab.folder)
    assert git_states._commits(lab.folder, refs, 30 * 86400.0) == {
        young: ["branch main"],
        tip: ["branch other"],
        replaced: [f"commit {replaced[:12]} of the last 30 days"],
    }
    assert git_states._commits(lab.folder, refs, 0.0).keys() == {young, tip}


def test_what_no_branch_no_tag_and_no_recent_age_needs_goes(lab: Lab, busybox: str, server: loopback.Service) -> None:
    path = f"{lab.prefix}/one"
    lab.environ = {"CACHE_REGISTRY": server.address}
    lab.write(
        {
            "compose.yml": "services: {one: {image: PREFIX/one, build: {context: .}}}\n",
            "Dockerfile": f"FROM {busybox}\nCOPY text /\n",
            "text": "PREFIX first",
        }
    )
    git(lab, "init", "--initial-branch=main")
    made = []
    for text in ("first", "second", "third"):
        (lab.folder / "text").write_text(f"{lab.prefix} {text}")
        git(lab, "add", "compose.yml", "Dockerfile", "text")
        git(lab, "commit", "--message", text)
        lab.build()
        [new] = [tag for tag in results(server, path) if tag not in made]
        made.append(new)
    first, second, third = made
    git(lab, "branch", "kept", "HEAD~1")
    git(lab, "tag", "--annotate", "--message", "v", "v1", "HEAD~2")
    assert gone(lab, server, "--all") == []
    git(lab, "tag", "--delete", "v1")
    assert gone(lab, server) == [], "other machines may work on what git does not know yet"
    assert gone(lab, server, REGISTRY_MAX_AGE="0s") == gone(lab, server, "--all") == [first]
    git(lab, "checkout", "--quiet", "--detach", "HEAD~2")
    assert gone(lab, server, "--all") == [], "the working tree needs it"
    git(lab, "checkout", "--quiet", "main")
    asked = prune(lab, server, "--all")
    assert asked.returncode != 0
    assert "pass --yes" in asked.stderr
    assert sorted(results(server, path)) == sorted(made)
    done = prune(lab, server, "--all", "--yes")
    assert done.returncode == 0, done.stderr
    assert "removed 1 results" in done.stderr
    assert sorted(results(server, path)) == sorted([second, third])
    lab.close()
    assert lab.actions() == {"one": "pull"}
    git(lab, "branch", "--delete", "--force", "kept")
    # What has another tag too stays, with all that it needs.
    registry = Registry(server.address)
    manifest = registry.raw_manifest(path, second)
    assert gone(lab, server, "--all") == [second]
    for tag in ("in-progress", "released"):
        registry.give_manifest(path, tag, json.loads(manifest)["mediaType"], manifest)
        assert gone(lab, server, "--all") == []


def test_what_is_locked_stays_until_it_is_released(lab: Lab, server: loopback.Service) -> None:
    """Somebody may have deployed it by its digest, as `images --lock` is there for."""
    path = f"{lab.prefix}/one"
    lab.environ = {"CACHE_REGISTRY": server.address}
    lab.write({**ONE, "text": "PREFIX first"})
    git(lab, "init", "--initial-branch=main")
    git(lab, "add", "compose.yml", "Dockerfile", "text")
    git(lab, "commit", "--message", "first")
    lab.build()
    locked = lab.doit("images", "--lock")
    assert locked.returncode == 0, locked.stderr
    [digest] = re.findall(r"@(sha256:[0-9a-f]{64})", locked.stdout)
    [lock] = re.findall(r"--release (\S+)`", locked.stdout)
    (lab.folder / "text").write_text(f"{lab.prefix} second")
    git(lab, "commit", "--all", "--message", "second")
    lab.build()
    assert prune(lab, server, "--all", "--yes").returncode == 0
    registry = Registry(server.address)
    assert registry.raw_manifest(path, digest)
    with loopback.paging(server, 1) as address:
        kept = json.loads(lab.doit("images_kept", "--json", CACHE_REGISTRY=address).stdout)
    assert kept == [{"lock": lock, "repository": path, "digest": digest}]
    assert lock in lab.doit("images_kept", lock[:7]).stdout
    unknown = lab.doit("images_kept", "--release", "1999")
    assert (unknown.returncode, "keeps no lock that begins with 1999" in unknown.stderr) == (1, True)
    [result] = [tag for tag in results(server, path) if digest_of(registry.raw_manifest(path, tag)) == digest]
    assert lab.doit("images_kept", "--release", lock).returncode == 0
    assert json.loads(lab.doit("images_kept", "--json").stdout) == []
    assert registry.raw_manifest(path, digest), "only its tag goes"
    assert gone(lab, server, "--all") == [result]


def test_a_machine_that_may_not_push_locks_and_says_that_nobody_keeps_it(lab: Lab, server: loopback.Service) -> None:
    lab.environ = {"CACHE_REGISTRY": server.address}
    lab.write({**ONE, "text": "PREFIX first"})
    lab.build()
    done = lab.doit("images", "--digests", CACHE_WRITE="0")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["kept"] == ""
    assert "what is locked is not kept there, and `registry_prune` may remove it" in done.stderr
    assert "(lock it on a machine that may push)" in done.stderr
    assert [tag for tag in loopback.tags(server, f"{lab.prefix}/one") if tag.startswith("keep-")] == []
    refused = lab.doit("images_kept", "--release", "2026", CACHE_WRITE="0")
    assert (refused.returncode, "CACHE_WRITE is off on this machine" in refused.stderr) == (1, True)


def test_caches_of_branches_that_are_gone_go_and_all_that_is_attached(lab: Lab, server: loopback.Service) -> None:
    """What stays keeps all that is attached to it, also what is attached to that."""
    lab.environ, path = {"CACHE_REGISTRY": server.address}, f"{lab.prefix}/one"
    lab.write({**ONE, "text": "PREFIX"})
    git(lab, "init", "--initial-branch=main")
    git(lab, "add", "compose.yml", "Dockerfile", "text")
    git(lab, "commit", "--message", "first")
    git(lab, "branch", "feature/x")
    push, old, now = Pusher(server, path), "2020-01-01T00:00:00Z", utc(time.time())
    image = {"os": "linux", "architecture": "amd64", "created": old, "config": {"Labels": {FINGERPRINT: "0"}}}

    def cache(branch: str, when: str = old) -> str:
        config = {"layers": [], "records": [{"chains": [{"layers": [0], "createdAt": when}]}], "of": branch}
        return push.manifest(backends.cache_tag(branch), config, [], "application/vnd.buildkit.cacheconfig.v0")

    def signed(tag: str, number: int, **more: str) -> list[str]:
        digest = push.manifest(tag, {**image, "number": number, **more}, [])
        report = push.attach(digest, b"%d" % number, "a/report")
        return [digest, report, push.attach(report, b"of %d" % number, "a/signature")]

    stay = [cache("main"), cache("feature/x"), cache("young", now), *signed("v1", 1), *signed("cache-2.0", 2)]
    result, *attached = signed(f"in-{3:016x}", 3, **{"moby.buildkit.cache.v0": "e30="})
    push.tag(backends.cache_tag("merged"), result)
    by_cosign = push.manifest(f"{referrers.tag_of(result)}.sig", {}, [b"a signature"])
    gone = cache("gone")
    replaced, lost = signed(f"in-{4:016x}", 4), signed(f"in-{5:016x}", 5)
    stay.append(push.manifest(f"in-{4:016x}", {**image, "created": now}, []))
    stay.append(push.manifest(f"sha256-{'0' * 64}.sig", {}, [b"of an image in another repository"]))
    stay.append(push.manifest("", [], []))  # an artifact of somebody's own
    stay.append(push.attach(stay[-1], b"a signature", "a/signature"))
    registry = Registry(server.address)
    registry.delete_manifest(path, lost[0])
    done = prune(lab, server, "--yes")
    assert done.returncode == 0, done.stderr
    for digest in stay:
        assert registry.raw_manifest(path, digest)
    for digest in (gone, result, *attached, by_cosign, *replaced, *lost):
        with pytest.raises(NoImage):
            registry.raw_manifest(path, digest)
    about = [tag for tag in loopback.tags(server, path) if tag.startswith("sha256-")]
    assert len(about) == 6, "of two images, of a report on each, and of what is not ours"


def test_where_the_branches_cannot_be_known_nothing_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert git_states._refs(tmp_path) == [], "there is no repository"
    (tmp_path / ".git").write_text("gitdir: nowhere")
    with pytest.raises(UserError, match=r"what other branches need cannot be known: .*not a git repository"):
        git_states._refs(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="what other branches need cannot be known: git is not installed"):
        git_states._refs(tmp_path)


def test_a_registry_that_deletes_nothing_is_said_in_a_sentence(lab: Lab) -> None:
    lab.write(
        {"compose.yml": "services: {one: {image: PREFIX/one, build: {context: .}}}\n", "Dockerfile": "FROM scratch\n"}
    )
    done = lab.doit("registry_prune", "--dry-run", CACHE_REGISTRY="localhost:1")
    assert done.returncode != 0
    assert "the shared registry localhost:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_another_platform_needs_stays_and_what_nobody_can_tell(
    lab: Lab, busybox: str, server: loopback.Service
) -> None:
    lab.environ = {"CACHE_REGISTRY": server.address}
    lab.write(
        {
            "compose.yml": """\
                services:
                  one: {image: PREFIX/one, build: {context: ., dockerfile: one.Dockerfile}}
                  two: {image: PREFIX/two, build: {context: ., dockerfile: two.Dockerfile}}
                """,
            "one.Dockerfile": "FROM scratch\nCOPY text /\n",
            "two.Dockerfile": f"FROM {busybox}\nCOPY text /\n",
            "text": "PREFIX first",
        }
    )
    git(lab, "init", "--initial-branch=main")
    git(lab, "add", "compose.yml", "one.Dockerfile", "two.Dockerfile", "text")
    git(lab, "commit", "--message", "first")
    run = Run((lab.folder / "compose.yml",), lab.env(), parts=Parts(peers=Machines))
    needed = run.planner.made_of(run.resolver, "linux/arm64")["one"].fingerprint
    (lab.folder / "text").write_text(f"{lab.prefix} second")
    git(lab, "commit", "--all", "--message", "second")
    git(lab, "branch", "old", "HEAD~1")
    ours, other = tag_of("x", needed).partition(":")[2], f"in-{'0' * 16}"
    for name, tag in (("one", ours), ("one", other), ("two", other)):
        push_for_arm(Registry(server.address), f"{lab.prefix}/{name}", tag, lab.folder / "blob")
    assert gone(lab, server, "--all") == [other], "the base of `two` is not here for that platform"
    known = git_states.needed(run, ["linux/arm64"], 0.0)
    assert known.unread == {}
    assert known.unknown.keys() == {(f"{lab.prefix}/two", "linux/arm64")}
    git(lab, "branch", "--delete", "--force", "old")
    assert len(gone(lab, server, "--all")) == 2


def push_for_arm(registry: Registry, path: str, tag: str, file: Path) -> None:
    """An image of nothing that says that it is for another platform, and when it was made, as an older version did."""
    config = {"os": "linux", "architecture": "arm64", "created": "2026-01-01T00:00:00Z", "tag": tag}
    labels = {"vllm-swarm.build.fingerprint": "0"}
    text = json.dumps({**config, "rootfs": {"type": "layers", "diff_ids": []}, "config": {"Labels": labels}}).encode()
    file.write_bytes(text)
    digest = f"sha256:{hashlib.sha256(text).hexdigest()}"
    registry.give_blob(path, digest, file)
    file.unlink()
    described = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": len(text)}
    manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described, "layers": []}
    registry.give_manifest(path, tag, oci.MANIFEST, json.dumps(manifest).encode())


def test_an_index_is_all_that_it_names(server: loopback.Service, tmp_path: Path) -> None:
    from doit_images.share import transfer
    from tests.share.test_transfer import BOTH, layout

    registry = Registry(server.address)
    digest, _ = layout(tmp_path / "one", dict.fromkeys(BOTH, "o1"))
    tag, passed = f"in-{'1' * 16}", f"test-{'1' * 32}"
    transfer.push(registry, "app/auth", [tag], transfer.Whole(digest, digest, tmp_path / "one"))
    held = Repository(registry, "app/auth").held(tag)
    assert held is not None
    assert held.ours
    assert (held.digest, len(held.children), held.made) == (digest, 2, 0.0)
    assert {digest, *held.children} <= held.parts.keys()
    assert Repository(registry, "app/auth").held("in-2") is None
    assert held.platforms == set(BOTH)
    nobody, dated = git_states.Needed(), held._replace(made=5.0)
    assert registry_prune._why("app/auth", [tag], nobody, held) == ""
    assert registry_prune._item("app/auth", [tag], "", held, nobody).idle == math.inf
    unsure = git_states.Needed(unknown={("app/auth", BOTH[0]): "nobody can tell"})
    assert registry_prune._why("app/auth", [tag], unsure, dated) == "nobody can tell"
    assert registry_prune._why("app/auth", [passed], unsure, dated) == ""
    for other in ("in-progress", "in-1", "test-1", "tests", f"in-{'1' * 17}"):
        assert registry_prune._why("app/auth", [tag, other], nobody, dated) == f"it is tagged {other}"
    theirs = dated._replace(ours=False)
    assert registry_prune._why("app/auth", [tag], nobody, theirs) == "it was not built by these tasks"
    assert registry_prune._why("app/auth", [passed], nobody, theirs) == ""


def test_age_counts_from_when_a_result_was_last_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as this machine saw: what says nothing of when it was made counts from when it was first seen."""
    file, now = tmp_path / "last-needed.json", time.time()

    def idle(after: float, *found: Item) -> list[float]:
        monkeypatch.setattr(time, "time", lambda: now + after)
        return [round(item.idle) for item in registry_prune._LastNeeded(file).heeded(found)]

    old, undated = Item("a", ItemKind.SHARED, "a", idle=1000.0), Item("b", ItemKind.SHARED, "b", idle=math.inf)
    assert idle(0, old, replace(undated, needed="a branch needs it")) == [1000, 0]
    assert idle(10, old, undated) == [1000, 10]
    assert idle(20, replace(old, needed="a branch needs it"), undated) == [0, 20]
    assert idle(50, old, undated, replace(undated, key="c")) == [30, 50, 0]
    file.unlink()
    assert idle(60, old, undated) == [1000, 0]


@pytest.mark.parametrize(
    ("config", "some"),
    [
        ({"os": "linux", "architecture": "arm64", "variant": "v8"}, {"linux/arm64"}),
        ({"os": "unknown", "architecture": "unknown"}, set()),
        ({"created": "2026-01-01T00:00:00Z"}, set()),
    ],
)
def test_what_is_no_image_is_of_no_platform(config: dict[str, str], some: set[str]) -> None:
    """Else all branches would be read once more, for a platform that there is not, and attested results stayed."""
    described = {"digest": f"sha256:{'0' * 64}", "size": 1}
    registry = SimpleNamespace(
        raw_manifest=lambda path, reference: json.dumps({"config": described, "layers": []}).encode(),
        small_blob=lambda path, digest: json.dumps(config).encode(),
    )
    held = Repository(registry, "app/auth").held("in-1")
    assert held is not None
    assert held.platforms == some


class Counting(Registry):
    """A registry in memory that holds results of nothing, and counts what it is asked."""

    def __init__(self, tags: dict[str, int]) -> None:
        super().__init__("localhost:1")
        vars(self.client)["send"] = self._sent
        self.asked: list[str] = []
        self.blobs = {number: self._text(number) for number in set(tags.values())}
        self.named = {tag: self._manifest_of(number) for tag, number in tags.items()}
        self.by_digest = {digest_of(text): text for text in (*self.named.values(), *self.blobs.values())}

    @staticmethod
    def _text(number: int) -> bytes:
        config = {"os": "linux", "architecture": "amd64", "created": "2026-01-01T00:00:00Z", "number": number}
        return json.dumps({**config, "config": {"Labels": {FINGERPRINT: "0"}}}).encode()

    def _manifest_of(self, number: int) -> bytes:
        config = {"digest": digest_of(self.blobs[number]), "size": len(self.blobs[number])}
        return json.dumps({"schemaVersion": 2, "config": config, "layers": []}).encode()

    def _sent(self, method: str, place: str, repository: str, *more: object) -> Answer:
        self.asked.append(f"{method} {place}")
        _, _, _, _, kind, reference = place.split("/")
        if kind == "tags":
            return Answer(200, {}, json.dumps({"tags": list(self.named)}).encode())
        if method == "DELETE":
            gone = self.by_digest.pop(reference)
            self.named = {tag: one for tag, one in self.named.items() if one is not gone}
            return Answer(202)
        text = self.named.get(reference) or self.by_digest.get(reference)
        return Answer(200, {}, text) if text and kind != "referrers" else Answer(404)


def results_of(registry: Registry, folder: Path, forgotten: list[str]) -> Any:
    """The results of a project with one image in a registry; the tags that go are added to ``forgotten``."""
    share = SimpleNamespace(registry=registry, gone=lambda path, tags: forgotten.extend(tags))
    run: Any = SimpleNamespace(
        project=SimpleNamespace(images={"one": Image("one", "app/one:latest", "/")}),
        settings=SimpleNamespace(registry_max_age=0.0),
        folder=folder,
        peers=SimpleNamespace(share=share),
    )
    return registry_prune._Results(run, ANY_AGE)


@pytest.mark.parametrize("stale", [True, False])
def test_a_tag_costs_three_requests_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stale: bool
) -> None:
    """2,000 of them cost 6,000."""
    tags = {f"in-{number:016x}": number for number in range(2000)}
    registry = Counting({**tags, "latest": 5000})
    needed = {} if stale else {("app/one", tag): "it is needed" for tag in tags}
    monkeypatch.setattr(git_states, "needed", lambda run, some, seconds: git_states.Needed(needed))
    forgotten: list[str] = []
    results = results_of(registry, tmp_path, forgotten)
    agreed = {item.key: item for item, _ in results.chosen().gone}
    results.remove([item for item, _ in results.chosen_again(agreed)])
    assert sorted(forgotten) == sorted(tags if stale else {})
    assert set(registry.named) == {"latest", *({} if stale else tags)}
    besides = 4  # the list of tags twice, and how this registry tells what is attached
    assert len(registry.asked) <= 3 * len(registry.blobs) + besides


@pytest.mark.parametrize("tag", [f"in-{2:016x}", "latest", "v1", f"in-{9:016x}"])
def test_what_got_another_tag_meanwhile_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, tag: str) -> None:
    """Also the last, which nothing needs that is known here: a machine just shared the same bytes by it."""
    stale, kept = f"in-{1:016x}", f"in-{2:016x}"
    registry = Counting({stale: 1, kept: 2, "latest": 3})
    monkeypatch.setattr(
        git_states, "needed", lambda run, some, seconds: git_states.Needed({("app/one", kept): "needed"})
    )
    results = results_of(registry, tmp_path, [])
    agreed = {item.key: item for item, _ in results.chosen().gone}
    assert [item.refs for item in agreed.values()] == [(stale,)]
    registry.named[tag] = registry.named[stale]
    assert results.chosen_again(agreed) == []


def test_of_an_index_that_goes_an_image_stays_that_another_has_too(
    server: loopback.Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And what is attached to it, and what has a tag of its own: two results may differ for one platform alone."""
    push, stale, kept = Pusher(server, "app/one"), f"in-{1:016x}", f"in-{2:016x}"

    def image(number: int) -> str:
        labels = {"os": "linux", "architecture": "amd64", "number": number, "config": {"Labels": {FINGERPRINT: "0"}}}
        return push.manifest("", labels, [])

    only, both, other = map(image, range(3))
    report, released = push.attach(both, b"of both", "a/report"), push.attach(only, b"of one", "a/report")
    push.tag("released", released)
    gone, stays = push.index(stale, [only, both]), push.index(kept, [both, other])
    needed = git_states.Needed({("app/one", kept): "needed"})
    monkeypatch.setattr(git_states, "needed", lambda run, some, seconds: needed)
    registry, forgotten = Registry(server.address), list[str]()
    results = results_of(registry, tmp_path, forgotten)
    results.remove([item for item, _ in results.chosen().gone])
    assert forgotten == [stale]
    for digest in (both, other, stays, report, released):
        assert registry.raw_manifest("app/one", digest)
    for digest in (only, gone):
        with pytest.raises(NoImage):
            registry.raw_manifest("app/one", digest)


@pytest.mark.parametrize(("registry", "why"), [("", "CACHE_REGISTRY is not set"), ("reg:5000", "CACHE_WRITE is off")])
def test_who_may_not_push_removes_nothing(registry: str, why: str) -> None:
    run: Any = SimpleNamespace(settings=SimpleNamespace(cache_registry=registry, cache_write=False))
    with pytest.raises(UserError, match=why):
        registry_prune.prune(run, [], dry_run=False, everything=False, yes=True, as_json=False)
