"""Do compilers leave an image with nothing but what is theirs?"""

from __future__ import annotations

import io
import json
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from doit_images.advise import compilers_out, proof
from doit_images.advise.needed import needed
from doit_images.advise.proof import Before, Held, Verdict, compared
from doit_images.advise.rules import Rule
from doit_images.advise.steps import steps_of
from doit_images.ci.verifying.content import LayerContent, LayerEntry
from doit_images.core.run import Run
from tests.advise.examples import better, proposed
from tests.advise.test_mutants import changed, exports_of_all
from tests.conftest import Lab

RULE = Rule(compilers_out.NAME, compilers_out.patches)
FILES = {"requirements.txt": "x==1\n", "main.py": "x\n", "package.json": "{}\n", "package-lock.json": "{}\n"}
BEFORE = """\
# the app
FROM python:3.13-slim

# tools
RUN apt-get update && apt-get install -y \\
    curl \\
    gcc \\
    libpq-dev \\
 && rm -rf /var/lib/apt/lists/*
LABEL a=b
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY requirements.txt ./
# packages
RUN pip install -r requirements.txt

# code
COPY main.py ./
CMD ["python", "main.py"]
"""
AFTER = """\
# the app
FROM python:3.13-slim AS builder

# tools
RUN apt-get update && apt-get install -y \\
    curl \\
    gcc \\
    libpq-dev \\
 && rm -rf /var/lib/apt/lists/*
RUN python -m venv /venv
ENV PATH=/venv/bin:$PATH
COPY requirements.txt ./
# packages
RUN pip install -r requirements.txt

FROM python:3.13-slim

# tools
RUN apt-get update && apt-get install -y \\
    curl \\
    libpq5 \\
 && rm -rf /var/lib/apt/lists/*
LABEL a=b
ENV PATH=/venv/bin:$PATH
COPY requirements.txt ./
COPY --from=builder /venv /venv

# code
COPY main.py ./
CMD ["python", "main.py"]
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_stage_becomes_two_and_all_else_stays(tmp_path: Path, end: str) -> None:
    assert better(tmp_path, RULE, BEFORE.replace("\n", end), FILES) == AFTER.replace("\n", end)


APT = "RUN apt-get update && apt-get install -y gcc make"


@pytest.mark.parametrize(
    ("text", "second"),
    [
        (
            f"FROM python:3.12-slim\n{APT}\nCOPY requirements.txt .\nRUN pip install -r requirements.txt\n",
            "FROM python:3.12-slim\nCOPY requirements.txt .\n"
            "COPY --from=builder /usr/local/lib/python3.12/site-packages /usr/local/lib/python3.12/site-packages\n"
            "COPY --from=builder /usr/local/bin /usr/local/bin\n",
        ),
        (
            f"FROM node:22 AS app\n{APT} git\nWORKDIR /app\nCOPY package*.json ./\nRUN npm ci\nCMD node .",
            "FROM node:22 AS app\nWORKDIR /app\nCOPY package*.json ./\n"
            "COPY --from=builder /app/node_modules /app/node_modules\nCMD node .",
        ),
    ],
)
def test_what_the_image_is_made_of_then(tmp_path: Path, text: str, second: str) -> None:
    new = proposed(tmp_path, RULE, text, FILES)[0].text
    assert new.partition("\n\n")[2] == second
    assert new.startswith(text.split("\n")[0].removesuffix(" AS app") + " AS builder\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("libpq-dev", "libunheard-dev"),
        ("libpq-dev", "libpq-dev=17"),
        ("pip install -r", "pip install --user -r"),
        ("pip install -r requirements.txt", "pip install ."),
        ("pip install -r requirements.txt", "pip install -r requirements.txt && python setup.py"),
        ('CMD ["python", "main.py"]', "RUN make all"),
        ('CMD ["python", "main.py"]', 'CMD ["gcc", "main.c"]'),
        ("    gcc \\\n    libpq-dev \\\n", ""),
        ("FROM python:3.13-slim", "FROM python:3.13-slim AS builder"),
        ("FROM python:3.13-slim", "FROM python:3.13-slim AS one\nFROM one"),
        ("&& apt-get install", "&& ./setup && apt-get install"),
        ("ENV PATH", "USER 5\nRUN apt-get install -y make\nENV PATH"),
        ("RUN python -m venv /venv\n", "ONBUILD RUN true\nRUN python -m venv /venv\n"),
    ],
)
def test_in_doubt_nothing(tmp_path: Path, old: str, new: str) -> None:
    assert old in BEFORE
    assert proposed(tmp_path, RULE, BEFORE.replace(old, new, 1), FILES) == []


@pytest.mark.parametrize("said", ["import triton\n", "run(['gcc', 'x.c'])\n", "torch.utils.cpp_extension\n"])
def test_what_compiles_while_it_runs_keeps_its_compiler(tmp_path: Path, said: str) -> None:
    assert proposed(tmp_path, RULE, BEFORE, FILES | {"main.py": said}) == []


@pytest.mark.parametrize(("said", "goes"), [("import gitpython\n", False), ("# github.com/legit\n", True)])
def test_git_goes_where_nothing_says_its_name(tmp_path: Path, said: str, goes: bool) -> None:
    text = BEFORE.replace("    gcc", "    git \\\n    gcc", 1)
    (patch,) = proposed(tmp_path, RULE, text, FILES | {"main.py": said})
    assert ("git" in patch.removes) == goes


def test_what_a_file_needs_is_read_from_it() -> None:
    assert needed(io.BytesIO(b"#!/usr/bin/perl -w\nx")) == ("/usr/bin/perl",)
    assert needed(io.BytesIO(b"#! perl\n")) == (), "a name is no path that anything runs"
    assert needed(io.BytesIO(b"\x7fELF\2\1")) == needed(io.BytesIO(b"x")) == ()
    assert needed(io.BytesIO(library("libz.so.1"))) == ("libz.so.1",)


def library(*names: str) -> bytes:
    """A 64-bit ELF file that is linked to these libraries, and has nothing else."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in names)
    places = [strings.index(name.encode()) for name in names]
    at, base = 64 + 2 * 56, 0x1000
    dynamic = b"".join(struct.pack("<QQ", 1, place) for place in places)
    dynamic += struct.pack("<QQ", 5, base + at + len(dynamic) + 32) + bytes(16)
    whole = at + len(dynamic) + len(strings)
    head = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 2, 0, 0, 0)
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, whole, whole, 1)
    return (
        head
        + load
        + struct.pack("<IIQQQQQQ", 2, 6, at, base + at, 0, len(dynamic), len(dynamic), 8)
        + dynamic
        + strings
    )


PACKAGES = {
    "gcc": ("Depends: cpp (>= 1), libgomp1, perl-5.4\n", "usr/bin/gcc"),
    "cpp": ("", "usr/bin/cpp"),
    "perl-5.4": ("", "usr/bin/perl5"),
    "libgomp1": ("", "usr/lib/libgomp.so.1"),
    "curl": ("Depends: libcurl4 | libcurl5\nRecommends: ca-certificates\n", "usr/bin/curl"),
    "libcurl4": ("", "usr/lib/libcurl.so.4"),
    "ca-certificates": ("", "etc/ca.pem"),
}
ASKED = ("gcc", "curl")


def image(packages: list[str], files: dict[str, tuple[str, ...] | str] | None = None) -> Held:
    """An image with these packages, and further files: what each needs, or where a link leads to."""
    stanzas = [f"Package: {name}\nStatus: install ok installed\n{PACKAGES[name][0]}" for name in packages]
    automatic = [f"Package: {name}\nAuto-Installed: 1\n" for name in packages if name not in ASKED]
    texts = {"var/lib/dpkg/status": "\n".join(stanzas), "var/lib/apt/extended_states": "\n".join(automatic)}
    texts |= {f"var/lib/dpkg/info/{name}:amd64.list": f"/{PACKAGES[name][1]}\n" for name in packages}
    plain = LayerEntry("file", 0o644, (0, 0), "", "", (), 0)
    tree = {path: replace_digest(plain, said) for path, said in texts.items()}
    tree |= {path: replace_digest(plain, path) for name in packages for path in PACKAGES[name][1:]}
    looked: dict[str, object] = {said: said for said in texts.values()}
    for path, needs in (files or {}).items():
        tree[path] = (
            plain._replace(kind="link", target=needs) if isinstance(needs, str) else replace_digest(plain, path)
        )
        looked[path] = needs
    return Held(tree, {}, looked=looked)


def replace_digest(entry: LayerEntry, digest: str) -> LayerEntry:
    return entry._replace(digest=digest)


LEFT = ["curl", "libcurl4", "ca-certificates"]
CC: dict[str, tuple[str, ...] | str] = {"usr/bin/cc": "/etc/alternatives/cc", "etc/alternatives/cc": "/usr/bin/gcc"}


@pytest.mark.parametrize(
    ("left", "own", "differs"),
    [
        (LEFT, {}, []),
        ([*LEFT, "libgomp1"], {"venv/x.so": ("libgomp.so.1",)}, []),
        (LEFT, {"venv/x.so": ("libgomp.so.1",)}, ["venv/x.so needs libgomp.so.1"]),
        (LEFT, {"bin/x": ("/usr/bin/cpp",)}, ["bin/x needs /usr/bin/cpp"]),
        (LEFT, {"bin/x": "../usr/bin/cpp"}, ["bin/x needs /usr/bin/cpp"]),
        (["libcurl4", "ca-certificates"], {}, ["usr/bin/curl", "var/lib/dpkg/info/curl:amd64.list"]),
        (LEFT[:2], {}, ["etc/ca.pem", "var/lib/dpkg/info/ca-certificates:amd64.list"]),
        (["curl", "ca-certificates"], {}, ["usr/lib/libcurl.so.4", "var/lib/dpkg/info/libcurl4:amd64.list"]),
        ([], {}, ["usr/bin/curl", "var/lib/dpkg/info/curl:amd64.list"]),
    ],
)
def test_of_packages_only_those_may_be_gone_that_no_other_needs(
    left: list[str], own: dict[str, tuple[str, ...] | str], differs: list[str]
) -> None:
    before = image(list(PACKAGES), CC | own)
    said = compared(Before(before, before), image(left, own), {"gcc": "a compiler"})
    assert (sorted(said.differs), said.verdict) == (differs, Verdict.DIFFERS if differs else Verdict.SAME_BUT)
    assert {"usr/bin/gcc", "usr/bin/cpp", *CC} <= said.removed.keys()


def test_what_the_base_only_recommends_may_be_gone() -> None:
    base = image(["curl"])
    layers = [LayerContent("base", base.files, base.looked)]
    before, after = (image(some)._replace(layers=layers) for some in (list(PACKAGES), ["curl"]))
    assert compared(Before(before, before), after, {"gcc": "a compiler"}).verdict == Verdict.SAME_BUT


@pytest.mark.parametrize("path", ["venv/x.so", "usr/include/own.h", "usr/lib/own.so", "usr/local/bin/run"])
@pytest.mark.parametrize("change", ["gone", "digest", "mode", "owner"])
def test_what_no_package_has_is_compared_as_ever(path: str, change: str) -> None:
    before, after = image(list(PACKAGES), {path: ()}), image(LEFT, {path: ()})
    files = dict(after.files)
    entry = files.pop(path)
    changed = {
        "digest": entry._replace(digest="x"),
        "mode": entry._replace(mode=0),
        "owner": entry._replace(owner=(1, 1)),
    }
    files |= {path: changed[change]} if change in changed else {}
    said = compared(Before(before, before), after._replace(files=files), {"gcc": "a compiler"})
    assert (said.verdict, said.differs) == (Verdict.DIFFERS, (path,))
    assert compared(Before(before, before), after, {}).verdict == Verdict.DIFFERS, "no rule says so"


APT_GET = """\
#!/bin/sh
[ "$1" = install ] || exit 0
shift; mkdir -p /var/lib/dpkg/info /var/lib/apt
for name in "$@" $(case " $* " in *" gc"?" "*) echo cpp;; esac); do
    case $name in -*) continue;; esac
    printf 'Package: %s\\nStatus: install ok installed\\n\\n' $name >> /var/lib/dpkg/status
    echo /usr/bin/$name > /var/lib/dpkg/info/$name.list
    mkdir -p /usr/bin; echo "echo $name" > /usr/bin/$name; chmod +x /usr/bin/$name
done
[ ! -e /usr/bin/cpp ] || printf 'Package: cpp\\nAuto-Installed: 1\\n\\n' > /var/lib/apt/extended_states
"""
PIP = """\
#!/bin/sh
[ ! -e /usr/bin/gc* ] || md5sum requirements.txt > /venv/built
[ ! -e extra ] || cp extra /usr/bin/extra
"""
DOCKERFILE = """\
FROM tst-busybox:1
COPY --chmod=755 apt-get pip virtualenv /bin/
RUN apt-get update && apt-get install -y curl gcc
WORKDIR /app
COPY requirements.txt extr[a] ./
RUN virtualenv /venv
RUN pip install -r requirements.txt
CMD ["app"]
"""


@pytest.mark.engine
@pytest.mark.parametrize(
    ("files", "verdict", "differs"),
    [({}, "same but for", []), ({"web/extra": "x\n"}, "differs", ["usr/bin/extra"])],
)
def test_an_image_without_its_compilers_is_proved(
    lab: Lab, busybox: str, files: dict[str, str], verdict: str, differs: list[str]
) -> None:
    lab.write(
        {"compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n", "web/Dockerfile": DOCKERFILE, **files}
    )
    lab.write({"web/apt-get": APT_GET, "web/pip": PIP, "web/virtualenv": "#!/bin/sh\nmkdir $1\n"})
    lab.write({"web/requirements.txt": "a==1\n"})
    done = lab.doit("advise", "compilers-out", "--prove", "--json")
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(done.stdout)["patches"]
    said = found["proofs"]["web"]
    assert (said["verdict"], said["differs"], said["tests"]) == (verdict, differs, {}), found["text"]
    assert {"usr/bin/gcc", "usr/bin/cpp"} <= said["removed"].keys()
    assert "usr/bin/curl" not in said["removed"]


@pytest.mark.engine
@pytest.mark.parametrize(
    ("script", "verdict", "told"),
    [
        ("curl", "same but for", "passes"),
        ("echo builds; gcc", "differs", "fails"),
        ("gcc; other", "same but for", "fails without the patch too"),
    ],
)
def test_what_an_image_lacks_that_its_test_needs_makes_it_another(
    lab: Lab, busybox: str, script: str, verdict: str, told: str
) -> None:
    compose = "x-test: {runs: {service: web, command: [sh, /test/run], inputs: [run]}}\n"
    lab.write(
        {
            "compose.yml": f"{compose}services: {{web: {{image: PREFIX/web, build: web}}}}\n",
            "run": f"PATH=/bin:/usr/bin\n{script}\n",
        }
    )
    lab.write({"web/Dockerfile": DOCKERFILE, "web/virtualenv": "#!/bin/sh\nmkdir $1\n"})
    lab.write({"web/apt-get": APT_GET, "web/pip": PIP, "web/requirements.txt": "a==1\n"})
    done = lab.doit("advise", "compilers-out", "--prove", "--json")
    assert done.returncode == 0, done.stderr
    (said,) = (each["proofs"]["web"] for each in json.loads(done.stdout)["patches"])
    assert (said["verdict"], said["tests"]) == (verdict, {"runs": told}), said["differs"]
    failed = [each for each in said["differs"] if "runs/test" in each and "builds" in each and "gcc: not found" in each]
    assert len(failed) == len(said["differs"]) == (verdict == "differs")
    assert "usr/bin/gcc" in said["removed"]
    assert [line for line in lab.images() if ":building" in line] == []


WRONG = {
    "install -y curl\n": ("install -y cur\n", "install -y curl gcc\n", "install -y\n", "install -y curl more\n"),
    "/venv /venv\n": ("/venv /\n", "/venv/built /venv/\n", "/app /venv\n", "/venv /venv2\n"),
    "COPY --from=builder": ("COPY --chown=5:6 --from=builder", "COPY --chmod=700 --from=builder"),
    "--chmod=755 apt-get pip virtualenv": ("--chmod=700 apt-get pip virtualenv", "--chmod=755 apt-get virtualenv"),
    "install -y curl gcc": ("install -y curl", "install -y gcc"),
    'CMD ["app"]': ('CMD ["other"]', "USER 5"),
}


@pytest.mark.engine
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.all) for part in range(1, 6))])
def test_no_wrong_patch_of_this_rule_is_called_the_same(
    lab: Lab, busybox: str, part: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.write({"compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n", "web/Dockerfile": DOCKERFILE})
    lab.write({"web/apt-get": APT_GET, "web/pip": PIP, "web/virtualenv": "#!/bin/sh\nmkdir $1\n"})
    lab.write({"web/requirements.txt": "a==1\n"})
    run = Run((lab.folder / "compose.yml",), lab.env())
    inputs = run.planner.declared()["web"]
    exports = exports_of_all(monkeypatch)
    before = proof.before(run, inputs)
    (patch,) = RULE.patches(inputs.dockerfile_text, steps_of(inputs))
    good = ("same", "same but for")
    assert proof.prove(run, replace(inputs, dockerfile_text=patch.text), before, [patch]).verdict == "same but for"
    right, called = exports[-1], 0
    for text in list(changed(patch.text, WRONG))[part::6]:
        found = proof.prove(run, replace(inputs, dockerfile_text=text), before, [patch])
        is_right = found.verdict != "fails" and exports[-1] in (right, exports[0])
        assert is_right or found.verdict not in good, text
        called += not is_right
    assert called > 1
