"""Which packages does an image hold, and is that what the document says, here and beside the image in a registry?"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from doit_images.ci.sbom import provenance, spdx
from doit_images.ci.sbom.installed import Debian, Installed, Python, read
from doit_images.core.history.store import Build
from doit_images.core.inputs.fingerprint import BuildInputs
from doit_images.share import referrers
from doit_images.share.registry import Registry
from tasks import ROOT
from tests import loopback
from tests.conftest import Lab, docker, printed

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
FOUND = Installed(
    (Debian("libc6", "2.41-12+b1", "amd64", "glibc"),),
    (Python("foo-bar", "1.2", "opt/venv/lib/foo.dist-info/METADATA"),),
    {"ID": "debian", "VERSION_CODENAME": "trixie", "NAME": "Debian GNU/Linux"},
)


def archive(files: dict[str, str]) -> io.BytesIO:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for path, text in files.items():
            entry = tarfile.TarInfo(path)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
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
    assert read(archive({**distroless, "var/lib/dpkg/status.d/libc6.md5sums": STATUS})).debian == FOUND.debian
    assert read(archive({"f": "x"})) == Installed((), (), {})


def test_the_document_names_all_of_it_and_is_the_same_for_the_same_image() -> None:
    subject = spdx.Subject("app/auth:optimized", "sha256:" + "0" * 64, "f" * 64, 1_700_000_000.0)
    content = spdx.document(subject, FOUND, {"foo-bar": "1.2"}, "tool-1")
    assert content == spdx.document(subject, FOUND, {"foo-bar": "1.2"}, "tool-1")
    whole = json.loads(content)
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
    assert "this version is locked" in whole["packages"][2]["sourceInfo"]
    other = json.loads(spdx.document(subject, FOUND, {"foo-bar": "1.3"}, "tool-1"))
    assert "this version is in no lock" in other["packages"][2]["sourceInfo"]
    assert other["documentNamespace"] != whole["documentNamespace"]


def urls(document: dict[str, Any]) -> list[str]:
    return [ref["referenceLocator"] for each in document["packages"] for ref in each["externalRefs"]]


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
    content = json.loads(provenance.statement(f"sha256:{'a' * 64}", made, build, "tool"))
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


@pytest.mark.engine
def test_it_is_attached_to_the_shared_image_whose_digest_stays(lab: Lab, busybox: str, tmp_path: Path) -> None:
    lab.write(
        {
            "compose.yml": "name: PREFIX\nservices: {app: {image: PREFIX/app, build: {context: c}}}\n",
            "c/Dockerfile": f"FROM {busybox}\nCOPY status /var/lib/dpkg/\nRUN echo PREFIX > /f\n",
            "c/status": STATUS,
        }
    )
    refused = lab.doit("sbom")
    assert refused.returncode != 0
    assert "what is here of app is not what the sources give (doit build_optimized:app)" in refused.stderr
    with loopback.registry(tmp_path / "registry") as service:
        lab.environ["CACHE_REGISTRY"] = service.address
        lab.build()
        registry, path = Registry(service.address), f"{lab.prefix}/app"
        [tag] = [each for each in registry.tags(path) if each.startswith("in-")]
        before = registry.image(path, tag, "linux/amd64")
        assert before is not None
        for _ in range(2):  # the second finds what is there
            done = lab.doit("sbom", "--attach", "app")
            assert done.returncode == 0, done.stderr
        file, attached = done.stdout.split()
        [found] = referrers.attached(registry, path, before.digest, spdx.MEDIA_TYPE)
        assert attached == f"{service.address}/{path}@{found['digest']}"
        content = referrers.content_of(registry, path, found["digest"])
        assert content == Path(file).read_bytes()
        assert "pkg:deb/debian/libc6@2.41-12%2Bb1?arch=amd64" in urls(json.loads(content))
        stated = lab.doit("provenance", "--attach", "app")
        assert stated.returncode == 0, stated.stderr
        [found] = referrers.attached(registry, path, before.digest, provenance.MEDIA_TYPE)
        assert found["annotations"] == {"in-toto.io/predicate-type": provenance.PREDICATE}
        statement = json.loads(referrers.content_of(registry, path, found["digest"]))
        assert statement["subject"][0]["digest"] == {"sha256": before.digest.removeprefix("sha256:")}
        fingerprint = statement["predicate"]["buildDefinition"]["internalParameters"]["fingerprint"]
        assert tag == f"in-{fingerprint[:16]}"
        note = referrers.Attachment("text/note", b"hello", {"a": "b"})
        referrers.attach(registry, path, before.digest, note)
        assert [each["artifactType"] for each in referrers.attached(registry, path, before.digest)] == [
            spdx.MEDIA_TYPE,
            provenance.MEDIA_TYPE,
            "text/note",
        ]
        assert registry.image(path, tag, "linux/amd64") == before
        assert lab.build() == {}, "and it is still what the sources give"


@pytest.mark.stack
@pytest.mark.parametrize("image", ["auth", "redis"])
def test_it_says_what_python_and_dpkg_say_themselves(image: str, stack_images: None, base_image: str) -> None:
    done = subprocess.run([sys.executable, "-m", "doit", "sbom", image], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads(Path(done.stdout.strip()).read_text())
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
