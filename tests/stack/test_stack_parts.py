"""The stack's pure parts: exact command lines, what Compose and the engine answer, verdicts, secrets, reactions."""

from __future__ import annotations

import json
import os
import stat
import string
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.base.events import Events
from doit_images.core.compose.stack import (
    Command,
    Compose,
    Service,
    Sync,
    create_argv,
    down_argv,
    logs_argv,
    recreate_argv,
    services_of,
    start_argv,
)
from doit_images.core.run import Run
from doit_images.stack import bringup, ephemeral_stack, passed_over, secrets, watch
from doit_images.stack.bringup import Terms
from doit_images.stack.containers import Container, Containers, container_of
from doit_images.stack.dev import Reaction, followed, mounted, reaction
from doit_images.stack.edits import edited, stats_of
from doit_images.stack.ephemeral_stack import free_port
from doit_images.stack.events import rows
from doit_images.stack.health import RESTARTS, STEADY_SECONDS, Health, Moment, ServiceHealth, Waited, WaitLimits, judge
from tests.conftest import ROOT

COMPOSE = Compose((Path("/p/compose.yml"), Path("/q/test.yml")), "name", {"COMPOSE_FILE": "x", "A": "1"})
BEFORE = ["docker", "compose", "--file", "/p/compose.yml", "--file", "/q/test.yml"]
BEFORE += ["--project-directory", "/p", "--project-name", "name"]


# ---- what is run


def test_the_command_lines() -> None:
    assert create_argv(COMPOSE) == [*BEFORE, "--progress", "plain", "up", "--no-start", "--no-build", "--quiet-pull"]
    assert start_argv(COMPOSE) == [*BEFORE, "--progress", "plain", "start"]
    web = replace(COMPOSE, only=("web",))
    assert create_argv(web)[-2:] == ["--quiet-pull", "web"]
    assert start_argv(web)[-2:] == ["start", "web"]
    alone = replace(web, alone=True)
    assert create_argv(alone)[-3:] == ["--quiet-pull", "--no-deps", "web"]
    assert create_argv(alone, pull="missing")[-5:] == ["--quiet-pull", "--pull", "missing", "--no-deps", "web"]
    assert recreate_argv(COMPOSE, {"web", "db"})[-5:] == ["--quiet-pull", "--force-recreate", "--no-deps", "db", "web"]
    starting = ["up", "--detach", "--no-build", "--no-recreate", "--pull", "missing", "--no-deps", "web"]
    assert start_argv(alone)[-8:] == starting, "what was created has its image"
    down = ["docker", "compose", "--progress", "plain", "--project-name", "name", "down", "--remove-orphans"]
    assert down_argv("name", volumes=False) == down
    assert down_argv("name", volumes=True) == [*down, "--volumes"]
    logs = [*BEFORE, "--ansi", "never", "--profile", "*", "logs", "--tail"]
    assert logs_argv(COMPOSE) == [*logs, "all"]
    assert logs_argv(COMPOSE, ["web"], follow=True, tail="5", since="1m") == [
        *logs, "5", "--follow", "--since", "1m", "web",
    ]  # fmt: skip
    assert logs_argv(COMPOSE, color=True)[len(BEFORE) : len(BEFORE) + 2] == ["--ansi", "always"]
    assert COMPOSE.argv("restart", "web") == [*BEFORE, "restart", "web"]
    assert COMPOSE.env == {"A": "1"}
    assert COMPOSE.directory == Path("/p")


def test_no_secret_is_on_a_command_line() -> None:
    compose = Compose((Path("/p/compose.yml"),), "name", {"STORE_PASSWORD": "seemingly-secret"})
    for argv in (create_argv(compose), logs_argv(compose)):
        assert not any("seemingly-secret" in word for word in argv)


# ---- what Compose and the engine answer


def test_services() -> None:
    config = {
        "name": "p",
        "services": {
            "base": {"image": "x/base", "build": {"context": "."}, "scale": 0},
            "web": {
                "build": {"context": "."},
                "ports": [{"target": 80, "published": "0"}, {"target": 443}],
                "volumes": [
                    {"type": "volume", "source": "data", "target": "/data"},
                    {"type": "volume", "target": "/anonymous"},
                    {"type": "bind", "source": "/a", "target": "/b"},
                    {"type": "image", "source": "weights", "target": "/w"},
                ],
                "pre_start": [{"image": "x/setup", "command": ["a"]}, {"command": ["b"]}],
                "environment": {"PASSWORD": "seemingly-secret"},
                "develop": {"watch": [{"action": "sync", "path": "/p/a", "target": "/a", "ignore": ["*.md"]}]},
            },
            "many": {"image": "y", "deploy": {"replicas": 3}},
            "provided": {"provider": {"type": "somebody"}, "attach": False},
        },
        "volumes": {"data": {"name": "p_data"}},
    }
    found = services_of(config)
    assert found["base"] == Service("base", "x/base", True, 0, {})
    assert found["web"] == Service(
        "web",
        "p-web",
        True,
        1,
        {"/data": "p_data"},
        (80, 443),
        (Sync("sync", Path("/p/a"), "/a", ("*.md",)),),
        further=("weights", "p-weights", "x/setup"),
    )
    assert (found["many"].replicas, found["many"].builds) == (3, False)
    assert found["provided"].replicas == 0, "it has no container here"
    assert [name for name in found if not found[name].attach] == ["provided"]
    assert followed(found, ()) == ("base", "many", "web")
    assert followed({"web": found["web"]}, ("web",)) == ("web",)
    assert followed({"web": found["web"]}, ()) == ()
    assert "seemingly-secret" not in repr(found)


INSPECTED: dict[str, Any] = {
    "Id": "abc",
    "Name": "/p-web-1",
    "Image": "sha256:1",
    "RestartCount": 2,
    "Config": {
        "Image": "x/web",
        "Env": ["PASSWORD=seemingly-secret"],
        "Healthcheck": {"StartPeriod": 60_000_000_000},
        "Labels": {
            "com.docker.compose.service": "web",
            "com.docker.compose.oneoff": "False",
            "com.docker.compose.project.config_files": "/p/a.yml,/p/b.yml",
        },
    },
    "State": {
        "Status": "running",
        "ExitCode": 0,
        "StartedAt": "2026-11-24T07:32:55.977330181Z",
        "Health": {"Status": "healthy"},
    },
    "HostConfig": {"RestartPolicy": {"Name": "unless-stopped"}},
    "NetworkSettings": {
        "Ports": {
            "80/tcp": [{"HostIp": "::", "HostPort": "2"}, {"HostIp": "0.0.0.0", "HostPort": "1"}],
            "90/tcp": None,
            "443/tcp": [{"HostIp": "::1", "HostPort": "3"}],
        }
    },
    "Mounts": [
        {"Type": "volume", "Name": "p_data", "Destination": "/data"},
        {"Type": "bind", "Source": "/a", "Destination": "/b"},
    ],
}


def test_a_container() -> None:
    found = container_of(INSPECTED)
    assert found is not None
    assert found == Container(
        "abc", "p-web-1", "web", "x/web", "sha256:1", "running", "healthy", restarts=2, started=found.started,
        start_period=60.0, ports={80: "0.0.0.0:1", 443: "[::1]:3"}, volumes={"/data": "p_data"},
        always=True,
    )  # fmt: skip
    assert round(found.started % 60, 3) == 55.977
    assert "seemingly-secret" not in repr(found)
    once = json.loads(json.dumps(INSPECTED).replace('"False"', '"True"'))
    assert container_of(once) is None
    hook = json.loads(json.dumps(INSPECTED).replace("com.docker.compose.oneoff", "com.docker.compose.hook"))
    assert container_of(hook) is None


@pytest.mark.parametrize(("version", "told"), [("2.26.1-4", 6), ("2.30.3", 2), ("v2.34.0", 0), ("5.5.0", 0)])
def test_what_this_compose_passes_over_is_said(version: str, told: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(
        Compose, "run", lambda self, *words: asked.append(words) or commands.Done(0, f"{version}\n".encode(), "", {})
    )
    mounts = [{"type": "bind", "source": "/a", "bind": {"recursive": "disabled"}}, {"type": "tmpfs"}]
    web = {
        "post_start": [], "pre_stop": [], "networks": {"n": {"gw_priority": 1, "driver_opts": {}}, "m": None},
        "volumes": mounts,
    }  # fmt: skip
    found = passed_over.sentences({"services": {"web": web}, "networks": {"n": {"enable_ipv4": False}}}, COMPOSE)
    assert len(found) == told
    if told == 6:
        assert found[0] == (
            f"services.web.post_start is passed over by Compose {version}: 2.30 is the first that does what it says"
        )
    assert asked == [("version", "--short")]
    assert passed_over.sentences({"services": {"web": {"networks": {"n": None}}}}, COMPOSE) == []
    assert len(asked) == 1


def test_rows_are_plain_data() -> None:
    one = container_of(INSPECTED)
    assert one is not None
    found = rows(["store", "web"], [one])
    assert [(row["service"], row["state"], row["addresses"]) for row in found] == [
        ("store", "missing", {}),
        ("web", "running", {"80": "0.0.0.0:1", "443": "[::1]:3"}),
    ]
    json.dumps(found)


# ---- how it is


def container(state: str = "running", health: str = "", service: str = "web", **more: Any) -> Container:
    return Container(more.pop("id", "1"), f"p-{service}-1", service, "x", "sha256:1", state, health, **more)


def moment(coming: bool, before: Mapping[str, Container] = MappingProxyType({}), since: float = 0) -> Moment:
    return Moment(before, 50, since, now=100, coming=coming)


@pytest.mark.parametrize(
    ("one", "coming", "verdict"),
    [
        (container(health="healthy"), False, ServiceHealth(Health.READY, "healthy")),
        (container(), False, ServiceHealth(Health.WAITING, "just started")),
        (container(health="starting", started=95), False, ServiceHealth(Health.WAITING, "starting", 95)),
        (container(health="starting", started=40), False, ServiceHealth(Health.FAILED, "not healthy after 50 s", 40)),
        (container(health="starting", started=40, start_period=20), True,
         ServiceHealth(Health.WAITING, "starting", 40)),
        (container(health="unhealthy"), True, ServiceHealth(Health.FAILED, "unhealthy")),
        (container("created"), True, ServiceHealth(Health.WAITING, "created")),
        (container("created"), False, ServiceHealth(Health.BLOCKED, "was created, but not started")),
        (container("created", error="no x"), True, ServiceHealth(Health.WAITING, "created")),
        (container("created", error="no x"), False, ServiceHealth(Health.FAILED, "could not be started: no x")),
        (container("exited", exit_code=3, started=90), True, ServiceHealth(Health.FAILED, "ended with status 3", 90)),
        (container("exited", exit_code=0), False, ServiceHealth(Health.READY, "done")),
        (container("exited", exit_code=0, always=True), False, ServiceHealth(Health.FAILED, "ended with status 0")),
        (container("restarting", exit_code=3), False,
         ServiceHealth(Health.WAITING, "ended with status 3, starting again")),
        (container("running", restarts=RESTARTS, exit_code=3), True,
         ServiceHealth(Health.FAILED, f"crash loop: restarted {RESTARTS} times, last with status 3")),
        (container("paused"), True, ServiceHealth(Health.WAITING, "paused")),
        (container("dead", exit_code=1), False, ServiceHealth(Health.FAILED, "ended with status 1")),
        (None, True, ServiceHealth(Health.WAITING, "to be created")),
        (None, False, ServiceHealth(Health.BLOCKED, "has no container")),
    ],
)  # fmt: skip
def test_a_verdict(one: Container | None, coming: bool, verdict: ServiceHealth) -> None:
    there = [one] if one else []
    assert judge({"web": 1}, there, moment(coming)) == {"web": verdict}


def test_what_happened_before_does_not_count() -> None:
    crashed = container(restarts=RESTARTS + 1)
    assert judge({"web": 1}, [crashed], moment(False, before={"1": crashed}))["web"].state == "ready"
    stopped = container("exited", exit_code=137, started=5)
    assert judge({"web": 1}, [stopped], moment(True, before={"1": stopped}))["web"].state == "waiting"
    assert judge({"web": 1}, [stopped], moment(False, before={"1": stopped}))["web"].state == "failed"
    # Started long ago, and looked at for a second only.
    slow = container(health="starting", started=1)
    assert judge({"web": 1}, [slow], moment(False, since=99))["web"].state == "waiting"


def test_what_nothing_checks_must_run_for_a_while() -> None:
    one = container(started=5_000)  # by the engine's clock, which may be another
    young = replace(moment(False), seen={("1", 5_000): 100 - STEADY_SECONDS + 0.5})
    assert judge({"web": 1}, [one], young)["web"] == ServiceHealth(Health.WAITING, "just started", 5_000)
    old = replace(moment(False), seen={("1", 5_000): 100 - STEADY_SECONDS})
    assert judge({"web": 1}, [one], old)["web"] == ServiceHealth(Health.READY, "running", 5_000)
    again = replace(one, started=6_000)
    assert judge({"web": 1}, [again], old)["web"].state == "waiting"
    # What ran when the wait began need not be waited for.
    assert judge({"web": 1}, [one], moment(False, before={"1": one}))["web"].state == "ready"
    assert judge({"web": 1}, [again], moment(False, before={"1": one}))["web"].state == "waiting"


def test_every_replica_counts() -> None:
    two = [container(health="healthy", id="1"), container(health="starting", id="2", started=99)]
    assert judge({"web": 2}, two, moment(False))["web"].state == "waiting"
    assert judge({"web": 3}, two[:1], moment(False))["web"].state == "blocked"
    assert judge({}, two, moment(False)) == {}


def test_the_cause_comes_before_those_that_wait_for_it() -> None:
    verdicts = {
        "a": ServiceHealth(Health.BLOCKED, ""),
        "b": ServiceHealth(Health.FAILED, ""),
        "c": ServiceHealth(Health.WAITING, ""),
    }
    assert list(Waited(verdicts, [], 1).failed) == ["b"]
    del verdicts["b"]
    assert list(Waited(verdicts, [], 1).failed) == ["c"]
    assert not Waited(verdicts, [], 1).healthy
    assert Waited({"a": ServiceHealth(Health.READY, "")}, [], 1).healthy


# ---- secrets

NAMES = st.text(string.ascii_uppercase + "_", min_size=1, max_size=12).map(lambda name: f"{name}_PASSWORD")
PLAIN_VALUES = st.text(string.ascii_lowercase + string.digits + "-./:", max_size=20).filter(
    lambda value: not value.startswith("change-me")
)


@given(
    st.dictionaries(
        NAMES, st.sampled_from(["change-me", '"change-me"', "'change-me-now'", "change-me  # why"]), min_size=1
    ),
    st.dictionaries(st.text(string.ascii_uppercase, min_size=1, max_size=8), PLAIN_VALUES),
)
def test_every_secret_of_a_new_env_file_is_strong_and_its_own(example: dict[str, str], plain: dict[str, str]) -> None:
    lines = [f"# comment {name}=change-me" for name in example] + [f"{name}={value}" for name, value in example.items()]
    made = secrets.filled("\n".join([*lines, *(f"{name}={value}" for name, value in plain.items()), ""]))
    found = {line.name: line.value for line in secrets._lines(made)}
    values = [found[name] for name in example]
    assert len(set(values)) == len(values)
    for value in values:
        assert len(value) == 64
        assert len(set(value)) >= 8
        assert set(value) <= set("0123456789abcdef")
    assert {name: found[name] for name in plain} == plain
    assert [line for line in made.splitlines() if line.startswith("#")] == lines[: len(example)]


def project(folder: Path, example: str = "A=1\nSTORE_PASSWORD=change-me\n") -> Path:
    (folder / ".env.example").write_text(example)
    return folder


def test_env_is_made_once_for_its_owner_alone(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    assert secrets.make_env(project(tmp_path), scratch)
    env = tmp_path / ".env"
    made = env.read_text()
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    assert list(scratch.iterdir()) == []
    assert not secrets.make_env(tmp_path, scratch)
    assert env.read_text() == made
    secrets.check(tmp_path, {})


def test_an_env_file_that_appears_meanwhile_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def filled(example: str) -> str:
        (tmp_path / ".env").write_text("STORE_PASSWORD=theirs\n")
        return "STORE_PASSWORD=ours\n"

    monkeypatch.setattr(secrets, "filled", filled)
    assert not secrets.make_env(project(tmp_path), tmp_path)
    assert (tmp_path / ".env").read_text() == "STORE_PASSWORD=theirs\n"
    assert [path.name for path in tmp_path.iterdir() if "partial" in path.name] == []


def test_without_an_example_there_is_nothing_to_make(tmp_path: Path) -> None:
    assert not secrets.make_env(tmp_path, tmp_path)
    assert secrets.needed(tmp_path) == []
    secrets.check(tmp_path, {})


def test_a_refusal_shows_no_value(tmp_path: Path) -> None:
    (project(tmp_path) / ".env").write_text("STORE_PASSWORD=change-me-seemingly-secret\n")
    with pytest.raises(UserError) as refusal:
        secrets.check(tmp_path, {})
    assert "seemingly-secret" not in str(refusal.value)
    assert str(refusal.value).startswith(f"{tmp_path}/.env:1: STORE_PASSWORD ")


def test_what_others_wrote_is_shown_without_secrets(tmp_path: Path) -> None:
    (project(tmp_path) / ".env").write_text("STORE_PASSWORD=0123456789abcdef\nPORT=8005\nHF_TOKEN=abc\n")
    text = "x 0123456789abcdef y 8005 env-secret-value abc"
    environ = {"MODEL_API_KEY": "env-secret-value", "HOME": "8005"}
    assert secrets.hider(tmp_path, environ)(text) == "x *** y 8005 *** abc"


def test_the_shipped_example_marks_what_the_services_need() -> None:
    root = ROOT
    assert {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "AUTH_SECRET"} <= set(secrets.needed(root))


# ---- the model


@pytest.mark.engine
def test_the_edge_is_built_and_started_only_where_its_profile_is_asked_for(engine: None) -> None:
    root = ROOT
    environ = {name: value for name, value in os.environ.items() if name != "COMPOSE_PROFILES"}
    compose = Compose((root / "docker-compose.optimized.yml",), "p", environ)
    assert "edge" not in compose.services()
    asked = replace(compose, environ={**environ, "COMPOSE_PROFILES": "edge"})
    assert (asked.services()["edge"].replicas, asked.services()["edge"].ports) == (1, (443,))
    without, with_it = (set(Run(one.files, one.environ).project.images) for one in (compose, asked))
    assert with_it - without == {"edge"}


@pytest.mark.engine
def test_the_model_is_started_only_where_its_profile_is_asked_for(engine: None) -> None:
    root = ROOT
    environ = {name: value for name, value in os.environ.items() if name != "COMPOSE_PROFILES"}
    for file in ("docker-compose.optimized.yml", "docker-compose.yml"):
        compose = Compose((root / file,), "p", environ)
        assert "vllm" not in compose.services()
        asked = replace(compose, environ={**environ, "COMPOSE_PROFILES": "gpu"})
        assert asked.services()["vllm"].replicas == 1


# ---- edits

RELOAD = Command(("sh", "-c", "kill -HUP 1"), "root", True, "/tmp", (("TOKEN", "seemingly-secret"),))
WATCHED = Service(
    "web", "x/web", True, 1, {},
    watch=(
        Sync("sync", Path("/p/www"), "/www"),
        Sync("sync+restart", Path("/p/app"), "/app", ("*.md", "cache/*")),
        Sync("rebuild", Path("/p/lock.txt")),
        Sync("sync+exec", Path("/p/exec"), "/exec", ("gen/",), command=RELOAD),
    ),
)  # fmt: skip
SERVICES = {"web": WATCHED, "api": Service("api", "x/api", True, 1, {})}
INPUTS = {
    "web": frozenset(map(Path, ("/p/www/a", "/p/app/b", "/p/app/c.md", "/p/lock.txt", "/p/Dockerfile"))),
    "api": frozenset(map(Path, ("/p/app/b", "/p/api.py"))),
    "base": frozenset({Path("/p/base/x")}),
}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        (["/p/www/a"], Reaction()),
        (["/p/www/new/deep"], Reaction()),
        (["/p/app/new"], Reaction(restart=("web",))),
        (["/p/app/b"], Reaction(restart=("web",), build=("api",))),  # api has it, too, but does not sync it
        (["/p/app/c.md"], Reaction()),
        (["/p/app/cache/x"], Reaction()),
        (["/p/lock.txt"], Reaction(build=("web",))),
        (["/p/Dockerfile", "/p/app/new"], Reaction(build=("web",))),  # made anew, so not restarted besides
        (["/p/base/x"], Reaction(build=("base",))),
        (["/p/application"], Reaction()),
        (["/p/compose.yml"], Reaction(project=True)),
        (["/elsewhere"], Reaction()),
        (["/p/exec/a", "/p/exec/b"], Reaction(run=(("web", RELOAD),))),
        (["/p/exec/gen/a"], Reaction()),
    ],
)
def test_a_reaction(changed: list[str], expected: Reaction) -> None:
    assert reaction(map(Path, changed), SERVICES, INPUTS, [Path("/p/compose.yml")]) == expected


def test_a_file_that_is_mounted_alone_is_mounted_anew(tmp_path: Path) -> None:
    (tmp_path / "one").write_text("")
    web = Service("web", "x/web", True, 1, {}, watch=(Sync("sync", tmp_path / "one", "/one"),))
    assert reaction([tmp_path / "one"], {"web": web}, {}, []) == Reaction(restart=("web",))


@pytest.mark.parametrize(
    ("ignore", "ignored", "watched"),
    [
        (["node_modules/"], ["node_modules", "node_modules/a/b"], ["web/node_modules/a", "a"]),
        (["dist"], ["dist/a/b", "dist"], ["web/dist", "distant"]),
        (["/tmp"], ["tmp/a"], ["web/tmp"]),
        (["/p/app/tmp"], ["tmp/a"], ["web/tmp"]),
        (["**/*.log", "!keep.log"], ["a.log", "a/b.log"], ["keep.log", "a/keep"]),
        (["*.md"], ["a.md"], ["a/b.md"]),
        (["*/b"], ["a/b/c"], ["b", "a/c/b"]),
        (["*", "!a"], [], ["a", "b"]),  # as Compose has it: what is to be shown, but everything is watched
        ([], [], ["a", ".git/HEAD"]),
    ],
)
def test_patterns_of_a_rule(ignore: list[str], ignored: list[str], watched: list[str]) -> None:
    rule = Sync("sync+restart", Path("/p/app"), "/app", tuple(ignore))
    assert [path for path in ignored if watch.covers(rule, rule.path / path)] == []
    assert [path for path in watched if watch.covers(rule, rule.path / path)] == watched
    turned = replace(rule, ignore=(), include=tuple(ignore))
    if ignore and "*" not in ignore:
        assert [path for path in ignored if watch.covers(turned, rule.path / path)] == ignored
        assert [path for path in watched if watch.covers(turned, rule.path / path)] == []


def test_what_the_ignore_file_of_the_build_hides_is_not_watched(tmp_path: Path) -> None:
    (tmp_path / ".dockerignore").write_text("**/__pycache__\n/app/gen\n")
    rule = Sync("sync+restart", tmp_path / "app", "/app")
    web = Service("web", "x", True, 1, {}, watch=(rule,), context=tmp_path, dockerfile=tmp_path / "Dockerfile")
    for path, seen in (("app/a", True), ("app/b/__pycache__/x", False), ("app/gen/x", False), ("app/b/gen", True)):
        hidden = watch.hidden_from_build({"web": web})
        assert watch.covers(rule, tmp_path / path, hidden["web"]) == seen, path
        assert reaction([tmp_path / path], {"web": web}, {}, [], hidden).restart == ("web",) * seen
    (tmp_path / "Dockerfile.dockerignore").write_text("*\n!app\n")
    assert watch.covers(rule, tmp_path / "app/gen/x", watch.hidden_from_build({"web": web})["web"])
    assert watch.hidden_from_build({"web": replace(web, context=None)}) == {}


def test_the_command_of_a_rule() -> None:
    assert watch.exec_argv("id", RELOAD) == [
        "docker", "exec", "--user", "root", "--workdir", "/tmp", "--privileged", "--env", "TOKEN", "id",
        "sh", "-c", "kill -HUP 1",
    ]  # fmt: skip
    assert watch.exec_argv("id", Command(("a",))) == ["docker", "exec", "id", "a"]
    with pytest.raises(UserError, match=r"develop\.watch of web: sync\+exec has no command"):
        watch.check({"web": Service("web", "x", True, 1, {}, watch=(Sync("sync+exec", Path("/p")),))})


def test_what_compose_says_of_a_rule(engine: None, tmp_path: Path) -> None:
    (tmp_path / "compose.yml").write_text(
        """
        name: p
        services:
          web:
            build: {context: ., dockerfile: D}
            develop:
              watch:
                - action: sync+exec
                  path: a$$b
                  target: /x$$y
                  ignore: [node_modules/]
                  exec: {command: [sh, -c, "echo $$HOME"], user: "0", environment: {A: b$$c}, working_dir: /w}
        """
    )
    web = Compose((tmp_path / "compose.yml",), "p", {**os.environ}).services()["web"]
    command = Command(("sh", "-c", "echo $HOME"), "0", False, "/w", (("A", "b$c"),))
    assert web.watch == (Sync("sync+exec", tmp_path / "a$b", "/x$y", ("node_modules/",), command=command),)
    assert (web.context, web.dockerfile) == (tmp_path, tmp_path / "D")


def test_what_counts_as_an_edit(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    (tmp_path / "sub").mkdir()
    before = stats_of([tmp_path, tmp_path / "gone"])
    assert edited(before, stats_of([tmp_path])) == set()
    (tmp_path / "sub/inner").write_text("a folder's own time says nothing")
    (tmp_path / "a.swp").write_text("an editor's")
    (tmp_path / "__pycache__").mkdir()
    assert edited(before, stats_of([tmp_path])) == set()
    (tmp_path / "a").write_text("22")
    (tmp_path / "new").write_text("")
    assert edited(before, stats_of([tmp_path])) == {tmp_path / "a", tmp_path / "new"}
    (tmp_path / "a").unlink()
    assert tmp_path / "a" in edited(before, stats_of([tmp_path]))


def test_synced_sources_are_mounted_read_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w$ww").mkdir()
    rules = (
        Sync("sync", tmp_path / "w$ww", "/w$ww"),
        Sync("sync", tmp_path / "gone", "/gone"),
        Sync("rebuild", tmp_path),
    )
    found = {"web": Service("web", "x", True, 1, {}, watch=rules), "api": SERVICES["api"]}
    monkeypatch.setattr(Compose, "services", lambda self: found)
    override = tmp_path / ".doit-images/dev/p.json"
    compose = mounted(Compose((tmp_path / "compose.yml",), "p", {}), override)
    assert compose.files == (tmp_path / "compose.yml", override)
    mount = {"type": "bind", "source": str(tmp_path / "w$$ww"), "target": "/w$$ww", "read_only": True}
    assert json.loads(override.read_text()) == {"services": {"web": {"volumes": [mount]}}}


# ---- trials


def test_two_trials_never_have_the_same_port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("doit_images.stack.ephemeral_stack._PORTS", range(27_000, 27_102))
    from contextlib import ExitStack

    with ExitStack() as stack:
        ports = [stack.enter_context(free_port()) for _ in range(20)]
        assert len(set(ports)) == 20


def test_a_port_that_somebody_takes_meanwhile_is_another_one_the_next_time(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    services = {"web": Service("web", "x", False, 1, {}, (80,))}
    taken = ServiceHealth(
        Health.FAILED, "could not be started: Bind for 127.0.0.1:20000 failed: port is already allocated"
    )
    verdicts = [taken, ServiceHealth(Health.FAILED, "ended with status 1"), ServiceHealth(Health.READY, "running")]
    asked = []

    def start(compose: Compose, *_: object) -> Waited:
        asked.append(compose.environ["WEB_PORT"])
        return Waited({"web": verdicts[len(asked) - 1]}, (), 0.0)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(ephemeral_stack, "projects", lambda _: [])
    monkeypatch.setattr(Compose, "services", lambda self: services)
    monkeypatch.setattr(Containers, "remove", lambda self: None)
    monkeypatch.setattr(bringup, "start", start)
    compose, events = Compose((tmp_path / "compose.yml",), "p", {}), Terms(Events(), WaitLimits(1, 1), tmp_path / "log")
    with ephemeral_stack.running(compose, events) as stack:
        assert stack.outcome.verdicts["web"] == verdicts[1], "what else went wrong is not tried again"
    assert len(set(asked)) == len(asked) == 2


@pytest.mark.parametrize(
    "words",
    [
        "could not find an available, non-overlapping IPv4 address pool among the defaults to assign to the network",
        "all predefined address pools have been fully subnetted",
    ],
)
def test_an_engine_that_has_no_network_left_is_said_with_a_remedy(words: str) -> None:
    told = str(bringup.refused(f"failed to create network p_default: Error response from daemon: {words}", Path("/l")))
    assert words in told
    assert "default-address-pools; its log is /l" in told
    assert "address-pools" not in str(bringup.refused("no such image", Path("/l")))
