"""The benchmarks: what fails or breaks off is no figure, and whoever asks for help measures nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import runpy
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from benchmarks import measure, one_change, peers, watch
from benchmarks.carried_mounts import NewMachine
from benchmarks.dedicated import Ways
from benchmarks.peers import Bench
from benchmarks.shared import Documented, Finals
from benchmarks.side_by_side import DOCUMENTED
from benchmarks.temporary_engine import TemporaryEngine, temporary_engine
from benchmarks.worktrees import Worktree
from doit_images.core.base.errors import UserError
from tests import loopback
from tests.conftest import ROOT

DEFINITION = {
    "target": {
        "app": {
            "context": "/p/app",
            "dockerfile": "/p/app/Dockerfile",
            "args": {"PRICE": "$5"},
            "contexts": {"base": "target:base", "data": "/p/data"},
            "secret": ["id=ca,src=/ca.crt", "id=token,env=TOKEN"],
        },
        "base": {"context": "/p/base", "dockerfile": "/p/base/Dockerfile"},
    }
}


# What a docker command says of its plugins.
VERSION = """[ "$2" != version ] || { echo "v${HAS:-0.13.1}"; exit 0; }"""


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """A project of which doit says the definition, and a docker command that does what ``docker`` writes."""
    said = tmp_path / "definition.json"
    said.write_text(json.dumps(DEFINITION))
    monkeypatch.setattr(peers, "DOIT", program(tmp_path / "bin/doit", f"cat '{said}'"))
    program(tmp_path / "bin/docker", VERSION)
    one = Bench(
        {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "COMPOSE_FILE": f"{tmp_path}/compose.yml"}, tmp_path / "f"
    )
    one.prepare()
    return one


def docker(bench: Bench, script: str) -> Path:
    """Let the docker command do this; the file that it may write what it was asked into."""
    asked = bench.folder / "asked"
    program(bench.folder.parent / "bin/docker", f"{VERSION}\nasked='{asked}'\n{script}")
    return asked


def test_both_peers_get_the_same_graph(bench: Bench) -> None:
    baked = json.loads((bench.folder / "bake.json").read_text())["target"]
    assert {name: target["tags"] for name, target in baked.items()} == {
        "app": ["bm-bake/app"],
        "base": ["bm-bake/base"],
    }
    project = json.loads((bench.folder / "compose.json").read_text())
    app = project["services"]["app"]
    assert app["image"] == "bm-compose/app"
    assert app["build"]["additional_contexts"] == {"base": "docker-image://bm-compose/base", "data": "/p/data"}
    assert app["build"]["args"] == {"PRICE": "$$5"}, "which Compose reads as $5"
    assert app["build"]["secrets"] == ["ca", "token"]
    assert project["secrets"] == {"ca": {"file": "/ca.crt"}, "token": {"environment": "TOKEN"}}
    assert "secrets" not in project["services"]["base"]["build"]
    asked = docker(bench, 'echo "$*" >>"$asked"')
    bench.build_with_peers()
    lines = asked.read_text().splitlines()
    assert lines[0].startswith("buildx bake --file ")
    assert [line.split()[-1] for line in lines[1:]] == ["base", "app"], "a parent before its child"


def test_the_newest_peers_get_it_in_their_own_words(bench: Bench) -> None:
    new = replace(bench, environ={**bench.environ, "HAS": "2.40.3"})
    new.prepare()
    project = json.loads((bench.folder / "compose.json").read_text())
    contexts = project["services"]["app"]["build"]["additional_contexts"]
    assert contexts == {"base": "service:base", "data": "/p/data"}
    asked = docker(bench, 'echo "$*" >>"$asked"')
    new.bake()
    assert asked.read_text().startswith("buildx bake --allow=fs.read=/"), "which it asks for from 0.19 on"


def finals(bench: Bench) -> Finals:
    return Finals(bench.folder / "ours.json", "localhost:1", {"app": "bm/app:1"})


def ways(bench: Bench) -> Ways:
    return Ways(bench, bench.folder, "far", "base:1", "oci-layout://x", "localhost:1")


def test_finals_are_pushed_as_they_are_and_pulled_by_compose(bench: Bench) -> None:
    asked = docker(bench, 'echo "$*" >>"$asked"')
    finals(bench).push(bench.environ)
    finals(bench).pull(bench.environ)
    ref, file = "localhost:1/ours/app", bench.folder / "ours.json"
    assert asked.read_text().splitlines() == [
        f"tag bm/app:1 {ref}",
        f"push --quiet {ref}",
        f"compose --file={file} pull --quiet",
    ]
    assert json.loads(file.read_text())["services"] == {"app": {"image": ref}}


def test_what_leaves_a_dedicated_builder_is_the_same_image_each_way(bench: Bench) -> None:
    asked = docker(bench, 'echo "$*" >>"$asked"')
    ways(bench).loaded()
    ways(bench).pulled()
    rest = f"--provenance=false --build-context base:1=oci-layout://x {bench.folder}"
    assert asked.read_text().splitlines() == [
        f"buildx build --builder far --load --tag bm-dedicated/load {rest}",
        f"buildx build --builder far --push --tag localhost:1/dedicated {rest}",
        "pull --quiet localhost:1/dedicated",
    ]


def test_compose_starts_a_stack_beside_another_with_the_files_that_doit_made_until_all_is_healthy(bench: Bench) -> None:
    tree = bench.folder / "tree"
    made = tree / ".doit-images/it"
    for file in (tree / "services/auth/app.py", tree / "compose.yml", made / "beside.yml", made / "beside-images.json"):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("")
    (made / "stack.json").write_text(json.dumps({"name": "it-tree", "files": [f"{tree}/compose.yml"]}))
    said = """echo "$*" >>"$asked"
        [ "$(grep -c ' ps ' "$asked")" = 1 ] && health=starting || health=healthy
        case "$*" in *" ps "*) echo '{"Health": "healthy"}'; echo "{\\"Health\\": \\"$health\\"}";; esac"""
    asked = docker(bench, said)
    one = Worktree(tree)
    one._environ = dict(bench.environ)
    assert one.compose_up() > 0
    of = f"--project-name it-tree --file {tree}/compose.yml --file {made}/beside.yml --file {made}/beside-images.json"
    up, *asked_again = asked.read_text().splitlines()
    assert up == f"compose {of} up --detach --no-build"
    assert asked_again == [f"compose {of} ps --format json"] * 2, "one was not healthy yet"


class Answering(BaseHTTPRequestHandler):
    """A service that answers with a file of its project."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.file.read_bytes())  # type: ignore[attr-defined]

    def log_message(self, *args: object) -> None:
        pass


def test_an_edit_counts_until_the_service_answers_by_it(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        server.file = tmp_path / watch.CODE  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        one = watch.Followed(tmp_path, server.server_port)
        assert 0 < one.edit(watch.CODE) < watch._LIMIT_SECONDS
        with pytest.raises(UserError, match="does not answer with"):
            one.edit(watch.BUILT_IN, 0.2)
        server.shutdown()


MEASURED: dict[str, Callable[[Bench], object]] = {
    "a push": lambda bench: finals(bench).push(bench.environ),
    "a pull": lambda bench: finals(bench).pull(bench.environ),
    "a load": lambda bench: ways(bench).loaded(),
    "a load through a registry": lambda bench: ways(bench).pulled(),
    "compose": lambda bench: bench.compose(),
    "bake": lambda bench: bench.bake(),
    "bake's seconds": lambda bench: bench.bake_seconds(),
    "peers": lambda bench: bench.build_with_peers(),
    "in turns": lambda bench: measure.in_turns({"peer": lambda: bench.compose().seconds}, 2, lambda line: None),
}


@pytest.mark.parametrize("what", MEASURED)
@pytest.mark.parametrize(
    ("script", "said"),
    [("echo no space left >&2; exit 1", "no space left"), ("kill -9 $$", "docker"), ("exit 127", "docker")],
)
def test_a_peer_that_fails_is_no_figure(bench: Bench, what: str, script: str, said: str) -> None:
    docker(bench, script)
    with pytest.raises(UserError, match=said):
        MEASURED[what](bench)


def test_a_peer_that_fails_in_a_later_round_is_no_figure(bench: Bench) -> None:
    docker(bench, '[ ! -e "$asked" ] || exit 1; touch "$asked"')
    with pytest.raises(UserError):
        MEASURED["in turns"](bench)


def test_only_bakes_own_fault_takes_for_ever(bench: Bench) -> None:
    docker(bench, "echo 'ERROR: no such job abc' >&2; exit 1")
    assert bench.bake_seconds() == math.inf
    with pytest.raises(UserError):
        bench.bake()
    docker(bench, "exit 0")
    assert bench.bake_seconds() < 60


def test_of_commands_that_run_at_once_each_has_to_end_well(bench: Bench) -> None:
    assert one_change.together([["true"], ["sh", "-c", "echo said"]], bench) < 60
    with pytest.raises(SystemExit, match="cannot build"):
        one_change.together([["true"], ["sh", "-c", "echo cannot build >&2; exit 1"], ["true"]], bench)


def test_a_doit_that_fails_is_no_figure(bench: Bench, tmp_path: Path) -> None:
    program(tmp_path / "bin/doit", "echo it is broken >&2; exit 2")
    for run in (
        lambda: bench.doit("build_optimized"),
        bench.plan,
        bench.prepare,
        lambda: bench.bare(tmp_path / "d.py"),
    ):
        with pytest.raises(UserError, match="it is broken"):
            run()


class Emptied(TemporaryEngine):
    """An engine that only notes that it was emptied, and what it was to keep."""

    def forget_everything(self, keep: Iterable[str] = (), *, cache_mounts: bool = True) -> None:
        Path(self.address).write_text(f"emptied but for {' '.join(keep)}\n")


def test_a_new_machine_is_empty_each_time_and_builds_what_it_must(bench: Bench, tmp_path: Path) -> None:
    asked = tmp_path / "asked"
    says = """[ "$1" = cache_import ] || echo "built auth in 1 s" >&2"""
    program(tmp_path / "bin/doit", f"""echo "$*" >>'{asked}'; {says}""")
    new = NewMachine(Emptied(str(asked), bench.environ), bench, "base:1", tmp_path / "mounts")
    assert new.carrying(1) > 0
    first = ["emptied but for base:1"]
    assert asked.read_text().splitlines() == [*first, f"cache_import --mounts {tmp_path}/mounts", "build_optimized"]
    assert new.downloading(1) > 0
    assert asked.read_text().splitlines() == [*first, "build_optimized"]
    with pytest.raises(UserError, match="1 images were built where 2 had to be"):
        new.downloading(2)


SCRIPTS = [path for path in sorted((ROOT / "benchmarks").glob("*.py")) if "__main__" in path.read_text()]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_whoever_asks_for_help_gets_it_and_nothing_else(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def looked() -> dict[str, int]:
        return {str(path): path.stat().st_mtime_ns for path in (ROOT / "README.md", *(ROOT / "benchmarks").iterdir())}

    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = looked()
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(script), run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: {script.name}")
    assert looked() == before


@pytest.mark.engine
def test_the_newest_peers_really_build_the_same_graph(newer: TemporaryEngine, tmp_path: Path) -> None:
    """Compose through bake, in its own words, and bake, which asks what it may read."""
    build = {"base": {"context": "base"}, "app": {"context": "app", "additional_contexts": {"base": "service:base"}}}
    services = {name: {"image": f"bm-newest/{name}", "build": one} for name, one in build.items()}
    for name, text in (("base", "FROM scratch\nCOPY f /\n"), ("app", "FROM base\nCOPY f /g\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "Dockerfile").write_text(text)
        (tmp_path / name / "f").write_text(name)
    (tmp_path / "compose.yml").write_text(json.dumps({"name": "bm-newest", "services": services}))
    bench = Bench({**newer.environ, "COMPOSE_FILE": str(tmp_path / "compose.yml")}, tmp_path / "bench")
    bench.doit("build_optimized")
    bench.prepare()
    contexts = json.loads((bench.folder / "compose.json").read_text())["services"]["app"]["build"]
    assert contexts["additional_contexts"] == {"base": "service:base"}
    bench.build_with_peers()
    assert bench.compose().seconds > 0
    listed = ["docker", "image", "ls", "--format", "{{.Repository}}"]
    names = set(subprocess.run(listed, env=newer.environ, capture_output=True, text=True, check=True).stdout.split())
    assert {f"bm-{way}/{name}" for way in ("newest", "bake", "compose") for name in build} <= names
    facts = measure.machine(newer.environ)
    assert int(facts["engine"].split(".")[0]) >= 28
    bench.remove_all("bm-newest")


@pytest.mark.engine
def test_documented_images_reach_a_second_machine_both_ways(engine: None, tmp_path: Path) -> None:
    """Pushed and pulled, and built there by bake from a cache in the registry, without a step of its own."""
    image = {"image": "bm-taught/app:standard", "build": {"context": ".", "dockerfile": "standard.Dockerfile"}}
    taught = {"image": "bm-taught/app:documented", "build": {"dockerfile": "Dockerfile"}}
    for name, service in (("docker-compose.yml", image), (DOCUMENTED, taught)):
        (tmp_path / name).write_text(json.dumps({"name": "bm-taught", "services": {"app": service}}))
    (tmp_path / "Dockerfile").write_text("FROM scratch\nCOPY f /\n")
    (tmp_path / "f").write_text("one")
    with contextlib.ExitStack() as stack:
        try:
            one = stack.enter_context(temporary_engine("bm-taught-", containerd_store=True))
        except UserError as trouble:
            pytest.skip(str(trouble))
        registry = stack.enter_context(loopback.registry(tmp_path / "registry"))

        def names() -> list[str]:
            argv = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
            return subprocess.run(argv, env=one.environ, capture_output=True, text=True, check=True).stdout.split()

        documented = Documented(tmp_path, registry.address)
        pushed = documented.share(one.environ)
        documented.export(one.environ)
        one.forget_everything()
        assert names() == []
        assert pushed.pull(one.environ) > 0
        assert names() == [f"{registry.address}/documented/app:latest"]
        one.forget_everything()
        (tmp_path / "standard.Dockerfile").write_text("no Dockerfile, and nobody builds it\n")
        assert documented.built(one.environ) > 0
        assert names() == ["bm-taught/app:documented"]
