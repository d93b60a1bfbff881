"""What works with which registry, as docs/registries.md says: each against a double of its ways (``tests.hosted``)."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from doit_images.core.base import oci
from doit_images.core.base.references import digest_of
from doit_images.core.engine.client import Engine, LocalImage
from doit_images.core.planning.shared_image import SharedRef
from doit_images.share import referrers, signatures, signing, travel
from doit_images.share.builders import Builder
from doit_images.share.no_answer import Unavailable, told
from doit_images.share.registry import Registry
from doit_images.share.share import Share
from doit_images.share.trusted import Trust
from tests import loopback
from tests.conftest import ROOT, docker
from tests.hosted import KINDS, Hosted, Ways
from tests.owners import own

PLATFORM = "linux/amd64"
PATH = "app/one"
IMAGES = 3


class Team:
    """A registry of some kind, with the account that builds and who reads."""

    def __init__(self, service: loopback.Service, kind: str, folder: Path) -> None:
        self.kind, self.ways = kind, KINDS[kind]
        self.address = f"{service.address}/team"
        assert service.front
        self.front: Hosted = service.front
        self.said: list[str] = []
        key, now = folder / "key", time.time()
        builder = Builder("ci", signing.make_key(key), now - 60, now + 600)
        self.writer, self.reader = (Trust(1, [builder], file) for file in (key, None))
        self.registry = Registry(self.address)

    def share(self, trust: Trust) -> Share:
        return Share(self.address, write=True, say=self.said.append, trust=trust)

    def image(self, number: int, path: str = PATH) -> tuple[SharedRef, bytes]:
        """An image of nothing but a label, and its manifest; its configuration is in the registry."""
        made = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}
        config = json.dumps({**made, "config": {"Labels": {"number": str(number)}}}).encode()
        described = referrers.give_blob(self.registry, path, "application/vnd.oci.image.config.v1+json", config)
        manifest = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": described, "layers": []}
        fingerprint = hashlib.sha256(str(number).encode()).hexdigest()
        return SharedRef(path, fingerprint, PLATFORM), json.dumps(manifest).encode()

    def push(self, number: int) -> tuple[SharedRef, str]:
        wanted, text = self.image(number)
        self.registry.give_manifest(PATH, wanted.tag, oci.MANIFEST, text)
        return wanted, f"sha256:{hashlib.sha256(text).hexdigest()}"


@pytest.fixture(params=KINDS)
def team(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Team]:
    with loopback.registry(tmp_path / "registry", ways=KINDS[request.param]) as service:
        yield Team(service, request.param, tmp_path)


def test_what_is_pushed_and_signed_is_found_behind_other_attachments_and_listed_whole(team: Team) -> None:
    wanted = {}
    for number in range(IMAGES):
        each, digest = team.push(number)
        wanted[each.tag] = each
        for scan in range(3):
            note = referrers.Attachment("application/vnd.scan", f"scan {scan}".encode(), {})
            if team.ways.immutable is None or team.ways.referrers:  # else only one list can be left
                referrers.attach(team.registry, PATH, digest, note)
        signatures.give(team.registry, PATH, digest, team.writer.sign(digest, each.fingerprint, PLATFORM))
    assert team.registry.lists_referrers is team.ways.referrers
    reader = team.share(team.reader)
    found = reader.look(wanted)
    assert (found.keys(), team.said) == (wanted.keys(), [])
    assert reader.registry.lists_referrers is team.ways.referrers
    listed = {tag for tag in team.registry.tags(PATH) if tag.startswith("in-")}
    assert listed == wanted.keys()


def test_what_nobody_needs_is_deleted_or_said_to_stay(team: Team) -> None:
    wanted, digest = team.push(0)
    if team.ways.deletes:
        assert team.registry.delete_manifest(PATH, digest)
        assert team.registry.image(PATH, wanted.tag, PLATFORM) is None
    else:
        with pytest.raises(Unavailable, match="does not allow deletion"):
            team.registry.delete_manifest(PATH, digest)


def test_a_tag_that_is_there_stays_or_is_replaced(team: Team) -> None:
    wanted, digest = team.push(0)
    _, other = team.image(1)
    if team.ways.immutable is None:
        team.registry.give_manifest(PATH, wanted.tag, oci.MANIFEST, other)
    else:
        with pytest.raises(Unavailable) as refused:
            team.registry.give_manifest(PATH, wanted.tag, oci.MANIFEST, other)
        assert travel.stays(f"it {refused.value}")
        held = team.registry.image(PATH, wanted.tag, PLATFORM)
        assert held
        assert held.digest == digest


def test_a_repository_that_is_not_there_holds_nothing_and_is_made_or_asked_for(team: Team) -> None:
    wanted, _ = team.image(0)
    elsewhere = SharedRef("app/two", wanted.fingerprint, PLATFORM)
    assert team.share(team.reader).look({"": elsewhere}) == {}
    assert team.registry.tags("app/two") == []
    assert team.said == []
    if team.ways.made is None:
        team.image(0, "app/two")
        return
    with pytest.raises(Unavailable) as refused:
        team.image(0, "app/two")
    advice = travel.to_create(f"it {refused.value}", team.address, team.registry.client.repository("app/two"))
    assert advice.startswith("create `team/app/two` there first")


def test_an_image_that_is_looked_at_again_and_again_is_one_pull(team: Team) -> None:
    """Docker Hub counts each manifest that is fetched, and lets somebody without an account fetch some dozens."""
    wanted, _ = team.push(0)
    team.front.seen.clear()
    reader = team.share(Trust(0))
    for _ in range(5):
        assert reader.look({"": wanted})
        reader.forget(wanted)
    pulled = [path for method, path in team.front.seen if method == "GET" and "/manifests/" in path]
    assert len(pulled) == 1


def test_what_a_registry_says_to_list_and_does_not_is_listed_by_the_tag(tmp_path: Path) -> None:
    with loopback.registry(tmp_path / "registry", ways=Ways(referrers=False, says_so=True)) as service:
        team = Team(service, "Zot", tmp_path)
        wanted, digest = team.push(0)
        for _ in range(2):  # what was attached before that was tried, and after
            team.registry.lists_referrers = True
            bundle = team.writer.sign(digest, wanted.fingerprint, PLATFORM)
            signatures.give(team.registry, PATH, digest, bundle)
        assert team.share(team.reader).look({"": wanted})


@pytest.mark.parametrize(
    ("problem", "address", "advice"),
    [
        (
            "name unknown: The repository with name 'team/app' does not exist in the registry with id '1'",
            "1.dkr.ecr.eu-west-1.amazonaws.com",
            "create `team/app` there first, or the project that it is to be in "
            "(`aws ecr create-repository --repository-name team/app`)",
        ),
        ('name unknown: Repository "x" not found', "europe-docker.pkg.dev/p/x", "create `team/app` there first"),
        ("denied: requested access to the resource is denied", "reg", ""),
        ("manifest unknown", "reg", ""),
    ],
)
def test_what_has_to_be_created_is_said(problem: str, address: str, advice: str) -> None:
    said = travel.to_create(problem, address, "team/app")
    assert said.startswith(advice) if advice else said == ""
    if "amazonaws" in address:
        assert said == advice


def test_a_tag_stays_however_long_the_name_is_that_stands_before_the_reason() -> None:
    words = KINDS["ECR"].immutable
    assert words
    said = told(f"tag invalid: {words[2].format(tag='in-0123456789abcdef', repository='team/' + 'a' * 200)}")
    assert "immutable" not in said
    assert travel.stays(said)
    assert not travel.stays("Layer already exists")


@pytest.mark.engine
def test_the_engine_pushes_where_it_is_told_what_is_missing_and_what_stays(busybox: str, tmp_path: Path) -> None:
    """ECR: no repository comes by itself, and a tag stays what it is. Neither ends sharing, or the run."""
    prefix = own("registries-")
    docker("tag", busybox, f"{prefix}/one:1")
    image = LocalImage(docker("image", "inspect", "--format", "{{.Id}}", busybox).stdout.strip())
    one, *others = (
        SharedRef(f"app/{name}", f"{number:064x}", PLATFORM) for number, name in enumerate(("one", "two", "six"))
    )
    try:
        with loopback.registry(tmp_path / "registry", ways=KINDS["ECR"]) as service:
            team = Team(service, "ECR", tmp_path)
            share = team.share(Trust(0))
            for _ in range(2):
                for wanted in others:
                    assert share.push(wanted, image, Engine()) is None
            assert len(team.said) == 4
            assert all(": create `team/app/" in sentence for sentence in team.said)
            assert "The repository with name 'team/app/two' does not exist in the registry with id" in team.said[0]
            assert share.writes
            team.said.clear()
            pushed = [share.push(one, image, Engine()) for _ in range(4)]
            assert all(pushed)
            assert len({each.digest for each in pushed if each}) == 1
            assert len(team.said) == 1
            assert re.search(r"tags that are immutable .*: what is there stays", team.said[0])
            assert share.writes
    finally:
        docker("image", "rm", f"{prefix}/one:1")


def test_the_page_has_a_row_for_each() -> None:
    page = (ROOT / "docs" / "registries.md").read_text()
    assert set(re.findall(r"^\| \*\*(.+?)\*\*", page, re.MULTILINE)) == KINDS.keys()


@pytest.mark.parametrize(
    ("subject", "media"),
    [
        (b'{"manifests": []}', oci.INDEX),
        (b'{"config": {}, "layers": []}', oci.MANIFEST),
        (b'{"mediaType": "its own", "manifests": []}', "its own"),
    ],
)
def test_what_something_is_attached_to_is_called_what_it_is(subject: bytes, media: str) -> None:
    written: list[bytes] = []

    def give(path: str, digest: str, kind: str, text: bytes) -> bool:
        written.append(text)
        return True

    registry = SimpleNamespace(
        raw_manifest=lambda *_: subject,
        give_blob=lambda *_: None,
        give_manifest=give,
        listing=lambda *_: {"manifests": [{"digest": digest_of(written[0])}]},
    )
    referrers.attach(registry, PATH, digest_of(subject), referrers.Attachment("application/vnd.scan", b"", {}))
    assert [json.loads(text)["subject"]["mediaType"] for text in written] == [media]
