"""Does an image stay the same with a patch? Real builds of real Dockerfiles, and what makes two trees differ."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from doit_images.advise.proof import Before, Held, Proof, Verdict, compared, files_of
from doit_images.ci.verifying.content import LayerContent, LayerEntry
from tests.ci.test_release import git
from tests.conftest import Lab


def entry(kind: str = "file", digest: str = "a", mode: int = 0o644, target: str = "", time: int = 1) -> LayerEntry:
    return LayerEntry(kind, mode, (0, 0), digest, target, (), time)


LOG = "var/log/dpkg.log"


def layer(entries: dict[str, LayerEntry]) -> LayerContent:
    return LayerContent("", entries)


def test_what_later_layers_hide_and_times_count_for_nothing() -> None:
    folder = entry("folder")
    first = layer({"d": folder, "d/f": entry(), "d/g": entry(), "e": folder, "e/x": entry(), "s": entry()})
    second = layer(
        {
            "d/.wh.f": entry(),
            "e/.wh..wh..opq": entry(),
            "e/y": entry(time=9),
            "d/g": entry(digest="b"),
            ".wh.s": entry(),
        }
    )
    assert files_of([first, second]) == {
        "d": entry("folder", time=0),
        "d/g": entry(digest="b", time=0),
        "e": entry("folder", time=0),
        "e/y": entry(time=0),
    }
    replaced = files_of([first, layer({"d": entry("link", target="e")})])
    assert [path for path in replaced if path.startswith("d")] == ["d"]
    assert files_of([layer({"a": entry(), "b": entry("hard link", target="a")})]) == files_of(
        [layer({"b": entry(), "a": entry("hard link", target="b")})]
    )


@pytest.mark.parametrize(
    ("again", "patched", "config", "proof"),
    [
        ({}, {}, {}, Proof(Verdict.SAME)),
        ({}, {"f": entry(digest="b")}, {}, Proof(Verdict.DIFFERS, ("f",))),
        ({}, {"f": entry(mode=0o755)}, {}, Proof(Verdict.DIFFERS, ("f",))),
        ({}, {"new": entry()}, {}, Proof(Verdict.DIFFERS, ("new",))),
        ({LOG: entry(digest="2")}, {LOG: entry(digest="3")}, {}, Proof(Verdict.SAME, (), (LOG,))),
        ({LOG: entry(digest="2")}, {"f": entry(digest="b")}, {}, Proof(Verdict.DIFFERS, ("f",), (LOG,))),
        ({LOG: entry(digest="2")}, {LOG: entry(digest="3", mode=0o600)}, {}, Proof(Verdict.DIFFERS, (LOG,), (LOG,))),
        ({LOG: entry(digest="2")}, {LOG: None}, {}, Proof(Verdict.DIFFERS, (LOG,), (LOG,))),
        ({"f": entry(digest="2")}, {"f": entry(digest="3")}, {}, Proof(Verdict.NOT_PROVED, ("RUN get f: f",), ("f",))),
        ({"f": entry(digest="2")}, {}, {}, Proof(Verdict.NOT_PROVED, ("RUN get f: f",), ("f",))),
        ({"pid": entry()}, {"pid": entry()}, {}, Proof(Verdict.NOT_PROVED, ("a step: pid",), ("pid",))),
        ({"pid": entry()}, {"f": entry(digest="b")}, {}, Proof(Verdict.DIFFERS, ("f",), ("pid",))),
        ({}, {}, {"User": "1"}, Proof(Verdict.DIFFERS, ("the configuration",))),
    ],
)
def test_what_differs_anyway_says_nothing_about_the_patch(
    again: dict[str, LayerEntry], patched: dict[str, LayerEntry | None], config: dict[str, str], proof: Proof
) -> None:
    files = {"f": entry(), LOG: entry(digest="1")}
    layers = [layer({"f": entry()}), layer({"f": entry(), LOG: entry()}), layer({LOG: entry()})]
    steps = ["COPY f", "RUN /bin/sh -c get f # buildkit", "RUN log"]
    before = Before(Held(files, {}, layers, steps), Held(files | again, {}))
    after = {path: each for path, each in (files | patched).items() if each}
    assert compared(before, Held(after, config), {}) == proof


REMOVES = {"/root/.cache/pip": "the cache of pip"}


@pytest.mark.parametrize(
    ("patched", "verdict", "differs"),
    [
        ({}, Verdict.SAME_BUT, ()),
        ({"root": entry("folder"), "root/.cache": entry("folder")}, Verdict.SAME_BUT, ()),
        ({"root": entry("folder"), "root/.cache": entry("folder", mode=0o700)}, Verdict.DIFFERS, ("root/.cache",)),
        ({"root/.cache/pip/wheel": entry(digest="b")}, Verdict.DIFFERS, ("root/.cache/pip/wheel",)),
        ({"root/.cache/pip/other": entry()}, Verdict.DIFFERS, ("root/.cache/pip/other",)),
        ({"bin": None}, Verdict.DIFFERS, ("bin",)),
    ],
)
def test_only_what_is_gone_as_the_rule_says_is_the_same_but_for_that(
    patched: dict[str, LayerEntry | None], verdict: Verdict, differs: tuple[str, ...]
) -> None:
    folders = {"root": entry("folder"), "root/.cache": entry("folder"), "root/.cache/pip": entry("folder")}
    before = Held({"bin": entry(), **folders, "root/.cache/pip/wheel": entry()}, {})
    after = {path: each for path, each in {"bin": entry(), **patched}.items() if each}
    proof = compared(Before(before, before), Held(after, {}), REMOVES)
    assert (proof.verdict, proof.differs) == (verdict, differs)
    assert set(proof.removed.values()) <= {"the cache of pip"}
    assert not {"bin", *proof.differs}.intersection(proof.removed)


def test_what_the_base_has_may_be_back_where_the_rule_says() -> None:
    layers = [LayerContent("base", {"root/.cache/pip/lock": entry(), "lock": entry()})]
    before = Held({}, {}, [*layers, LayerContent("1", {})])
    back = {"root/.cache/pip/lock": entry(time=0)}

    def proved(files: dict[str, LayerEntry], layers: list[LayerContent]) -> Proof:
        return compared(Before(before, before), Held(files, {}, layers), REMOVES)

    found = proved(back, [*layers, LayerContent("2", {})])
    told = {"root/.cache/pip/lock": "the cache of pip, as the base has it"}
    assert found == Proof(Verdict.SAME_BUT, removed=told)
    assert proved(back, [LayerContent("other", layers[0].entries)]).verdict == Verdict.DIFFERS
    assert proved({"lock": entry()}, layers).verdict == Verdict.DIFFERS
    assert proved({"root/.cache/pip/lock": entry(digest="b")}, layers).verdict == Verdict.DIFFERS


NPM = """\
#!/bin/sh
mkdir -p node_modules && md5sum package-lock.json > node_modules/lock
[ ! -e package.json ] || ! grep -q prepare package.json || ls src > node_modules/prepared
[ ! -e package.json ] || ! grep -q random package.json || cat /proc/sys/kernel/random/uuid > node_modules/random
[ ! -e package.json ] || ! grep -q logged package.json || { mkdir -p /var/log; cat /proc/uptime > /var/log/npm; }
"""
FILES = {
    "compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n",
    "web/Dockerfile": "FROM tst-busybox:1\nCOPY --chmod=755 npm /bin/\nWORKDIR /app\nCOPY . .\nRUN npm ci\nUSER 5\n",
    "web/npm": NPM,
    "web/package.json": "{}\n",
    "web/package-lock.json": "PREFIX\n",
    "web/src/a": "1\n",
}


@pytest.fixture
def project(lab: Lab, busybox: str) -> Lab:
    lab.write(FILES)
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        git(lab.folder, *words)
    return lab


def advised(lab: Lab, *words: str) -> list[dict[str, Any]]:
    done = lab.doit("advise", *words, "--json")
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)["patches"]
    return found


@pytest.mark.engine
def test_a_patch_is_proved_and_written_and_then_the_code_costs_nothing(project: Lab) -> None:
    (plain,) = advised(project, "locks-first", "--patch")
    assert (plain["dockerfile"], plain["line"], plain["proofs"]) == ("web/Dockerfile", 5, {})
    saved = json.loads(project.doit("advise", "locks-first", "--patch", "--json").stdout)["saved"]["web"]
    nothing = {"runs": 0, "seconds": 0.0}
    assert saved == {"commits": 0, "before": nothing, "after": nothing, "unknown": 0}
    assert git(project.folder, "status", "--porcelain") == "", "nothing is written yet"
    (applied,) = advised(project, "locks-first", "--apply")
    same = {"verdict": "same", "differs": [], "unsteady": [], "removed": {}, "tests": {}}
    assert applied["proofs"] == {"web": same}
    assert (project.folder / "web/Dockerfile").read_text() == applied["text"]
    assert git(project.folder, "status", "--porcelain") == "M web/Dockerfile", "the commit is left to the person"
    assert advised(project, "locks-first", "--patch") == []
    project.build()
    (project.folder / "web/src/a").write_text("2\n")
    assert project.build() == {"web": "built"}
    steps = json.loads(project.doit("history", "web", "--limit", "1", "--json").stdout)[0]["steps"]
    assert {step["name"].partition("] ")[2]: step["cached"] for step in steps}["RUN npm ci"] is True
    assert [line for line in project.images() if ":building" in line] == []


RANDOM = "app/node_modules/random"


@pytest.mark.engine
@pytest.mark.parametrize(
    ("script", "proof"),
    [
        ("prepare", ("differs", ["app/node_modules/prepared"], [])),
        ("random", ("not proved", [f"RUN npm ci: {RANDOM}"], [RANDOM])),
        ("logged", ("same", [], ["var/log/npm"])),
    ],
)
def test_an_installation_that_reads_more_than_its_lock_is_found_out(
    project: Lab, script: str, proof: tuple[str, list[str], list[str]]
) -> None:
    (project.folder / "web/package.json").write_text(f'{{"{script}": 1}}\n')
    (found,) = advised(project, "locks-first", "--apply")
    assert tuple(found["proofs"]["web"][name] for name in ("verdict", "differs", "unsteady")) == proof
    written = subprocess.run(["git", "diff", "--quiet", "--", "web/Dockerfile"], cwd=project.folder, check=False)
    assert (written.returncode == 1) == (proof[0] == "same")


@pytest.mark.engine
def test_a_dockerfile_that_is_being_edited_is_not_written(project: Lab) -> None:
    with (project.folder / "web/Dockerfile").open("a") as file:
        file.write("LABEL a=b\n")
    done = project.doit("advise", "--apply")
    assert done.returncode == 1
    assert "web/Dockerfile: it is not as the commit has it" in done.stderr


@pytest.mark.engine
@pytest.mark.parametrize(("update", "rules"), [("", []), ("apt-get update && ", ["cache-mounts"])])
def test_lists_by_which_an_image_on_top_installs_stay(lab: Lab, busybox: str, update: str, rules: list[str]) -> None:
    base = "FROM tst-busybox:1\nRUN apt-get update && apt-get install a\n"
    images = "{base: {image: PREFIX/base, build: base}, app: {image: PREFIX/app, build: app}}"
    lab.write({"compose.yml": f"services: {images}\n", "base/Dockerfile": base})
    lab.write({"app/Dockerfile": f"FROM PREFIX/base\nRUN {update}apt-get install b\n"})
    assert [each["rule"] for each in advised(lab, "base", "--patch")] == rules


PIP = """\
#!/bin/sh
mkdir -p /root/.cache/pip /site && [ "$2" = --no-cache-dir ] || touch /root/.cache/pip/PREFIX
md5sum requirements.txt > /site/installed
"""


@pytest.mark.engine
@pytest.mark.parametrize(("option", "proof"), [("--no-cache-dir ", "same but for"), ("--target x ", "differs")])
def test_a_cache_mount_is_proved(lab: Lab, busybox: str, option: str, proof: str) -> None:
    own = "if [ $2 = --target ]; then grep -c pip /proc/mounts > /site/mounts; fi; exit 0\n"
    lab.write(
        {
            "compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n",
            "web/Dockerfile": "FROM tst-busybox:1\nCOPY --chmod=755 pip /bin/\nWORKDIR /app\nCOPY . .\n"
            f"RUN pip install {option}-r requirements.txt\n",
            "web/pip": PIP + own,
            "web/requirements.txt": "a\n",
        }
    )
    (found,) = advised(lab, "cache-mounts", "--prove")
    assert found["rule"] == "cache-mounts"
    assert found["proofs"]["web"]["verdict"] == proof
    gone = {"root", "root/.cache", "root/.cache/pip"}
    assert gone <= found["proofs"]["web"]["removed"].keys()
    assert found["proofs"]["web"]["differs"] == (["site/mounts"] if proof == "differs" else [])


@pytest.mark.engine
@pytest.mark.parametrize(("needed", "verdict"), [("/site/installed", "same but for"), ("/root/.cache/pip", "differs")])
def test_a_stage_that_tests_the_image_tests_the_patched_one(lab: Lab, busybox: str, needed: str, verdict: str) -> None:
    lab.write(
        {
            "compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n",
            "web/Dockerfile": "FROM tst-busybox:1 AS app\nCOPY --chmod=755 pip /bin/\nWORKDIR /app\nCOPY . .\n"
            f"RUN pip install -r requirements.txt\nFROM app AS test\nRUN ls {needed}\nFROM app\n",
            "web/pip": PIP,
            "web/requirements.txt": "a\n",
        }
    )
    done = lab.doit("advise", "cache-mounts", "--prove")
    assert done.returncode == 0, done.stderr
    last = done.stdout[done.stdout.index("\nweb: ") :]
    if verdict == "differs":
        assert "would be another image" in last
        assert f"ls: {needed}: No such file" in last
    else:
        assert "but for what the patch removes: " in last
        assert "; its test `web` passes" in last


OWNED = """\
FROM tst-busybox:1
COPY Dockerfile /kept
COPY tree /fresh
RUN chown -R 5:6 /fresh && chmod -R 700 /fresh
WORKDIR /made
COPY tree .
RUN chown -R 7 .
COPY run.sh /opt/
RUN chmod +x /opt/run.sh
COPY run.sh /bin/
RUN chown -R 5:5 /bin
"""


APPLIED = """\
FROM tst-busybox:1
COPY Dockerfile /kept
COPY --chown=5:6 --chmod=700 tree /fresh
RUN chmod 700 /fresh
WORKDIR /made
COPY --chown=7:0 tree .
RUN chown 7 .
COPY --chmod=755 run.sh /opt/
COPY run.sh /bin/
RUN chown -R 5:5 /bin
"""


@pytest.mark.engine
def test_of_several_patches_those_are_written_that_are_proved(lab: Lab, busybox: str) -> None:
    lab.write(
        {
            "compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n",
            "web/Dockerfile": OWNED,
            "web/run.sh": "#!/bin/sh\n",
            "web/tree/a/b": "1\n",
            "web/tree/c": "2\n",
        }
    )
    (lab.folder / "web/tree/link").symlink_to("a/b")
    for words in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "--message", "first")):
        git(lab.folder, *words)
    found = advised(lab, "copied-twice", "--apply")
    assert [each["proofs"]["web"]["verdict"] for each in found] == ["same"] * 4 + ["differs"], found
    assert found[-1]["proofs"]["web"]["differs"][0] == "bin", "the base has had this folder, and more in it"
    assert (lab.folder / "web/Dockerfile").read_text() == APPLIED


@pytest.mark.engine
def test_packages_before_what_is_copied_are_proved(lab: Lab, busybox: str) -> None:
    lab.write(
        {
            "compose.yml": "services: {web: {image: PREFIX/web, build: web}}\n",
            "web/Dockerfile": "FROM tst-busybox:1\nCOPY --chmod=755 apt-get apk /bin/\nWORKDIR /app\nCOPY . .\n"
            "RUN apt-get install a\nCOPY . /again\nRUN apk add b\n",
            "web/apt-get": "#!/bin/sh\ntouch /$2\n",
            "web/apk": "#!/bin/sh\nls / > /listed\n",
        }
    )
    found = advised(lab, "order", "--prove")
    assert [each["proofs"]["web"]["verdict"] for each in found] == ["same", "differs"], found
    assert found[1]["proofs"]["web"]["differs"] == ["listed"]
