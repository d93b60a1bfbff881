"""What an archive may bring into an engine: images under the names of their fingerprints, and nothing else."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.base.errors import UserError
from doit_images.core.base.references import tag_of
from doit_images.core.engine.labels import FINGERPRINT
from doit_images.share.archive_check import check_files, check_images, measured

NUMBER = "ab" * 32
REF = tag_of("team/app", NUMBER)
IMAGES = [{"name": "app", "ref": REF, "fingerprint": NUMBER}]

Members = dict[str, bytes | tarfile.TarInfo]


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def blob(members: Members, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    members[f"blobs/sha256/{digest}"] = content
    return f"sha256:{digest}"


def image(members: Members, fingerprint: str = NUMBER) -> tuple[str, str]:
    """Put an image into an archive; returns the digests of its configuration and its manifest."""
    config = blob(members, dumped({"os": "linux", "config": {"Labels": {FINGERPRINT: fingerprint}}}))
    layer = blob(members, b"layer")
    return config, blob(members, dumped({"config": {"digest": config}, "layers": [{"digest": layer}]}))


def place(digest: str) -> str:
    return f"blobs/{digest.replace(':', '/')}"


def new(ref: str = REF, fingerprint: str = NUMBER, also: tuple[str, ...] = ()) -> Members:
    """An archive as engines from 25 on write it: for either store."""
    members: Members = {}
    config, manifest = image(members, fingerprint)
    names = {
        "io.containerd.image.name": f"docker.io/{ref}",
        "org.opencontainers.image.ref.name": ref.rpartition(":")[2],
    }
    members["index.json"] = dumped({"manifests": [{"digest": manifest, "annotations": names}]})
    members["manifest.json"] = dumped([{"Config": place(config), "RepoTags": [ref, *also], "Layers": []}])
    members["oci-layout"] = b"{}"
    return members


def old() -> Members:
    """As older ones do, of an image that an older version made."""
    config = dumped({"os": "linux", "config": {"Labels": {"vllm-swarm.build.fingerprint": NUMBER}}})
    name, layers = f"{hashlib.sha256(config).hexdigest()}.json", ["1" * 64, "2" * 64]
    link = tarfile.TarInfo(f"{layers[1]}/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, f"../{layers[0]}/layer.tar"
    path, _, tag = REF.rpartition(":")
    return {
        name: config,
        f"{layers[0]}/layer.tar": b"",
        f"{layers[0]}/VERSION": b"1.0",
        link.name: link,
        "manifest.json": dumped([{"Config": name, "RepoTags": [REF], "Layers": []}]),
        "repositories": dumped({path: {tag: layers[1]}}),
    }


def written(file: Path, members: Members, twice: tuple[str, bytes] | None = None) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in [*members.items(), *([twice] if twice else [])]:
            if isinstance(content, tarfile.TarInfo):
                tar.addfile(content)
            else:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return file


def changed(name: str, change: Callable[[Any], Any]) -> Members:
    members = new()
    whole = json.loads(members[name])
    change(whole)
    return {**members, name: dumped(whole)}


def other_config(where: str) -> Members:
    """One of the two places where a name stands leads to another image."""
    members = new()
    config, manifest = image(members, "00" * 32)
    if where == "index.json":
        names = json.loads(members["index.json"])["manifests"][0]["annotations"]
        members["index.json"] = dumped({"manifests": [{"digest": manifest, "annotations": names}]})
    else:
        members["manifest.json"] = dumped([{"Config": place(config), "RepoTags": [REF], "Layers": []}])
    return members


def with_link(target: str) -> Members:
    link = tarfile.TarInfo(f"{'1' * 64}/layer.tar")
    link.type, link.linkname = tarfile.SYMTYPE, target
    return {**new(), link.name: link}


def device() -> Members:
    node = tarfile.TarInfo("oci-layout")
    node.type = tarfile.CHRTYPE
    return {**new(), "oci-layout": node}


@pytest.mark.parametrize("members", [new, old])
def test_what_engines_write_is_taken(tmp_path: Path, members: Callable[[], Members]) -> None:
    check_images(written(tmp_path / "images.tar", members()), IMAGES)


FORGED: dict[str, tuple[Callable[[], Members], str]] = {
    "another name": (lambda: new(also=("python:3.13-slim",)), "python:3.13-slim, which was not exported"),
    "another name for containerd's store": (
        lambda: changed("index.json", lambda it: it["manifests"].append(
            {**it["manifests"][0], "annotations": {"io.containerd.image.name": "docker.io/library/python:3"}})),
        "python:3, which was not exported"),
    "a tag that takes the place of a name": (
        lambda: changed("index.json", lambda it: it["manifests"][0]["annotations"].update(
            {"org.opencontainers.image.ref.name": "python:3"})), "python:3, which was not exported"),
    "no name": (lambda: changed("index.json", lambda it: it["manifests"][0].pop("annotations")), "not an archive"),
    "a name in the oldest place": (
        lambda: {**old(), "repositories": dumped({"python": {"3": "1" * 64}})}, "python:3, which was not exported"),
    "another fingerprint": (lambda: new(fingerprint="cd" * 32), "not made of that fingerprint"),
    "another image in the index": (lambda: other_config("index.json"), "not made of that fingerprint"),
    "another image in the manifest": (lambda: other_config("manifest.json"), "not made of that fingerprint"),
    "nothing of it": (lambda: {**new(), "manifest.json": b"[]", "index.json": b'{"manifests": []}'}, "does not hold"),
    "a changed blob": (lambda: {name: b"x" if content == b"layer" else content for name, content in new().items()},
                       "is not what its name says"),
    "a file of the host": (lambda: {**new(), "../../etc/passwd": b""}, "not part of an image"),
    "an absolute name": (lambda: {**new(), "/etc/passwd": b""}, "not part of an image"),
    "a second spelling": (lambda: {**new(), "./manifest.json": b"[]"}, "not part of an image"),
    "a link out of it": (lambda: with_link("/etc/passwd"), "not part of an image"),
    "a link up": (lambda: with_link("../../../etc/passwd"), "not part of an image"),
    "a device": (device, "not part of an image"),
    "no JSON": (lambda: {**new(), "manifest.json": b"<html>"}, "not an archive of images"),
    "deep JSON": (lambda: {**new(), "manifest.json": b"[" * 99999}, "not an archive of images"),
    "something else": (lambda: {**new(), "manifest.json": b'{"a": 1}'}, "not an archive of images"),
    "no manifest": (lambda: {"oci-layout": b"{}"}, "it lacks manifest.json"),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGED)
def test_whatever_else_an_archive_holds_is_refused(tmp_path: Path, forgery: str) -> None:
    members, why = FORGED[forgery]
    with pytest.raises(UserError, match=why) as told:
        check_images(written(tmp_path / "images.tar", members()), IMAGES)
    assert told.value.where == str(tmp_path / "images.tar")


def test_a_second_manifest_behind_the_first_is_refused(tmp_path: Path) -> None:
    file = written(tmp_path / "images.tar", new(), ("manifest.json", b"[]"))
    with pytest.raises(UserError, match=r"holds manifest\.json twice"):
        check_images(file, IMAGES)


def test_what_is_no_archive_or_cut_short_is_refused(tmp_path: Path) -> None:
    whole = written(tmp_path / "images.tar", new()).read_bytes()
    for content in (b"", b"x" * 4096, whole[:700], whole[:1500]):
        (tmp_path / "images.tar").write_bytes(content)
        with pytest.raises(UserError):
            check_images(tmp_path / "images.tar", IMAGES)


def test_only_the_names_of_fingerprints_are_asked_for(tmp_path: Path) -> None:
    file = written(tmp_path / "images.tar", new("python:3.13"))
    with pytest.raises(UserError, match=r"python:3\.13 is not the name of its fingerprint"):
        check_images(file, [{"ref": "python:3.13", "fingerprint": NUMBER}])


def test_a_folder_holds_what_is_listed_and_no_links(tmp_path: Path) -> None:
    (tmp_path / "cache" / "app").mkdir(parents=True)
    (tmp_path / "cache" / "app" / "index.json").touch()
    (tmp_path / "export.json").touch()
    file = tmp_path / "cache" / "app" / "index.json"
    listed = {"cache/app/index.json": measured(file)}
    check_files(tmp_path, listed, ["export.json"])
    with pytest.raises(UserError, match=r"cache/app/index\.json is not in the list"):
        check_files(tmp_path, {}, ["export.json"])
    with pytest.raises(UserError, match=r"\.\./\.\./etc/passwd is missing"):
        check_files(tmp_path, {**listed, "../../etc/passwd": measured(file)}, ["export.json"])
    with pytest.raises(UserError, match=r"cache/app/index\.json is not what was exported"):
        check_files(tmp_path, {"cache/app/index.json": measured(file) | {"size": 1}}, ["export.json"])
    for target in ("/etc", "app"):
        (tmp_path / "cache" / "link").symlink_to(target)
        with pytest.raises(UserError, match="cache/link is a link"):
            check_files(tmp_path, {**listed, "cache/link": listed["cache/app/index.json"]}, ["export.json"])
        (tmp_path / "cache" / "link").unlink()
