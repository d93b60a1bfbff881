"""Signatures by the identity that a CI gives: an own instance of Sigstore makes them, its library and cosign judge."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.ci.sbom.attached import KINDS, DocumentKind
from doit_images.cli.cache import _share_key
from doit_images.core.base import commands, settings
from doit_images.core.base.errors import UserError
from doit_images.core.engine.client import LocalImage
from doit_images.core.planning.shared_image import SharedRef
from doit_images.share import builders as listing
from doit_images.share import by_docker, keyless, signatures, signing, trusted
from doit_images.share.builders import Builder
from doit_images.share.keyless import Sigstore
from doit_images.share.share import Share
from doit_images.share.signing import IMAGES, TESTS, Claim, NotSigned
from doit_images.share.trusted import Claimed, Keyless, Trust
from tests import loopback, sigstore_instance
from tests.share.test_trust import FINGERPRINT, LABELS, PLATFORM, Engine, Store, cosign, number_of
from tests.sigstore_instance import Instance
from tests.waiting import patience

__all__ = ["cosign"]  # a fixture
WORKFLOW = "us/it/.github/workflows/build.yml@refs/heads/main"
IDENTITY = f"https://github.com/{WORKFLOW}"
DIGEST = f"sha256:{'cd' * 32}"
DAY = 86400.0


@pytest.fixture(scope="module")
def instance() -> Iterator[Instance]:
    with sigstore_instance.running() as running:
        yield running


@pytest.fixture(scope="module")
def config(instance: Instance, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sigstore") / "trust.json"
    file.write_text(json.dumps(instance.trust()))
    return file


@pytest.fixture
def job(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Let this process be a job of GitHub's Actions with an identity."""

    def be(identity: str) -> None:
        for name, value in instance.job(identity).items():
            monkeypatch.setenv(name, value)

    for name in ("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "GITHUB_ACTIONS", "GITLAB_CI"):
        monkeypatch.delenv(name, raising=False)
    return be


def listed(instance: Instance, **other: Any) -> Builder:
    now = time.time()
    return replace(Builder("ci", "", now - DAY, now + DAY, issuer=instance.url, identity=IDENTITY), **other)


def machine(instance: Instance, config: Path, **other: Any) -> Trust:
    return Trust(1, [listed(instance, **other)], keyless=Keyless("ci", config))


@pytest.fixture
def bundle(instance: Instance, config: Path, job: Callable[[str], None]) -> str:
    job(WORKFLOW)
    return machine(instance, config).sign(DIGEST, FINGERPRINT, PLATFORM).decode()


def test_what_the_listed_workflow_signed_is_taken(instance: Instance, config: Path, bundle: str) -> None:
    reader = Trust(1, [listed(instance)], keyless=Keyless(instance=config))
    assert reader.cannot_sign == "it has no SHARE_KEY"
    assert reader.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle]) == ""
    asked = len(instance.requests)
    assert reader.refuses(DIGEST, "99" * 32, PLATFORM, [bundle]) == "its signature is for something else"
    other = f"sha256:{'0' * 64}"
    assert reader.refuses(other, FINGERPRINT, PLATFORM, [bundle]) == "its signature is for something else"
    assert len(instance.requests) == asked, "who reads needs no network"
    token, certificate, entry = instance.requests[-3:]
    assert (token, certificate) == ("GET /token", "POST /api/v2/signingCert")
    assert entry == "POST /api/v1/log/entries"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.title)
def test_a_document_is_signed_by_the_identity_and_taken_for_no_other(
    instance: Instance, config: Path, job: Callable[[str], None], kind: DocumentKind
) -> None:
    job(WORKFLOW)
    document = {"packages": ["one"]}
    claimed = Claimed(DIGEST, FINGERPRINT, PLATFORM, kind.predicate)
    bundle = machine(instance, config).sign_claimed(claimed, document).decode()
    reader = Trust(1, [listed(instance)], keyless=Keyless(instance=config))
    assert reader.judge(claimed, [bundle]) == ("", {"ci": bundle})
    assert json.loads(base64.b64decode(json.loads(bundle)["dsseEnvelope"]["payload"]))["predicate"] == document
    for about in {IMAGES, TESTS, *(each.predicate for each in KINDS)} - {kind.predicate}:
        assert reader.judge(claimed._replace(about=about), [bundle])[0] == "its signature is for something else"
    only_tests = Trust(1, [listed(instance, may=(TESTS,))], keyless=Keyless(instance=config))
    assert only_tests.judge(claimed, [bundle])[0] == f"ci may not sign {IMAGES}"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"identity": IDENTITY.replace("main", "other")}, "no trusted builder"),
        ({"issuer": "https://token.example.org"}, "not a signature"),
        ({"name": "another"}, "something else"),
        ({"until": 1.0}, "the identity of ci has expired"),
        ({"revoked": 0.0}, "the identity of ci is revoked"),
    ],
)
def test_another_workflow_or_one_that_counts_no_more_is_not(
    instance: Instance, config: Path, bundle: str, other: dict[str, Any], why: str
) -> None:
    reader = Trust(1, [listed(instance, **other)], keyless=Keyless(instance=config))
    assert why in reader.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle])


def changed(bundle: str, change: Callable[[dict[str, Any]], object]) -> str:
    whole = json.loads(bundle)
    change(whole)
    return json.dumps(whole)


def entry_of(whole: dict[str, Any]) -> dict[str, Any]:
    [entry] = whole["verificationMaterial"]["tlogEntries"]
    return dict(entry)


def for_another(whole: dict[str, Any]) -> None:
    statement = json.loads(base64.b64decode(whole["dsseEnvelope"]["payload"]))
    statement["subject"][0]["annotations"]["doit-images.fingerprint"] = "99" * 32
    whole["dsseEnvelope"]["payload"] = base64.b64encode(json.dumps(statement).encode()).decode()


ATTACKS: dict[str, Callable[[dict[str, Any]], object]] = {
    "made to fit afterwards": for_another,
    "not logged": lambda whole: whole["verificationMaterial"].update(tlogEntries=[]),
    "without a promise of the log": lambda whole: whole["verificationMaterial"].update(
        tlogEntries=[{name: value for name, value in entry_of(whole).items() if name != "inclusionPromise"}]
    ),
    "logged at another time": lambda whole: whole["verificationMaterial"].update(
        tlogEntries=[{**entry_of(whole), "integratedTime": str(int(time.time()) - 3600)}]
    ),
    "with another log's entry": lambda whole: whole["verificationMaterial"].update(
        tlogEntries=[{**entry_of(whole), "logId": {"keyId": base64.b64encode(b"0" * 32).decode()}}]
    ),
    "another kind of envelope": lambda whole: whole["dsseEnvelope"].update(payloadType="text/plain"),
    "nonsense": lambda whole: whole.update(dsseEnvelope=[1]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_bundle_that_was_changed_is_no_signature(instance: Instance, config: Path, bundle: str, attack: str) -> None:
    forged = changed(bundle, ATTACKS[attack])
    reader = Trust(1, [listed(instance)], keyless=Keyless(instance=config))
    fingerprint = "99" * 32 if attack == "made to fit afterwards" else FINGERPRINT
    assert reader.refuses(DIGEST, fingerprint, PLATFORM, [forged]) == "its attachment is not a signature of it"


def test_certificates_of_another_authority_count_for_nothing(
    instance: Instance, config: Path, job: Callable[[str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody who runs an instance of his own can write any identity into a certificate."""
    with sigstore_instance.running() as theirs:
        (tmp_path / "theirs.json").write_text(json.dumps(theirs.trust()))
        for name, value in theirs.job(WORKFLOW).items():
            monkeypatch.setenv(name, value)
        bundle = machine(theirs, tmp_path / "theirs.json").sign(DIGEST, FINGERPRINT, PLATFORM).decode()
    assert signing.hinted(bundle) == IDENTITY
    reader = Trust(
        1, [listed(instance), listed(instance, issuer=theirs.url, name="b")], keyless=Keyless(instance=config)
    )
    assert reader.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle]) == "its attachment is not a signature of it"


def test_who_cannot_sign_says_why_and_waits_for_nobody(
    instance: Instance, config: Path, job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(NotSigned, match=r"no identity token .*id-token: write"):
        machine(instance, config).sign(DIGEST, FINGERPRINT, PLATFORM)
    # A workflow of another branch, as one of a pull request.
    job("us/it/.github/workflows/build.yml@refs/pull/7/merge")
    with pytest.raises(NotSigned, match=r"this machine is https://github.com/us/it/.*@refs/pull/7/merge, and ci in"):
        machine(instance, config).sign(DIGEST, FINGERPRINT, PLATFORM)
    why = Trust(1, [], keyless=Keyless("ci")).cannot_sign
    assert why == "its SHARE_KEY belongs to no builder in trusted-builders.toml"
    job(WORKFLOW)
    monkeypatch.setattr(instance, "silent", True)
    monkeypatch.setattr(keyless, "_SECONDS", 0.3)
    with pytest.raises(NotSigned, match="did not answer within"):
        machine(instance, config).sign(DIGEST, FINGERPRINT, PLATFORM)
    monkeypatch.setattr(commands, "stopping", lambda: True)
    with pytest.raises(commands.Stopped):
        machine(instance, config).sign(DIGEST, FINGERPRINT, PLATFORM)


def test_an_instance_that_is_silent_holds_up_one_signature_and_nobody_who_reads(
    instance: Instance, config: Path, job: Callable[[str], None], bundle: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = machine(instance, config)
    monkeypatch.setattr(instance, "silent", True)
    monkeypatch.setattr(keyless, "_SECONDS", 0.3)
    for _ in range(2):
        with pytest.raises(NotSigned, match=r"did not answer within 0 s"):
            both.sign(DIGEST, FINGERPRINT, PLATFORM)
        monkeypatch.setattr(keyless, "_SECONDS", 600.0)  # which nobody waits for a second time
    read: list[str] = []
    reader = threading.Thread(
        target=lambda: read.append(both.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle])), daemon=True
    )
    reader.start()
    reader.join(patience())
    assert read == [""]


def test_one_certificate_signs_what_a_run_makes_in_some_minutes(
    instance: Instance, config: Path, job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    job(WORKFLOW)
    own = Sigstore(config)
    before = len(instance.requests)
    for number in range(3):
        claim = Claim(DIGEST, number_of(number), PLATFORM, "ci", int(time.time()))
        assert own.claim_of(own.sign(claim).decode(), instance.url, IDENTITY) == claim
    asked = [request.rpartition("/")[2] for request in instance.requests[before:]]
    assert asked == ["token", "signingCert", "entries", "entries", "entries"]
    own._until = 0.0
    own.sign(claim)
    assert [request.rpartition("/")[2] for request in instance.requests[-3:]] == ["token", "signingCert", "entries"]


# ---- the list and the settings


def test_an_identity_is_listed(tmp_path: Path, instance: Instance, config: Path, bundle: str) -> None:
    file = tmp_path / "trusted.toml"
    chosen = settings.Settings(
        cache_registry="reg:5000", share_builders=str(file), share_key="keyless:ci", share_sigstore=str(config)
    )
    assert listing.add_identity(chosen, "ci", instance.url, IDENTITY, 30) == file
    [builder] = listing.read(file)
    assert (builder.name, builder.key, builder.issuer, builder.identity) == ("ci", "", instance.url, IDENTITY)
    trust = trusted.of(chosen)
    assert (trust.need, trust.cannot_sign) == (1, "")
    assert trust.refuses(DIGEST, FINGERPRINT, PLATFORM, [bundle]) == ""
    for identity, why in ((IDENTITY, "listed already"), ('https://a"\nx = 1', "are URLs"), ("main", "are URLs")):
        with pytest.raises(UserError, match=why):
            listing.add_identity(chosen, "ci2", instance.url, identity, 30)
    file.write_text(file.read_text() + "revoked = true\n")
    assert trusted.of(chosen).cannot_sign == "the identity of ci is revoked"


@pytest.mark.parametrize("words", [[], ["ci", "ci.key"]])
def test_an_identity_has_no_file(tmp_path: Path, words: list[str]) -> None:
    run, file = (
        SimpleNamespace(settings=settings.Settings(share_builders=str(tmp_path / "list.toml"))),
        tmp_path / "ci.key",
    )
    words = [str(file) if word == file.name else word for word in words]
    with pytest.raises(UserError, match="--identity takes the name of a builder"):
        _share_key(run, words, 30, IDENTITY, "https://token.example.org")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "fields", ["identity = 'https://a'", "issuer = 'https://a'", "identity = 'https://a'\nissuer = 1",
               "identity = 'https://a'\nissuer = 'https://b'\nkey = 'MCow'"],
)  # fmt: skip
def test_half_an_identity_trusts_nobody(tmp_path: Path, fields: str) -> None:
    file = tmp_path / "list.toml"
    file.write_text(f"[[builder]]\nname = 'ci'\n{fields}\nfrom = 2026-01-01\nuntil = 2027-01-01\n")
    with pytest.raises(UserError, match=r"builder 1 \(ci\) needs an issuer and an identity, and then no key"):
        listing.read(file)


def test_what_is_no_instance_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="SHARE_SIGSTORE cannot be read"):
        Sigstore(tmp_path / "none")
    (tmp_path / "some").write_text("{}")
    with pytest.raises(UserError, match="SHARE_SIGSTORE is not understood"):
        Sigstore(tmp_path / "some")
    builder = replace(Builder("ci", "", 0, 9e9), issuer="https://token.example.org", identity=IDENTITY)
    monkeypatch.setitem(sys.modules, "doit_images.share.keyless", None)
    with pytest.raises(UserError, match="need the library sigstore"):
        Trust(1, [builder], keyless=Keyless("ci")).sign(DIGEST, FINGERPRINT, PLATFORM)


def test_the_public_instance_is_known_without_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    reader = Trust(1, [replace(Builder("ci", "", 0, 9e9), issuer="https://token.actions.githubusercontent.com",
                               identity=IDENTITY)])  # fmt: skip
    assert reader.refuses(DIGEST, FINGERPRINT, PLATFORM, ["{}"]) == "its attachment is not a signature of it"
    [first, *_] = Sigstore(None)._config.trusted_root._inner.tlogs
    assert first.base_url == "https://rekor.sigstore.dev"


# ---- a real registry, and cosign


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("keyless")
    with loopback.registry(folder / "registry") as service:
        yield Store(service.address, folder)


def test_what_is_pushed_is_signed_by_the_identity(
    store: Store, instance: Instance, config: Path, job: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = SharedRef(store.path, number_of(1), PLATFORM)
    digest = store.image(1, wanted.tag)
    said: list[str] = []
    writer = Share(store.registry.address, write=True, say=said.append, trust=machine(instance, config))
    held = store.registry.image(store.path, wanted.tag, PLATFORM)
    assert held is not None
    monkeypatch.setattr(by_docker, "moved", lambda *words: pytest.fail("it is there"))
    assert writer.look({"": wanted}) == {}
    assert writer.push(wanted, LocalImage("id", labels=LABELS), Engine(held.content)) is None
    assert "could not be signed: this machine has no identity token" in said[-1]
    job(WORKFLOW)
    pushed = writer.push(wanted, LocalImage("id", labels=LABELS), Engine(held.content))
    assert pushed is not None
    reader = Share(
        store.registry.address,
        write=False,
        say=said.append,
        trust=Trust(1, [listed(instance)], keyless=Keyless(instance=config)),
    )
    assert reader.look({"": wanted})[""].digest == digest
    assert reader.look({"": wanted})[""].signatures.keys() == {"ci"}


@pytest.mark.engine  # beside what it comes with: a few seconds to fetch are no unit test's
def test_cosign_accepts_it_for_this_workflow_only(
    store: Store, instance: Instance, config: Path, cosign: str, job: Callable[[str], None], tmp_path: Path
) -> None:
    job(WORKFLOW)
    digest = store.image(2, "in-cosign")
    bundle = machine(instance, config).sign(digest, FINGERPRINT, PLATFORM)
    signatures.give(store.registry, store.path, digest, bundle)
    root = tmp_path / "root.json"
    root.write_text(json.dumps(instance.trust()["trustedRoot"]))

    def verified(identity: str) -> subprocess.CompletedProcess[str]:
        argv = [
            cosign,
            "verify",
            f"--trusted-root={root}",
            "--allow-http-registry",
            f"--certificate-identity={identity}",
        ]
        argv += [f"--certificate-oidc-issuer={instance.url}", "-a", f"doit-images.fingerprint={FINGERPRINT}"]
        argv += [f"{store.registry.address}/{store.path}@{digest}"]
        return subprocess.run(argv, capture_output=True, text=True, env={"HOME": str(tmp_path)})

    done = verified(IDENTITY)
    assert done.returncode == 0, done.stderr
    assert verified(IDENTITY.replace("main", "other")).returncode != 0
