"""Is a patch that is wrong ever called right? Images that differ in one thing, and Dockerfiles that were changed."""

from __future__ import annotations

import functools
import io
import json
import random
import re
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pytest

from doit_images.advise import proof
from doit_images.advise.patch import Patch
from doit_images.advise.proof import Before, Held, Verdict, compared, files_of
from doit_images.ci.verifying import content
from doit_images.ci.verifying.content import ImageContent, Look, read
from doit_images.core.run import Run
from tests.conftest import Lab, docker

# cap_net_raw=ep
CAPABILITY = (b"\x01\0\0\x02\0\x20" + bytes(14)).decode()
CAPABLE = "SCHILY.xattr.security.capability"


@dataclass(frozen=True)
class Node:
    """What a container sees at a path; names that share one ``inode`` are hard links."""

    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    content: bytes = b""
    target: str = ""
    device: tuple[int, int] = (0, 0)
    attributes: Mapping[str, str] = field(default_factory=dict)
    inode: str = ""


Model = dict[str, Node]
FOLDER = Node(tarfile.DIRTYPE, 0o755)
CHANGES: dict[str, Callable[[Node], Node]] = {
    "content": lambda node: replace(node, content=node.content + b"x"),
    "mode": lambda node: replace(node, mode=node.mode ^ 0o001),
    "setuid": lambda node: replace(node, mode=node.mode ^ 0o4000),
    "owner": lambda node: replace(node, owner=(node.owner[0] + 1, node.owner[1])),
    "group": lambda node: replace(node, owner=(node.owner[0], node.owner[1] + 1)),
    "target": lambda node: replace(node, target=node.target + "x"),
    "device": lambda node: replace(node, device=(node.device[0], node.device[1] + 1)),
    "kind": lambda node: Node(tarfile.SYMTYPE, 0o777, target="x"),
    "capability": lambda node: replace(node, attributes={} if node.attributes else {CAPABLE: "\x01\udcff\n"}),
    "link": lambda node: replace(node, inode=""),
}
ONLY = {"content": b"0", "target": b"2", "device": b"34", "kind": b"0346", "capability": b"0"}


def model(dice: random.Random) -> Model:
    """An image of some folders with a file of each kind in each of them."""
    found: Model = {}
    for folder in ("app", "app/lib", "etc", "usr/bin"):
        while folder and folder not in found:
            found[folder] = replace(FOLDER, mode=dice.choice((0o755, 0o1777)), owner=(dice.randrange(3), 0))
            folder = folder.rpartition("/")[0]
    for at, folder in enumerate(list(found)):
        found[f"{folder}/file"] = Node(mode=0o755, content=b"%d" % at, owner=(0, dice.randrange(3)))
        found[f"{folder}/capable"] = Node(content=b"0", attributes={CAPABLE: "\x01\udc80"})
        found[f"{folder}/link"] = Node(tarfile.SYMTYPE, 0o777, target="file")
        found[f"{folder}/pipe"] = Node(tarfile.FIFOTYPE)
        found[f"{folder}/null"] = Node(dice.choice((tarfile.CHRTYPE, tarfile.BLKTYPE)), 0o666, device=(1, at))
        for name in ("one", "two", "three"):
            found[f"{folder}/{name}"] = Node(content=b"linked", inode=folder)
    return found


def mutant(image: Model, change: str, dice: random.Random) -> Model:
    """The image with one thing changed."""
    paths = [path for path, node in sorted(image.items()) if node.kind in ONLY.get(change, b"02346")]
    if change == "link":
        paths = [path for path in paths if image[path].inode]
    path = dice.choice([path for path in paths if change not in ("kind", "gone") or not image[path].inode])
    if change == "gone":
        return {name: node for name, node in image.items() if name != path}
    if change == "new":
        return {**image, f"{path}.new": Node()}
    if change == "moved":
        return {name if name != path else f"{path}.moved": node for name, node in image.items()}
    new = CHANGES[change](image[path])
    one = image[path].inode and new.inode  # what one name of a file gets, all have
    return {name: new if name == path or (one and node.inode == one) else node for name, node in image.items()}


def layers(image: Model, dice: random.Random) -> list[bytes]:
    """Layers that give this image, at random: older states and files that are gone below, in any order within."""
    number_of = {node.inode or path: dice.randrange(3) for path, node in image.items()}
    top = {path: number_of[node.inode or path] for path, node in image.items()}
    found: list[bytes] = []
    for number in range(3):
        held = {path: node for path, node in image.items() if top[path] == number}
        for path, node in image.items():
            if top[path] > number and dice.random() < 0.3:  # what is older: other bytes, one more name
                held[path] = replace(node, content=b"older", owner=(9, 9), mode=0o600, inode=f"older {node.inode}")
        gone = {path for path in image if number == 0 and dice.random() < 0.2}
        held |= {f"{path}.gone": held.get(path, Node(content=b"gone")) for path in gone}
        if number == 1:
            held |= {re.sub(r"([^/]*)$", r".wh.\1.gone", path, count=1): Node() for path in image}
        found.append(_tar(held, image, dice))
    return found


def _tar(held: Model, image: Model, dice: random.Random) -> bytes:
    above = {folder for path in held for folder in image if path.startswith(f"{folder}/")}
    every = sorted({**{folder: image[folder] for folder in above}, **held}.items())
    dice.shuffle(every)
    every.sort(key=lambda one: one[1].kind != tarfile.DIRTYPE)
    stream, first = io.BytesIO(), dict[str, str]()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, node in every:
            member = tarfile.TarInfo(path)
            member.type, member.mode, (member.uid, member.gid) = node.kind, node.mode, node.owner
            member.mtime, member.linkname, (member.devmajor, member.devminor) = dice.random(), node.target, node.device
            member.pax_headers = dict(node.attributes)
            if node.kind == tarfile.REGTYPE and node.inode in first:
                member.type, member.linkname = tarfile.LNKTYPE, first[node.inode]
            elif node.kind == tarfile.REGTYPE:
                member.size = len(node.content)
                first |= {node.inode: path} if node.inode else {}
            tar.addfile(member, io.BytesIO(node.content) if member.size else None)
    return stream.getvalue()


def held(image: Model, dice: random.Random) -> Held:
    """What the proof reads of an image in an archive as ``docker save`` writes it."""
    made = dict(enumerate(layers(image, dice)))
    config: Mapping[str, object] = {"rootfs": {"diff_ids": []}}
    files = {f"{number}.tar": content for number, content in made.items()}
    papers = {"manifest.json": [{"Config": "config.json", "Layers": list(files)}], "config.json": config}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in (*files.items(), *((name, json.dumps(said).encode()) for name, said in papers.items())):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    stream.seek(0)
    return Held(files_of(read(stream)[0].layers), {})


@functools.cache
def example(seed: int) -> tuple[Model, Before]:
    """An image, and what the proof reads of it twice."""
    dice = random.Random(seed)
    image = model(dice)
    before = Before(held(image, dice), held(image, dice))
    assert compared(before, held(image, dice), {}) == proof.Proof(Verdict.SAME), seed
    return image, before


@pytest.mark.parametrize("change", [*CHANGES, "gone", "new", "moved"])
def test_of_images_that_differ_in_one_thing_none_are_the_same_and_all_that_do_not_are(change: str) -> None:
    for seed in range(24):
        dice = random.Random(f"{change} {seed}")
        image, before = example(seed)
        assert compared(before, held(mutant(image, change, dice), dice), {}).verdict == Verdict.DIFFERS, seed


DOCKERFILE = """\
FROM tst-busybox:1 AS tools
WORKDIR /made
RUN echo one > a && ln a b && ln -s a c && chmod 750 a
FROM tst-busybox:1
MAINTAINER me
ENV A=1 B=2
LABEL who=me
ADD odd.tar /odd/
WORKDIR /app
COPY --chown=5:6 --chmod=640 one two ./
COPY --from=tools --chown=7:8 /made /made
COPY src/ src/
RUN cp one three && mkfifo pipe && chmod 4755 three && rm src/b
RUN stat -c '%a %u %g %n' * > listed
USER 5:6
EXPOSE 80
VOLUME /data
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s CMD true
ONBUILD RUN true
SHELL ["/bin/sh", "-ec"]
ENTRYPOINT ["/bin/sh"]
CMD ["-c", "true"]
"""
WRONG = {
    "--chown=5:6": ("--chown=6:5", "--chown=5", ""),
    "--chmod=640": ("--chmod=600", ""),
    "--chown=7:8": ("--chown=7:7", ""),
    "one two ./": ("one ./", "one two new/"),
    "src/ src/": ("src/a src/", "src/ ./"),
    "ln a b": ("cp a b", "ln -s a b", "true"),
    "ln -s a c": ("ln -s b c", "cp -p a c"),
    "4755": ("755", "2755", "4750"),
    "mkfifo pipe": ("touch pipe", "true"),
    "rm src/b": ("true", "rm -r src"),
    "who=me": ("who=you",),
    "A=1": ("A=2",),
    "ADD odd.tar /odd/": (
        "ADD odd.tar /odd/\nRUN chown 0:0 /odd/capable",
        "COPY odd.tar /odd/",
        "ADD odd.tar /odd/\nRUN rm /odd/null && mknod /odd/null c 1 5",
    ),
}


def changed(text: str, wrong: Mapping[str, Sequence[str]] = WRONG) -> Iterator[str]:
    """Dockerfiles with one line less, two lines in another order, or other words."""
    lines = text.splitlines(keepends=True)
    for at in range(1, len(lines)):
        yield "".join(lines[:at] + lines[at + 1 :])
        yield "".join([*lines[: at - 1], lines[at], lines[at - 1], *lines[at + 1 :]])
    for old, every in wrong.items():
        yield from (text.replace(old, new, 1) for new in every)


def exported(ref: str) -> list[object]:
    """What the engine itself says that a container of an image would see, and how the image is set up."""
    container = docker("create", ref, "none").stdout.strip()
    done = subprocess.run(["docker", "export", container], capture_output=True, check=True)
    docker("rm", "--volumes", container)
    said = json.loads(docker("image", "inspect", ref).stdout)[0]
    found: list[object] = [said[name] for name in ("Config", "Author", "Architecture", "Os")]
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            attributes = {name: value for name, value in member.pax_headers.items() if "xattr" in name}
            place = (member.name, member.type, member.mode, member.uid, member.gid, member.linkname, attributes)
            found.append((*place, member.devmajor, member.devminor, file.read() if file else b""))
    return found


def exports_of_all(monkeypatch: pytest.MonkeyPatch) -> list[list[object]]:
    """What is ``exported`` of each image that the proof reads from now on."""
    exports: list[list[object]] = []

    def content_of(ref: str, environ: Mapping[str, str], look: Look) -> ImageContent:
        exports.append(exported(ref))
        return content.content_of(ref, environ, look)

    monkeypatch.setattr(proof, "content_of", content_of)
    return exports


@pytest.mark.engine
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.all) for part in range(1, 12))])
def test_no_dockerfile_is_called_the_same_whose_image_is_another_as_the_engine_exports_it(
    lab: Lab, busybox: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write({"compose.yml": "services: {web: {image: PREFIX/web, build: .}}\n", "Dockerfile": DOCKERFILE})
    lab.write({"one": "1\n", "two": "2\n", "src/a": "a\n", "src/b": "b\n"})
    odd = {"capable": Node(attributes={CAPABLE: CAPABILITY}), "null": Node(tarfile.CHRTYPE, device=(1, 3))}
    (lab.folder / "odd.tar").write_bytes(_tar(odd, {}, random.Random(0)))
    run = Run((lab.folder / "compose.yml",), lab.env())
    inputs = run.planner.declared()["web"]
    exports = exports_of_all(monkeypatch)
    before = proof.before(run, inputs)
    for text in list(changed(DOCKERFILE))[part::12]:
        found = proof.prove(run, replace(inputs, dockerfile_text=text), before, [Patch("mutant", 1, "", text)])
        differs = found.verdict == Verdict.FAILS or exports[-1] != exports[0]
        assert found.verdict != Verdict.SAME or not differs, text
