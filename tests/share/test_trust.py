"""Whose results are taken: nothing that is not signed, for just this, by somebody who is trusted now."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import subprocess
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.ci.results import shared as passes
from doit_images.ci.results.result import Result
from doit_images.core.base import oci, settings
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.shared_image import SharedImage, SharedRef
from doit_images.share import builders as listing
from doit_images.share import by_docker, referrers, share, signatures, signing, transfer, trusted
from doit_images.share.builders import Builder
from doit_images.share.client import Client
from doit_images.share.no_answer import NoImage
from doit_images.share.registry import Registry
from doit_images.share.share import Share
from doit_images.share.signing import BUNDLE, IMAGES, PREDICATES, TESTS, Claim, Forged, Key
from doit_images.share.transport import Answer
from doit_images.share.trusted import Claimed, Trust
from doit_images.ui import doctor
from tests import loopback

NOW = 1_800_000_000.0
DAY = 86400.0
SBOM = "https://spdx.dev/Document/v2.3"
FINGERPRINT, DIGEST, PLATFORM = "ab" * 32, f"sha256:{'cd' * 32}", "linux/amd64"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Key]:
    folder = tmp_path_factory.mktemp("keys")
    made = {}
    for name in ("ci", "ann", "old", "new", "thief", "other", "stranger"):
        signing.make_key(folder / name)
        made[name] = Key(folder / name)
    return made


@pytest.fixture(scope="module")
def builders(keys: dict[str, Key]) -> list[Builder]:
    year = 365 * DAY
    return [
        Builder("ci", keys["ci"].public, NOW - year, NOW + year),
        Builder("ann", keys["ann"].public, NOW - year, NOW + year),
        Builder("old", keys["old"].public, NOW - year, NOW - DAY),
        Builder("new", keys["new"].public, NOW + DAY, NOW + year),
        Builder("thief", keys["thief"].public, NOW - year, NOW + year, revoked=NOW - DAY),
        Builder("other", keys["other"].public, NOW - year, NOW + year, may=(TESTS,)),
    ]


def trust_of(builders: list[Builder], need: int = 1) -> Trust:
    return Trust(need, builders, now=lambda: NOW)


def signed(key: Key, **other: Any) -> str:
    claim = Claim(DIGEST, FINGERPRINT, PLATFORM, "ci", int(NOW - 3600))
    return key.sign(claim._replace(**other)).decode()


def test_what_a_trusted_builder_signed_is_taken(keys: dict[str, Key], builders: list[Builder]) -> None:
    trust = trust_of(builders)
    assert trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [signed(keys["ci"])]) == ""
    noise = ["", "{}", "[" * 5000, signed(keys["stranger"])]
    assert trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [*noise, signed(keys["ci"])]) == ""
    assert Trust(0).refuses(DIGEST, FINGERPRINT, PLATFORM, []) == ""


def test_a_signature_behind_many_others_is_found(keys: dict[str, Key], builders: list[Builder]) -> None:
    """Whoever may push may attach any number of things."""
    noise = ["{}", "", signed(keys["stranger"])] * 100
    forged = [hinting(signed(keys["stranger"]), keys["ann"].public)] * 100
    trust = trust_of(builders)
    assert trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [*noise, *forged, signed(keys["ci"])]) == ""
    many = [hinting(signed(keys["stranger"]), keys["ci"].public)] * 100
    why = trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [*noise, *many, signed(keys["ci"])])
    assert why == "of more than 64 signatures in the name of ci the first 64 are not good, and no more are looked at"


def test_no_more_is_fetched_than_has_to_be(keys: dict[str, Key], builders: list[Builder]) -> None:
    def bundles() -> Iterator[str]:
        yield signed(keys["ci"])
        pytest.fail("one is enough")

    assert trust_of(builders).refuses(DIGEST, FINGERPRINT, PLATFORM, bundles()) == ""


def enveloped(bundle: str, **other: Any) -> str:
    whole = json.loads(bundle)
    whole["dsseEnvelope"] |= other
    return json.dumps(whole)


def restated(bundle: str, change: Callable[[dict[str, Any]], Any]) -> str:
    """A bundle whose statement is changed, with the signature that it had."""
    statement = json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))
    change(statement)
    return enveloped(bundle, payload=base64.b64encode(json.dumps(statement, sort_keys=True).encode()).decode())


def claimed(name: str, value: str) -> Callable[[dict[str, Any]], None]:
    return lambda statement: statement["subject"][0]["annotations"].update({f"doit-images.{name}": value})


def hinting(bundle: str, public: str) -> str:
    whole = json.loads(bundle)
    whole["verificationMaterial"]["publicKey"]["hint"] = signing.hint_of(public)
    return json.dumps(whole)


ATTACKS: dict[str, tuple[Callable[[dict[str, Key], str, str], list[str]], str]] = {
    # what is attached to an image with this digest under this fingerprint, and what is said of it
    "unsigned": (lambda keys, digest, number: [], "not signed"),
    "half written": (lambda keys, digest, number: [sign_for(keys["ci"], digest, number)[:400]], "not a signature"),
    "empty": (lambda keys, digest, number: ["", "null", "[]", "{}"], "not a signature"),
    "by a stranger": (lambda keys, digest, number: [sign_for(keys["stranger"], digest, number)], "no trusted builder"),
    "a stranger who names a trusted key": (
        lambda keys, digest, number: [hinting(sign_for(keys["stranger"], digest, number), keys["ci"].public)],
        "not a signature",
    ),
    "in another's name": (
        lambda keys, digest, number: [sign_for(keys["ann"], digest, number, builder="ci")], "something else",
    ),
    "copied from another fingerprint": (
        lambda keys, digest, number: [sign_for(keys["ci"], digest, "99" * 32)], "something else",
    ),
    "of another image": (
        lambda keys, digest, number: [sign_for(keys["ci"], f"sha256:{'0' * 64}", number)], "something else",
    ),
    "of another platform": (
        lambda keys, digest, number: [sign_for(keys["ci"], digest, number, platform="linux/arm64")], "something else",
    ),
    "of tests": (
        lambda keys, digest, number: [sign_for(keys["ci"], digest, number, about=TESTS)], "something else",
    ),
    "of a document": (
        lambda keys, digest, number: [sign_for(keys["ci"], digest, number, about=SBOM)], "something else",
    ),
    "by one who may only sign other things": (
        lambda keys, digest, number: [sign_for(keys["other"], digest, number, builder="other")], "may not sign",
    ),
    "by an expired key": (lambda keys, digest, number: [sign_for(keys["old"], digest, number, builder="old",
                          signed=int(NOW - 30 * DAY))], "has expired"),
    "by a revoked key": (lambda keys, digest, number: [sign_for(keys["thief"], digest, number, builder="thief",
                         signed=int(NOW - 30 * DAY))], "is revoked"),
    "by a key of tomorrow": (lambda keys, digest, number: [sign_for(keys["new"], digest, number, builder="new",
                             signed=int(NOW + 2 * DAY))], "is not valid yet"),
    "stale": (lambda keys, digest, number: [sign_for(keys["ci"], digest, number, signed=int(NOW - 400 * DAY))],
              "is not valid yet"),
    "of the future": (lambda keys, digest, number: [sign_for(keys["ci"], digest, number, signed=int(NOW + DAY))],
                      "of the future"),
    "made to fit afterwards": (
        lambda keys, digest, number: [
            restated(sign_for(keys["ci"], digest, "99" * 32), claimed("fingerprint", number))
        ],
        "not a signature",
    ),
    "another kind of envelope": (
        lambda keys, digest, number: [enveloped(sign_for(keys["ci"], digest, number), payloadType="text/plain")],
        "not a signature",
    ),
    "signed by several at once": (
        lambda keys, digest, number: [
            enveloped(bundle := sign_for(keys["ci"], digest, number),
                      signatures=json.loads(bundle)["dsseEnvelope"]["signatures"] * 2)
        ],
        "not a signature",
    ),
}  # fmt: skip


def sign_for(key: Key, digest: str, fingerprint: str, **other: Any) -> str:
    return signed(key, digest=digest, fingerprint=fingerprint, **other)


@pytest.mark.parametrize("attack", ATTACKS)
def test_what_is_not_signed_as_it_must_be_is_not_taken(
    keys: dict[str, Key], builders: list[Builder], attack: str
) -> None:
    attached, why = ATTACKS[attack]
    assert why in trust_of(builders).refuses(DIGEST, FINGERPRINT, PLATFORM, attached(keys, DIGEST, FINGERPRINT))


@given(data=st.data())
def test_a_changed_bundle_says_what_was_signed_or_nothing(data: st.DataObject, keys: dict[str, Key]) -> None:
    """Any byte may change: whatever is still read as a signature says what the key's holder said."""
    bundle = bytearray(signed(keys["ci"]).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        bundle[data.draw(st.integers(0, len(bundle) - 1))] = data.draw(st.integers(0, 255))
    try:
        claim = signing.claim_of(bundle.decode(errors="replace"), keys["ci"].public)
    except Forged:
        return
    assert claim == Claim(DIGEST, FINGERPRINT, PLATFORM, "ci", int(NOW - 3600))


def test_different_builders_must_agree_where_more_than_one_is_wanted(
    keys: dict[str, Key], builders: list[Builder]
) -> None:
    two = trust_of(builders, 2)
    ci, ann = signed(keys["ci"]), signed(keys["ann"], builder="ann")
    assert two.refuses(DIGEST, FINGERPRINT, PLATFORM, [ci, ci, ci]) == "1 of the 2 required builders signed it"
    assert two.refuses(DIGEST, FINGERPRINT, PLATFORM, [ci, ann]) == ""


def test_who_may_sign_tests_signs_no_images_and_no_statement_is_taken_for_the_other(keys: dict[str, Key]) -> None:
    image, passed = Claimed(DIGEST, FINGERPRINT, PLATFORM), Claimed(DIGEST, FINGERPRINT, PLATFORM, TESTS)
    document = Claimed(DIGEST, FINGERPRINT, PLATFORM, SBOM)
    bundles = {image: signed(keys["ci"]), passed: signed(keys["ci"], about=TESTS, predicate={"result": "PASSED"})}
    bundles[document] = signed(keys["ci"], about=SBOM, predicate={"spdxVersion": "SPDX-2.3"})
    statement = json.loads(base64.b64decode(json.loads(bundles[passed])["dsseEnvelope"]["payload"]))
    assert statement["predicateType"] == "https://in-toto.io/attestation/test-result/v0.1"
    assert statement["predicate"] == {"result": "PASSED"}
    assert signing.claim_of(bundles[passed], keys["ci"].public).predicate == {"result": "PASSED"}

    def doubts(may: tuple[str, ...]) -> dict[tuple[str, str], str]:
        trust = trust_of([Builder("ci", keys["ci"].public, NOW - 365 * DAY, NOW + DAY, may=may)])
        return {(wanted.about, by.about): trust.judge(wanted, [bundles[by]])[0] for wanted in bundles for by in bundles}

    other = dict.fromkeys(permutations((IMAGES, TESTS, SBOM), 2), "its signature is for something else")
    same = [(IMAGES, IMAGES), (TESTS, TESTS), (SBOM, SBOM)]
    assert doubts((IMAGES, TESTS)) == {**dict.fromkeys(same, ""), **other}
    no = "ci may not sign images"
    assert doubts((TESTS,)) == {same[0]: no, same[1]: "", same[2]: no, **other}
    assert doubts((IMAGES,)) == {same[0]: "", same[1]: "ci may not sign tests", same[2]: "", **other}


# ---- the list and the settings


def test_a_key_is_made_and_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed, key = tmp_path / "trusted.toml", tmp_path / "deep" / "ci.key"
    chosen = settings.Settings(cache_registry="reg:5000", share_builders=str(listed), share_key=str(key))
    assert listing.begin(chosen, "ci", key, 30) == (key, listed)
    assert key.stat().st_mode & 0o777 == 0o600
    assert "PRIVATE" not in listed.read_text()
    trust = trusted.of(chosen)
    assert (trust.need, trust.cannot_sign) == (1, "")
    bundle = trust.sign(DIGEST, FINGERPRINT, PLATFORM).decode()
    assert trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle]) == ""
    with pytest.raises(UserError, match="there is a key already"):
        listing.begin(chosen, "ci", key, 30)
    listing.begin(chosen, "ann", tmp_path / "ann.key", 30)
    assert [each.name for each in listing.read(listed)] == ["ci", "ann"]
    # Revoked by one line, whatever the signature says of its time.
    listed.write_text(listed.read_text().replace('name = "ci"', 'name = "ci"\nrevoked = true'))
    assert trusted.of(chosen).refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle]) == "the key of ci is revoked"
    assert trusted.of(chosen).cannot_sign == "the key of ci is revoked"
    listed.write_text(listed.read_text().replace("revoked = true", 'may = ["tests"]'))
    assert trusted.of(chosen).cannot_sign == "ci may not sign images"
    assert trusted.of(chosen).cannot_sign_of(TESTS) == ""
    key.chmod(0o644)
    with pytest.raises(UserError, match="others may read SHARE_KEY"):
        trusted.of(chosen).cannot_sign  # noqa: B018


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[[builder]", "line 1"),
        ("[[trusted]]\nname = 'ci'", "not trusted"),
        ("[[builder]]\nkey = 'x'", "builder 1 has no name"),
        ("[[builder]]\nname = 'ci'\nkey = 'MCow'\nfrom = 2026-01-01\nuntil = 2027-01-01", "no Ed25519 public key"),
        ("[[builder]]\nname = 'ci'\nkey = 'KEY'\nuntil = 2027-01-01", r"builder 1 \(ci\): from must be a date"),
        ("[[builder]]\nname = 'ci'\nkey = 'KEY'\nfrom = 2026-01-01", "until must be a date"),
        ("[[builder]]\nname = 'ci'\nkey = 'KEY'\nfrom = 2026-01-01\nuntil = '2027'", "until must be a date"),
        ("[[builder]]\nname = 'ci'\nexpires = 1\nkey = 'KEY'", "expires, which is unknown"),
        ("[[builder]]\nname = 'ci'\nmay = ['all']\nkey = 'KEY'\nfrom = 2026-01-01\nuntil = 2027-01-01", "may must be"),
        (2 * "[[builder]]\nname = 'ci'\nkey = 'KEY'\nfrom = 2026-01-01\nuntil = 2027-01-01\n", "the same key"),
    ],
)
def test_a_list_that_is_wrong_is_told_and_trusts_nobody(
    keys: dict[str, Key], tmp_path: Path, text: str, why: str
) -> None:
    file = tmp_path / "list.toml"
    file.write_text(text.replace("KEY", keys["ci"].public))
    with pytest.raises(UserError, match=why) as told:
        trusted.of(settings.Settings(share_builders=str(file)))
    assert str(file) in str(told.value)


def test_what_is_trusted_by_default(keys: dict[str, Key], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert trusted.of(settings.Settings()).need == 0
    for each in (settings.Settings(share_trust="signed"), settings.Settings(share_key="key")):
        with pytest.raises(UserError, match="there is no list of trusted builders"):
            trusted.of(each)
    (tmp_path / listing.LIST).write_text(listing.entry("ci", {"key": keys["ci"].public}, 9, NOW))
    assert trusted.of(settings.Settings()).need == 1
    assert trusted.of(settings.Settings(share_trust="2")).need == 2
    assert trusted.of(settings.Settings(share_trust="any")).need == 0
    assert trusted.of(settings.Settings()).cannot_sign == "it has no SHARE_KEY"
    with pytest.raises(UserError, match="SHARE_TRUST must be any, signed, or how many"):
        settings.load(tmp_path, {"SHARE_TRUST": "everybody"})


@pytest.mark.parametrize(
    ("address", "given", "reads"),
    [
        ("registry.example.org/team", {}, False),
        ("localhost.example.org:5000", {}, False),
        ("10.0.0.7:5000", {}, False),
        ("registry.example.org/team", {"share_trust": "any"}, True),
        ("localhost:5000/team", {}, True),
        ("127.0.0.2:5000", {}, True),
        ("[::1]:5000", {}, True),
        ("registry.example.org", "list", True),
    ],
)
def test_results_from_elsewhere_count_once_somebody_said_whose(
    keys: dict[str, Key], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, given: Any, reads: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    if given == "list":
        given = {}
        (tmp_path / listing.LIST).write_text(listing.entry("ci", {"key": keys["ci"].public}, 9, NOW))
    said: list[str] = []
    chosen = settings.Settings(cache_registry=address, **given)
    one = share.of(chosen, said.append)
    wanted = SharedRef("one", number_of(1), PLATFORM)
    assert (one.reads, one.unasked({"": wanted}) == {}, len(said)) == (reads, not reads, 0 if reads else 1)
    if not reads:
        assert (one.look({"": wanted}), one.writes, one.writes_of(TESTS)) == ({}, False, False)
        assert all(word in said[0] for word in (address, "`doit share_key NAME`", "`echo SHARE_TRUST=any >> .env`"))
        [finding] = doctor._trust(chosen)
        assert (finding.verdict, finding.detail, finding.remedy) == ("warn", *trusted.undecided(address))


def test_doctor_says_who_is_trusted(tmp_path: Path) -> None:
    def found(**given: str) -> tuple[str, str]:
        finding, *_ = doctor._trust(settings.Settings(cache_registry="reg:5000", **given))
        return finding.verdict, finding.detail

    listed, key = str(tmp_path / "list.toml"), str(tmp_path / "key")
    assert found(share_trust="any") == ("warn", trusted.anybody("reg:5000"))
    assert "anyone who may push to reg:5000 decides" in trusted.anybody("reg:5000")
    assert found(share_builders=listed)[0] == "fail"
    listing.begin(settings.Settings(share_builders=listed), "ci", Path(key), 30)
    assert found(share_builders=listed) == ("warn", "this machine shares nothing: it has no SHARE_KEY")
    assert found(share_builders=listed, share_key=key)[0] == "ok"
    assert found(share_builders=listed, share_key=listed)[0] == "fail"


def test_a_key_that_ends_within_a_month_is_told_before(keys: dict[str, Key], tmp_path: Path) -> None:
    old = Builder("ci", keys["ci"].public, NOW - DAY, NOW + 29.5 * DAY)
    by_ci = Builder("actions", "", NOW - DAY, NOW + DAY, issuer="https://a", identity="https://b")
    others = [
        replace(old, name="later", until=NOW + 31 * DAY),
        replace(old, name="over", until=NOW - 1),
        replace(old, name="gone", revoked=0.0),
        replace(old, name="next"),
        replace(old, name="next", key=keys["new"].public, until=NOW + 365 * DAY),
    ]
    key = "the key of ci ends on 2027-02-13, in 29 days: `doit share_key ci NEW-FILE`, which SHARE_KEY then names"
    identity = "the identity of actions ends on 2027-01-16, in 1 days: give it a later `until` in trusted-builders.toml"
    assert trust_of([*others, old, by_ci]).ending() == [identity, key]
    # Who signs is told once, also where the next key is listed: it signs with the one that ends.
    signing.make_key(tmp_path / "key")
    own = replace(old, key=Key(tmp_path / "key").public)
    trust, said = Trust(1, [own, replace(others[-1], name="ci")], tmp_path / "key", lambda: NOW), list[str]()
    trust.say = said.append
    for _ in range(2):
        trust.sign(DIGEST, FINGERPRINT, PLATFORM)
    assert (trust.ending(), said) == ([], [key])


# ---- a real registry

CONFIG = json.dumps(
    {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []},
     "config": {"Labels": {"doit-images.own": "1"}}}
).encode()  # fmt: skip
LABELS = {"doit-images.own": "1"}


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


class Store:
    """A repository of a registry, with images of nothing that differ by a number."""

    def __init__(self, address: str, folder: Path) -> None:
        self.registry = Registry(address)
        self.path = "app/one"
        self._blobs = folder / "registry/data/docker/registry/v2/blobs/sha256"
        (folder / "blob").write_bytes(CONFIG)
        self.registry.give_blob(self.path, digest_of(CONFIG), folder / "blob")
        self.some = self.image(0, "some")

    def image(self, number: int, tag: str) -> str:
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(CONFIG)}
        whole = {
            "schemaVersion": 2, "mediaType": oci.MANIFEST, "layers": [], "annotations": {"number": str(number)},
            "config": config | {"size": len(CONFIG)},
        }  # fmt: skip
        text = json.dumps(whole).encode()
        self.registry.give_manifest(self.path, tag, oci.MANIFEST, text)
        return digest_of(text)

    def halve(self, digest: str) -> None:
        """Let the registry hold half of a manifest, as after a crash while it was written."""
        file = self._blobs / digest[7:9] / digest[7:] / "data"
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])

    def attach(self, digest: str, bundles: list[str]) -> None:
        """Attach bundles, as somebody would who cares for no rules."""
        config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(CONFIG)}
        for number, bundle in enumerate(bundles):
            manifest = {
                "schemaVersion": 2, "mediaType": oci.MANIFEST, "artifactType": signing.BUNDLE, "layers": [],
                "subject": {"mediaType": oci.MANIFEST, "digest": digest, "size": 1},
                "config": config | {"size": len(CONFIG)},
                "annotations": {"doit-images.bundle": bundle, "number": str(number)},
            }  # fmt: skip
            text = json.dumps(manifest).encode()
            self.registry.give_manifest(self.path, digest_of(text), oci.MANIFEST, text)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("trust")
    with loopback.registry(folder / "registry") as service:
        yield Store(service.address, folder)


def number_of(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()


BROKEN = "it is nothing that could be read"


def test_of_hundreds_of_forged_results_none_is_taken(
    store: Store, keys: dict[str, Key], builders: list[Builder]
) -> None:
    """Each has the tag of a fingerprint that somebody wants. A few good ones among them show that all were looked at.
    1,000 take half a minute: `FORGED_RESULTS=1000 doit test tests/share/test_trust.py`."""
    count = int(os.environ.get("FORGED_RESULTS", "100"))
    attacks = list(ATTACKS.values())

    def put(number: int) -> tuple[str, SharedRef, str]:
        fingerprint, good = number_of(number), number % 50 == 0
        wanted = SharedRef("one", fingerprint, PLATFORM)
        digest = store.image(number, wanted.tag)
        attached, why = attacks[number % len(attacks)]
        broken = number % 25 == 0 and not good  # signed as it must be, but the image is half written
        right = good or broken
        if bundles := [sign_for(keys["ci"], digest, fingerprint)] if right else attached(keys, digest, fingerprint):
            store.attach(digest, bundles)
        if broken:
            store.halve(digest)
        return str(number), SharedRef("app/one", fingerprint, PLATFORM), BROKEN if broken else "" if good else why

    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(put, range(1, count + 1)))
    refused = {name: why for name, _, why in made if why not in ("", BROKEN)}
    todo, taken, told = {name: wanted for name, wanted, _ in made}, set[str](), dict[str, str]()
    for _ in range(5):  # a registry that has much to do answers a question too late, which says nothing of the image
        said: list[str] = []
        sharing = Share(store.registry.address, write=True, say=said.append, trust=trust_of(builders))
        taken |= sharing.look(todo).keys()
        told |= {line.split("`")[1]: line for line in said if "is not taken: " in line}
        assert len(said) == len(set(said)), "each is said once"
        todo = {
            name: wanted
            for name, wanted, why in made
            if (name not in taken if not why else name in refused and f"app/one:{wanted.tag}" not in told)
        }
        if not todo:
            break
    assert taken == {name for name, _, why in made if not why}
    assert len(taken) == count // 50
    for name, wanted, _ in made:
        assert refused.get(name, "") in told.get(f"app/one:{wanted.tag}", ""), refused[name]
    assert sharing.look({"once": made[0][1]}) == {}
    before = len(said)
    sharing.forget(made[0][1])
    assert sharing.look({"again": made[0][1]}) == {}
    assert len(said) == before


class Turned:
    """A key that signs that tests passed where it is to sign an image, and an image where it is to sign that."""

    def __init__(self, key: Key) -> None:
        self._key, self.public = key, key.public

    def sign(self, claim: Claim) -> bytes:
        passed: dict[str, Any] = {"result": "PASSED", "configuration": []}
        about, predicate = (TESTS, passed) if claim.about == IMAGES else (IMAGES, {})
        return self._key.sign(claim._replace(about=about, predicate=predicate))


def test_of_hundreds_of_forged_passes_of_tests_none_is_taken(
    store: Store, keys: dict[str, Key], builders: list[Builder]
) -> None:
    """Each lies where somebody looks for it, and says of itself that the tests passed on just that. 1,000 take half a
    minute, as above."""
    count = int(os.environ.get("FORGED_RESULTS", "100"))
    turned: Any = {name: Turned(key) for name, key in keys.items()}
    may = [replace(each, may=(IMAGES,)) if each.name == "other" else each for each in builders]
    config = referrers.give_blob(store.registry, store.path, oci.MANIFEST, b"{}")

    def put(number: int) -> tuple[str, str]:
        fingerprint = number_of(10_000 + number)
        passed = zlib.compress(json.dumps(Result("web", fingerprint, 1.0, NOW).kept()).encode())
        layer = referrers.give_blob(store.registry, store.path, f"{passes.KIND}+zlib", passed)
        whole = {"schemaVersion": 2, "mediaType": oci.MANIFEST, "config": config, "layers": [layer]}
        text = json.dumps(whole | {"artifactType": passes.KIND}).encode()
        store.registry.give_manifest(store.path, passes.tag_of(fingerprint), oci.MANIFEST, text)
        attached, why = [*ATTACKS.values()][number % len(ATTACKS)]
        good = number > count
        if (
            bundles := [sign_for(turned["ci"], digest_of(text), fingerprint)]
            if good
            else attached(turned, digest_of(text), fingerprint)
        ):
            store.attach(digest_of(text), bundles)
        return fingerprint, "" if good else why

    with ThreadPoolExecutor(8) as pool:
        made = dict(pool.map(put, range(1, count + 6)))
    said: list[str] = []
    share = Share(store.registry.address, write=False, say=said.append, trust=trust_of(may))
    found = passes.SharedResults(share, lambda: PLATFORM, said.append).look(dict.fromkeys(made, store.path))
    assert found.keys() == {fingerprint for fingerprint, why in made.items() if not why}
    assert len(found) == 5
    told = {sentence.split("`")[1]: sentence for sentence in said}
    assert len(said) == len(told) == count
    for fingerprint, why in made.items():
        assert not why or why in told[f"{store.path}:{passes.tag_of(fingerprint)}"], why


class Engine:
    """An engine of which only what it holds counts; a push to the registry is what ``pushes`` does."""

    address = "tcp://127.0.0.1:1"

    def __init__(self, content: str) -> None:
        self.content = content

    def config_of(self, image_id: str) -> Engine:
        return self

    def tagged(self, ref: str) -> str:
        return ""

    def tag(self, image_id: str, ref: str) -> None: ...

    def untag(self, ref: str) -> None: ...


def test_what_is_pushed_is_signed_and_one_more_request_is_all_that_a_reader_needs(
    store: Store, keys: dict[str, Key], builders: list[Builder], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SharedRef("app/one", number_of(-1), PLATFORM)
    digest = store.image(-1, wanted.tag)
    own = tmp_path / "key"
    builder = Builder("here", signing.make_key(own), NOW - DAY, NOW + DAY)
    said: list[str] = []

    def machine(need: int, key: Path | None) -> Share:
        return Share(
            store.registry.address,
            write=True,
            say=said.append,
            trust=Trust(need, [*builders, builder], key, lambda: NOW),
        )

    reader, writer = machine(1, None), machine(1, own)
    assert not reader.writes
    assert writer.writes
    # The image is there, without a signature, and is what was built here: it is signed, not sent again.
    content = store.registry.image("app/one", wanted.tag, PLATFORM)
    assert content is not None
    assert writer.look({"": wanted}) == {}
    monkeypatch.setattr(by_docker, "moved", lambda *words: pytest.fail("it is there"))
    pushed = writer.push(wanted, LocalImage("id", labels=LABELS), Engine(content.content))
    assert pushed is not None
    assert pushed.digest == digest
    asked: list[str] = []
    send = Client.send
    monkeypatch.setattr(
        Client, "send", lambda self, method, place, *more: asked.append(place) or send(self, method, place, *more)
    )
    assert reader.look({"": wanted})[""].digest == digest
    assert [path.split("/")[4] for path in asked] == ["manifests", "manifests", "blobs", "referrers"]
    asked.clear()
    reader.forget(wanted)
    assert reader.look({"": wanted})[""].digest == digest
    assert len(asked) == 1, "what was good is judged again, and not fetched again"
    # What another machine pushed meanwhile is not signed.
    other = SharedRef("app/one", number_of(-2), PLATFORM)
    store.image(-2, other.tag)
    monkeypatch.setattr(by_docker, "moved", lambda *words: "")
    assert writer.push(other, LocalImage("id", labels=LABELS), Engine("another")) is None
    assert reader.look({"": other}) == {}
    # Where two must agree, the first one's is there, and not taken.
    assert machine(2, None).look({"": wanted}) == {}
    assert said[-1].endswith("1 of the 2 required builders signed it")
    # The second builder that made the same says so too, and sends nothing.
    another = tmp_path / "another"
    builders = [*builders, Builder("there", signing.make_key(another), NOW - DAY, NOW + DAY)]
    monkeypatch.setattr(by_docker, "moved", lambda *words: pytest.fail("it is there"))
    second = machine(2, another)
    assert second.look({"": wanted}) == {}
    assert second.push(wanted, LocalImage("id", labels=LABELS), Engine(content.content)) is not None
    assert machine(2, None).look({"": wanted})[""].signatures.keys() == {"here", "there"}


def test_of_several_platforms_the_index_is_signed(
    store: Store, keys: dict[str, Key], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SharedRef("app/one", number_of(-8), "linux/amd64, linux/arm64")
    arm = CONFIG.replace(b"amd64", b"arm64")
    (tmp_path / "arm").write_bytes(arm)
    store.registry.give_blob(store.path, digest_of(arm), tmp_path / "arm")
    config = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest_of(arm), "size": len(arm)}
    other = json.dumps({"schemaVersion": 2, "mediaType": oci.MANIFEST, "layers": [], "config": config}).encode()
    store.registry.give_manifest(store.path, digest_of(other), oci.MANIFEST, other)
    manifests = [
        {
            "mediaType": oci.MANIFEST,
            "digest": digest,
            "size": 1,
            "platform": {"os": "linux", "architecture": name},
        }
        for name, digest in (("amd64", store.image(-8, "amd")), ("arm64", digest_of(other)))
    ]
    index = json.dumps({"schemaVersion": 2, "mediaType": oci.INDEX, "manifests": manifests}).encode()
    own = tmp_path / "key"
    trust = Trust(1, [Builder("here", signing.make_key(own), NOW - DAY, NOW + DAY)], own, lambda: NOW)
    writer = Share(store.registry.address, write=True, say=print, trust=trust)
    monkeypatch.setattr(
        transfer, "push", lambda registry, path, tags, whole: registry.give_manifest(
            path, wanted.tag, oci.INDEX, index
        )
    )  # fmt: skip
    whole = transfer.Whole(digest_of(index), digest_of(index), tmp_path)
    pushed = writer.push(wanted, LocalImage("id", labels=LABELS), Engine(""), whole=whole)
    assert pushed is not None
    assert (pushed.digest, pushed.signatures.keys()) == (digest_of(index), {"here"})


def test_what_an_older_version_signed_and_attached_is_taken(
    store: Store, keys: dict[str, Key], builders: list[Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SharedRef("app/one", number_of(-8), PLATFORM)
    digest = store.image(-8, wanted.tag)
    with monkeypatch.context() as before:
        before.setattr(signing, "_CLAIMED", "vllm-swarm.")
        before.setattr(signatures, "_NOTE", "vllm-swarm.bundle")
        bundle = sign_for(keys["ci"], digest, wanted.fingerprint)
        signatures.give(store.registry, store.path, digest, bundle.encode())
    assert signing.claim_of(bundle, keys["ci"].public).fingerprint == wanted.fingerprint
    monkeypatch.setattr(referrers, "content_of", None)  # it is on the list, as today's are
    sharing = Share(store.registry.address, write=True, say=print, trust=trust_of(builders))
    assert sharing.look({"": wanted})[""].signatures == {"ci": bundle}


def test_what_others_attached_is_fetched_and_half_written_things_count_for_nothing(
    store: Store, keys: dict[str, Key], builders: list[Builder]
) -> None:
    """As `cosign sign` attaches a bundle: without our annotation. And what else may lie there."""
    wanted = SharedRef("app/one", number_of(-7), PLATFORM)
    digest = store.image(-7, wanted.tag)
    sharing = Share(store.registry.address, write=True, say=print, trust=trust_of(builders))

    def attach(content: bytes) -> None:
        referrers.attach(store.registry, store.path, digest, referrers.Attachment(BUNDLE, content, {}))

    for junk in (b"", b"\xff\xfe", b"{}"):
        attach(junk)
    assert sharing.look({"": wanted}) == {}
    attach(sign_for(keys["ci"], digest, wanted.fingerprint).encode())
    sharing.forget(wanted)
    assert sharing.look({"": wanted})[""].signatures.keys() == {"ci"}


class Known:
    """An index in memory, in which somebody may have written anything."""

    def __init__(self) -> None:
        self.images: dict[str, SharedImage] = {}

    def shared(self, names: list[str]) -> dict[str, SharedImage]:
        return {name: self.images[name] for name in names if name in self.images}

    def keep_shared(self, images: dict[str, SharedImage], seconds: float) -> None:
        self.images |= images


class Referred(Registry):
    """A registry in memory that knows what is attached, in pages of two."""

    def __init__(self, bundles: list[tuple[str, dict[str, str]]]) -> None:
        super().__init__("localhost:1")
        self.asked: list[str] = []
        self._held: dict[str, bytes] = {}
        self._entries = [self._entry(text.encode(), notes) for text, notes in bundles]
        vars(self.client)["send"] = self._sent

    def _entry(self, content: bytes, notes: dict[str, str]) -> dict[str, Any]:
        manifest = json.dumps({"layers": [{"digest": digest_of(content)}], "annotations": notes}).encode()
        self._held |= {digest_of(text): text for text in (content, manifest)}
        return {"artifactType": BUNDLE, "digest": digest_of(manifest), "annotations": notes}

    def _sent(self, method: str, place: str, *more: object) -> Answer:
        self.asked.append(place)
        if "/referrers/" not in place:
            return Answer(200, {}, self._held[place.rpartition("/")[2]])
        path, _, query = place.partition("?")
        at = int(dict(parse_qsl(query)).get("at", 0))
        link = {"Link": f'<{path}?at={at + 2}>; rel="next"'} if at + 2 < len(self._entries) else {}
        return Answer(200, link, json.dumps({"manifests": self._entries[at : at + 2]}).encode())


LIKELY = {"dev.sigstore.bundle.predicateType": PREDICATES[IMAGES]}


def test_the_likely_attachments_of_all_pages_are_fetched_first_and_no_more_than_a_few(keys: dict[str, Key]) -> None:
    others = [(f"an SBOM {number}", {"dev.sigstore.bundle.predicateType": "SBOM"}) for number in range(30)]
    registry = Referred([*others, (signed(keys["ci"]), LIKELY)])
    found = signatures.bundles(registry, "app/one", DIGEST)
    assert next(found) == signed(keys["ci"])
    assert parse_qsl(registry.asked[0].partition("?")[2]) == [("artifactType", BUNDLE)], "others need not be listed"
    assert len(registry.asked) == 16 + 2
    with pytest.raises(NoImage, match="has more than 16 other signatures on it, and no more are checked"):
        list(found)
    assert len(registry.asked) == 16 + 2 * 16


def test_a_registry_that_does_not_know_referrers_is_asked_for_its_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    registry = Registry("localhost:1")
    monkeypatch.setattr(registry.client, "send", lambda method, place, *more: asked.append(place) or Answer(404))
    assert list(signatures.bundles(registry, "app/one", DIGEST)) == []
    assert [place.split("/")[4] for place in asked] == ["referrers", "manifests"]


def test_what_the_index_says_is_signed_too_or_the_registry_is_asked(
    store: Store, keys: dict[str, Key], builders: list[Builder], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    send = Client.send
    monkeypatch.setattr(
        Client, "send", lambda self, method, place, *more: asked.append(place) or send(self, method, place, *more)
    )
    wanted, forged = (SharedRef("app/one", number_of(number), PLATFORM) for number in (-5, -6))
    digest = store.image(-5, wanted.tag)
    store.attach(digest, [sign_for(keys["ci"], digest, wanted.fingerprint)])
    store.image(-6, forged.tag)
    index, said = Known(), list[str]()

    def look(one: SharedRef, trust: Trust) -> dict[str, SharedImage]:
        sharing = Share(store.registry.address, write=True, say=said.append, trust=trust)
        sharing.ask_first(index, 60)
        asked.clear()
        return sharing.look({"": one})

    trust = trust_of(builders)
    first = look(wanted, trust)
    assert asked
    [name] = index.images
    assert look(wanted, trust) == first
    assert asked == [], "the signature is in the index"
    assert look(wanted, Trust(0)) == first
    # Whoever may write to Redis can say anything, and gets no further than the registry.
    good = index.images[name]
    index.images[name] = replace(good, digest=f"sha256:{'0' * 64}")
    assert look(wanted, trust) == first
    assert asked
    assert index.images[name] == good, "and the index is right again"
    index.images = {name.replace(wanted.tag, forged.tag): good}
    assert look(forged, trust) == {}
    assert [sentence.rpartition(": ")[2] for sentence in said] == ["it is not signed"]


@pytest.mark.engine  # beside what it comes with: a few seconds to fetch are no unit test's
def test_cosign_accepts_it(store: Store, keys: dict[str, Key], cosign: str, tmp_path: Path) -> None:
    fingerprint = number_of(-3)
    digest = store.image(-3, "in-cosign")
    signatures.give(store.registry, store.path, digest, sign_for(keys["ci"], digest, fingerprint).encode())
    public = tmp_path / "ci.pub"
    public.write_text(f"-----BEGIN PUBLIC KEY-----\n{keys['ci'].public}\n-----END PUBLIC KEY-----\n")

    def verified(what: str) -> bool:
        argv = [cosign, "verify", "--key", str(public), "--insecure-ignore-tlog=true", "--allow-http-registry"]
        argv += ["-a", f"doit-images.fingerprint={what}", f"{store.registry.address}/{store.path}@{digest}"]
        return subprocess.run(argv, capture_output=True, env={"HOME": str(tmp_path)}).returncode == 0

    assert verified(fingerprint)
    assert not verified(number_of(-4))


@pytest.fixture(scope="module")
def cosign() -> str:
    """Debian testing's cosign: the one of the stable suite does not know bundles that are attached."""
    from benchmarks import newer_engine

    try:
        return str(newer_engine.unpacked() / "usr" / "bin" / "cosign")
    except UserError as trouble:
        pytest.skip(str(trouble))


def test_settings_make_the_share(tmp_path: Path) -> None:
    assert share.of(settings.Settings(share_trust="signed"), print).reads is False, (
        "without a registry no list is needed"
    )
    with pytest.raises(UserError, match="there is no list"):
        share.of(settings.Settings(cache_registry="reg:1", share_builders=str(tmp_path / "none")), print)
