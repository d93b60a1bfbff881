"""The tests of images: declared, run once on what they see, and known from then on, here and on other machines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from doit_images.ci import seen as stack_seen
from doit_images.ci.history import expected_seconds
from doit_images.ci.results import known, local
from doit_images.ci.results.result import Result, fingerprint, result_of, times
from doit_images.ci.results.shared import _unpacked
from doit_images.ci.testing import act
from doit_images.ci.testing.attempt import Trial, ended, hidden_lines
from doit_images.ci.testing.command import options_for
from doit_images.ci.testing.declared import ImageTest, declared
from doit_images.ci.testing.isolation import own_stages, problem
from doit_images.ci.testing.planned import DUE, NEVER, UNKNOWN, Planned, seen_by
from doit_images.core.base import checked_json, places
from doit_images.core.base.errors import UserError
from doit_images.core.base.masking import masker
from doit_images.core.compose.image import Image
from doit_images.core.compose.project import Project, resolved
from doit_images.core.history.store import History
from doit_images.core.inputs.image_inputs import ImageInputs
from doit_images.core.planning import record
from doit_images.core.run import Parts, Run
from doit_images.pruning.registry_contents import Repository
from doit_images.share.connection import Machines
from doit_images.share.registry import Registry
from tasks import end_to_end
from tests import loopback
from tests.conftest import Lab, docker
from tests.stack.test_stack import Stack
from tests.waiting import patience, until


def project(tests: Any, *names: str) -> Project:
    answer = {
        "name": "shop",
        "services": {name: {"image": name, "build": {"context": "/x"}} for name in names or ("web",)},
        "x-test": tests,
    }
    return resolved(answer, (Path("/x/compose.yml"),), {})


def of(tests: Any, **texts: str) -> dict[str, ImageTest]:
    shop = project(tests, *texts)
    images = {name: ImageInputs(shop.images[name], Path("/x"), dockerfile_text=text) for name, text in texts.items()}
    return declared(shop, images)


# ---- what is declared


def test_a_stage_called_test_is_one_without_a_word() -> None:
    tests = of({}, web="FROM a as Test\nRUN x\nFROM a", plain="FROM a AS tests\nFROM b AS test2\n# FROM a AS test\n")
    assert tests == {"web": ImageTest("web", "web", target="test", network="")}


def test_a_command_sees_no_network_unless_it_needs_services() -> None:
    tests = of(
        {
            "api": {"service": "web", "command": ["pytest", "-q"], "inputs": ["tests/api"], "junit": "/tmp/j.xml"},
            "web": {"command": ["true"], "services": ["store"], "cache": "never", "environment": {"A": 1, "B": None}},
        },
        web="FROM a AS test\n",
    )
    assert tests["api"] == ImageTest(
        "api", "web", command=("pytest", "-q"), inputs=("tests/api",), network="none", junit="/tmp/j.xml"
    )
    web = tests["web"]
    assert (web.network, web.cache, web.environment) == ("default", False, {"A": "1", "B": None})


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"comand": ["x"]}, "comand means nothing here"),
        ({"service": "wob", "command": ["x"]}, "'wob' is no service with a build section"),
        ({"command": "x y"}, "command must be a list of words"),
        ({"command": ["x"], "network": "host"}, "network must be none or default"),
        ({"command": ["x"], "cache": "always"}, "cache must be never"),
        ({"command": ["x"], "target": "y"}, "it has a command and a target"),
        ({"inputs": ["a"]}, "inputs is for a command"),
        ({"command": ["x"], "services": ["s"], "network": "none"}, "without a network it finds no services"),
        ({"command": ["x"], "inputs": ["../a"]}, "below the project's folder"),
        ({"command": ["x"], "inputs": ["a/*"]}, "below the project's folder"),
        ({"command": ["x"], "inputs": ["a/../../b"]}, "below the project's folder"),
        ({"command": ["x"], "inputs": 5}, "inputs must be a list of words"),
        ({"service": ["web"], "command": ["x"]}, "['web'] is no service with a build section"),
        ({"command": ["x"], "environment": "A=1"}, "environment must be variables by name"),
    ],
)
def test_what_is_declared_wrongly_is_said_with_its_place(said: dict[str, Any], why: str) -> None:
    found = of({"web": said}, web="FROM a\n")["web"].problem
    assert found.startswith("compose.yml: x-test.web: ")
    assert why in found


@pytest.mark.parametrize("tests", [{"image": "x", "command": ["y"]}, ["a"], "a", None, {"web": None}])
def test_a_part_of_that_name_for_something_else_is_left_alone(tests: Any) -> None:
    assert of(tests, web="FROM a\n") == {}


def test_a_secret_in_an_environment_is_kept_as_its_digest() -> None:
    kept = project({"web": {"command": ["x"], "environment": {"DB_PASSWORD": "hunter2", "MODE": "a"}}}).tests
    assert kept["web"]["environment"]["MODE"] == "a"
    assert "hunter2" not in json.dumps(kept)


def test_an_environment_may_be_a_list_as_that_of_a_service() -> None:
    assert of({"web": {"command": ["x"], "environment": ["A=b=c", "B"]}}, web="")["web"].environment == {
        "A": "b=c",
        "B": None,
    }
    for given in (["DB_PASSWORD=hunter2"], "DB_PASSWORD=hunter2"):
        assert "hunter2" not in json.dumps(project({"web": {"command": ["x"], "environment": given}}).tests)


def test_a_stage_without_a_network_says_so_in_its_last_step() -> None:
    def of_text(text: str) -> str:
        image = ImageInputs(Image("web", "web", "/x", "/x/Dockerfile"), Path("/x"), stages=("app",))
        seen = ImageInputs(
            Image("web/test", "t", "/x", "/x/Dockerfile", target="test"),
            Path("/x"), dockerfile_text=text, stages=("app",), platforms=("linux/amd64",),
        )  # fmt: skip
        return problem(seen, image)

    begin = "FROM a AS app\nRUN apt-get update\nFROM app AS test\nRUN pip install pytest\n"
    assert of_text(f"{begin}RUN --network=none pytest\nFROM app\n") == ""
    assert of_text(f"{begin}RUN pytest\nFROM app\n").startswith("/x/Dockerfile:5: the test is to have no network")


def test_a_stage_that_its_image_reaches_too_is_run_again_and_has_no_network_either() -> None:
    text = "FROM a AS test\nRUN pytest\nFROM test\n"
    image = ImageInputs(Image("web", "web", "/x", "/x/Dockerfile"), Path("/x"), stages=("test",))
    seen = ImageInputs(
        Image("web/test", "t", "/x", "/x/Dockerfile", target="test"),
        Path("/x"), dockerfile_text=text, platforms=("linux/amd64",),
    )  # fmt: skip
    assert own_stages(seen, image) == ("test",)
    assert "the test is to have no network" in problem(seen, image)


# ---- what is kept


def test_what_is_kept_is_taken_for_its_fingerprint_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ours, other = fingerprint({"a": 1}, "linux/amd64"), fingerprint({"a": 2}, "linux/amd64")
    result = Result("web", ours, 1.5, time.time(), "<testsuites/>")
    local.keep(result)
    assert local.look(ours) == result
    assert local.look(other) is None
    (path,) = (places.state_folder() / "tests").glob("*.json")
    path.rename(path.with_name(f"{other}.json"))  # a file that says something else than its name
    assert local.look(other) is None
    assert local.look(ours) is None


@pytest.mark.parametrize("content", [None, [], {}, {"name": "a"}, {**Result("a", "f", -1, 0)._asdict()}, {"x": 1}])
def test_what_is_no_result_is_none(content: Any) -> None:
    assert result_of(content, "f") is None


def test_only_so_many_results_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(local, "KEPT", 3)
    for number in range(6):
        local.keep(Result("a", f"00{number:062}", 1, 0))
        os.utime(places.state_folder() / "tests" / f"00{number:062}.json", (number, number))
    assert len(list((places.state_folder() / "tests").glob("*.json"))) == 3
    assert local.look(f"00{5:062}") is not None


def test_a_result_that_goes_while_it_is_read_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    local.keep(Result("a", "f" * 64, 1, 0))
    recall = checked_json.recall

    def swept(path: Path) -> dict[str, Any] | None:
        content = recall(path)
        path.unlink()
        return content

    monkeypatch.setattr(checked_json, "recall", swept)
    assert local.look("f" * 64) is not None
    assert list((places.state_folder() / "tests").iterdir()) == []


def test_a_result_that_unpacks_without_end_is_none() -> None:
    import zlib

    with pytest.raises(ValueError, match="too large"):
        _unpacked(zlib.compress(b" " * 30_000_000))


def test_variables_of_a_test_are_not_those_of_the_docker_command() -> None:
    """Which finds its programs and its engine by some of them; values of all others are in no command line."""
    words, env = options_for(
        {"PATH": "/opt/bin", "DOCKER_HOST": "tcp://elsewhere", "DB_PASSWORD": "hunter2", "MODE": ""}
    )
    assert words == [
        "--env",
        "PATH=/opt/bin",
        "--env",
        "DOCKER_HOST=tcp://elsewhere",
        "--env",
        "DB_PASSWORD",
        "--env",
        "MODE",
    ]
    assert env == {"DB_PASSWORD": "hunter2", "MODE": ""}


@pytest.mark.parametrize("leads_to", ["../outside", "/etc/passwd"])
def test_a_junit_file_that_leads_out_of_what_a_test_left_is_not_read(tmp_path: Path, leads_to: str) -> None:
    (tmp_path / "outside").write_text("of this machine")
    left = tmp_path / "left"
    left.mkdir()
    (left / "junit.xml").symlink_to(leads_to)
    with pytest.raises(UserError, match="leads to a place outside of what the test left"):
        ended(0, 0.0, (left, "junit.xml"))
    with pytest.raises(UserError, match="leads to a place outside of what the test left"):
        ended(0, 0.0, (left, "/../outside"))
    (left / "real.xml").write_text(JUNIT)
    (left / "near.xml").symlink_to("real.xml")
    assert ended(0, 0.0, (left, "/near.xml")).junit == JUNIT


def test_secrets_are_in_nothing_that_is_said_or_kept_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results go to a registry."""
    secret = "hunter2-hunter2"
    left = Trial(1, 0.0, 0.0, f"<testsuite>{secret}</testsuite>", f"failed: `login {secret}` ended")
    monkeypatch.setattr("doit_images.ci.testing.command.run_command", lambda *_: left)
    run: Any = SimpleNamespace(project=SimpleNamespace(directory=tmp_path), environ={"DB_PASSWORD": secret})
    planned = Planned(ImageTest("web", "web", command=("login",)), ImageInputs(Image("w", "w", "/x"), tmp_path))
    attempt = act.attempted(run, planned, again=False)
    assert secret not in str(attempt)
    assert attempt.junit == "<testsuite>***</testsuite>"


def test_what_a_test_says_is_written_without_secrets_that_come_in_pieces() -> None:
    hide = masker({"DB_PASSWORD": "hünter2-hunter2"})
    said = "first\nhünter2-hunter2\nhünter2-hunter2 \N{SNOWMAN}\r\nlast hünter2-hunter2".encode() + b"\xff"
    for size in (1, 3, 7, 1000):
        pieces = (said[at : at + size] for at in range(0, len(said), size))
        assert "".join(hidden_lines(pieces, hide)) == "first\n***\n*** \N{SNOWMAN}\r\nlast ***\\xff"
    assert [*hidden_lines([b"a\nb", b"c\n"], hide)] == ["a\n", "bc\n", ""], "as soon as a line is whole"


def test_a_line_without_an_end_is_not_held_for_ever_and_shows_no_secret_where_it_is_cut() -> None:
    secret = "hunter2-hunter2"
    hide = masker({"DB_PASSWORD": secret})
    said = (secret + "-" * 4) * 250_000
    pieces = [said[at : at + 65_521].encode() for at in range(0, len(said), 65_521)]
    texts = [*hidden_lines(pieces, hide)]
    assert "".join(texts) == said.replace(secret, "***")
    assert len(texts) > 2


@pytest.mark.parametrize("status", [0, 1])
def test_the_end_to_end_tests_leave_a_file_without_secrets_and_none_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "hunter2-hunter2"
    raw: list[Path] = []

    def tested(argv: list[str], env: object) -> int:
        raw.append(Path(next(word for word in argv if word.startswith("--junitxml=")).partition("=")[2]))
        raw[0].write_text(JUNIT.replace('name="b"/', f'name="b[{secret}]"><failure message="{secret}"/></testcase'))
        return status

    monkeypatch.setattr(end_to_end, "passed_on", tested)
    monkeypatch.setattr(end_to_end, "rows_of", lambda _: [])
    compose = SimpleNamespace(project="p", directory=tmp_path, environ={"DB_PASSWORD": secret}, services=dict)
    running: Any = SimpleNamespace(compose=compose, outcome=SimpleNamespace(healthy=True, containers=[]))
    failed = pytest.raises(UserError, match="ended with status 1") if status else contextlib.nullcontext()
    with failed:
        assert secret not in end_to_end._use(running, [], tmp_path / "ci", time.monotonic())
    assert [path.name for path in (tmp_path / "ci").iterdir()] == ["e2e.xml"]
    kept = (tmp_path / "ci/e2e.xml").read_text() + capsys.readouterr().out
    assert (secret in kept, kept.count("***")) == (False, 3)
    assert not raw[0].exists()
    assert not raw[0].is_relative_to(tmp_path / "ci")  # a killed run leaves it where nobody collects it


WEB = ImageInputs(Image("web", "web", "/x"), Path("/x"), platforms=("linux/amd64", "linux/arm64"), fingerprint="f")


def planned_on(
    web: ImageInputs, platform: str = "linux/amd64", inputs: ImageInputs = WEB, cache: bool = True
) -> Planned:
    """What is planned for a test that sees ``inputs`` and runs on the image ``web`` on an engine of this platform."""
    run: Any = SimpleNamespace(
        local_images=SimpleNamespace(snapshot=lambda: SimpleNamespace(platform=platform)),
        planner=SimpleNamespace(
            made_of=lambda *_: {"web/test": inputs, "web": web},
            decide=lambda _: None,
            content_after=lambda _: "sha256:0",
        ),
    )
    resolver: Any = None
    return seen_by(run, ImageTest("web", "web", target="test", network="", cache=cache), resolver)


def test_what_passed_on_one_platform_did_not_pass_on_another() -> None:
    """An image for several platforms has one fingerprint, and is tested on that of the engine."""
    assert planned_on(WEB).fingerprint == planned_on(WEB).fingerprint
    assert planned_on(WEB).fingerprint != planned_on(WEB, "linux/arm64").fingerprint


@pytest.mark.parametrize(
    ("web", "more", "why"),
    [
        (replace(WEB, image=replace(WEB.image, no_cache=True)), {}, DUE),
        (replace(WEB, image=replace(WEB.image, no_cache_filter=("app",))), {}, DUE),
        (replace(WEB, bases={"python": "sha256:1", "debian": ""}), {}, UNKNOWN),
        (WEB, {"inputs": replace(WEB, bases={"python": ""})}, UNKNOWN),
        (WEB, {"cache": False}, NEVER),
    ],
)
def test_where_what_it_runs_on_is_not_known_beforehand_no_pass_counts(
    web: ImageInputs, more: dict[str, Any], why: str
) -> None:
    """A pass is looked up by the fingerprint."""
    planned = planned_on(web, **more)
    assert (planned.fingerprint, planned.reasons) == ("", (why,))


@pytest.mark.parametrize("moved", [(True, False), (False, True), (False, False)])
def test_of_several_runs_none_may_have_seen_what_was_edited_meanwhile(
    monkeypatch: pytest.MonkeyPatch, moved: tuple[bool, ...]
) -> None:
    told: list[str] = []
    trials = iter(Trial(0, 0.0, 1.0, moved=one) for one in moved)
    planned = Planned(ImageTest("web", "web", command=("true",)), WEB, "f")
    monkeypatch.setattr(act, "plan", lambda *_, **__: {"web": planned})
    monkeypatch.setattr(act, "attempted", lambda *_, **__: next(trials))
    monkeypatch.setattr(act, "_leave", lambda *_: None)
    monkeypatch.setattr(act, "_keep", lambda *_: told.append("kept"))
    run: Any = SimpleNamespace(events=SimpleNamespace(say=told.append), history=None)
    monkeypatch.setattr(act, "expected_seconds", lambda history, refs: {})
    act.run_test(run, "web", runs="2")
    assert told[-1] == (f"web: {act.MOVED}" if any(moved) else "kept")


def test_what_passed_on_something_that_was_not_known_before_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else an edit while it ran would count as tested."""
    kept: list[Any] = []
    inputs = ImageInputs(Image("web", "web", "/x"), Path("/x"))
    before = Planned(ImageTest("web", "web", command=("true",)), inputs, reasons=("unknown",))
    monkeypatch.setattr(act, "plan", lambda *_, **__: {"web": before._replace(fingerprint="f")})
    monkeypatch.setattr(known, "keep", lambda *words: kept.append(words))
    monkeypatch.setattr(record, "write", lambda *words: kept.append(words))
    run: Any = SimpleNamespace(
        local_images=SimpleNamespace(changed=lambda: None),
        folder=Path("/x"),
        project=SimpleNamespace(images={"web": inputs.image}),
        planner=SimpleNamespace(decide=lambda _: SimpleNamespace(inputs=inputs)),
        peers=SimpleNamespace(share=None),
        events=SimpleNamespace(say=print),
    )
    act._keep(run, before, Trial(0, 0.0, 1.0))
    assert kept == []
    act._keep(run, before._replace(fingerprint="f"), Trial(0, 0.0, 1.0))
    assert len(kept) == 2


def test_a_history_that_cannot_be_read_fails_no_test(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    said: list[str] = []
    inputs = ImageInputs(Image("web", "web", "/x"), tmp_path)
    planned = Planned(ImageTest("web", "web", target="test", cache=False), inputs, reasons=("why",))
    monkeypatch.setattr(act, "plan", lambda *_, **__: {"web": planned})
    monkeypatch.setattr(act, "attempted", lambda *_, **__: Trial(0, 1.0, 1.0))
    history = History(tmp_path)  # a folder
    run: Any = SimpleNamespace(
        history=history, events=SimpleNamespace(say=said.append), began=0.0, workers=1, id="a", folder=tmp_path
    )
    act.run_test(run, "web")
    assert any(sentence.startswith("web passed in") for sentence in said)
    assert expected_seconds(history, ["web"]) == {}


def test_of_the_end_to_end_tests_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kept: list[Any] = []
    numbers = iter(["", "f", "f", "f"])
    monkeypatch.setattr(end_to_end, "seen", lambda *_: next(numbers))
    monkeypatch.setattr(end_to_end, "_on_a_stack", lambda *_: "")
    monkeypatch.setattr(known, "look", lambda *_: {})
    monkeypatch.setattr(known, "note", lambda *_: None)
    monkeypatch.setattr(known, "keep", lambda *words: kept.append(words))
    project = SimpleNamespace(name="shop", images={"web": Image("web", "web", "/x")})
    run: Any = SimpleNamespace(
        project=project,
        anew=lambda: None,
        files=(),
        environ={},
        folder=tmp_path,
        local_images=SimpleNamespace(changed=lambda: None),
        peers=SimpleNamespace(share=None),
        events=SimpleNamespace(say=print),
    )
    end_to_end.run_tests(run, [])
    assert kept == []
    end_to_end.run_tests(run, [])
    assert len(kept) == 1


def test_a_mounted_folder_that_a_link_leads_elsewhere_in_is_another(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    mounted = tmp_path / "mounted"
    mounted.mkdir()

    def after(leads_to: str) -> str:
        (mounted / "current").unlink(missing_ok=True)
        (mounted / "current").symlink_to(leads_to)
        return stack_seen.digest_of([mounted], tmp_path)

    assert after("../old") != after("../new")
    assert after("../old") == after("../old")


@pytest.mark.parametrize("runs", ["0", "-1", "1.5", "two", "10000", "²", "9" * 5000])
def test_what_is_no_number_of_runs_is_said(runs: str) -> None:
    with pytest.raises(UserError, match="--runs needs a whole number"):
        times(runs)


# ---- run for real

JUNIT = '<testsuites><testsuite tests="1" time="0.1"><testcase classname="a" name="b"/></testsuite></testsuites>'
SHOP = {
    "compose.yml": """
        name: PREFIX
        x-test:
          api:
            service: web
            command: [sh, /test/api/run]
            inputs: [api]
            environment: {MODE: "${MODE:-plain}"}
            junit: /junit.xml
          live: {service: web, command: [sh, /test/live], inputs: [live], services: [store]}
          now: {service: web, command: [sh, -c, "echo $$(date)"], cache: never}
        services:
          base: {image: PREFIX/base, scale: 0, build: {context: base}}
          store:
            image: PREFIX/store
            build: {context: store, additional_contexts: {base: "service:base"}}
            init: true
          web: {image: PREFIX/web, scale: 0, build: {context: web, additional_contexts: {base: "service:base"}}}
        """,
    "base/Dockerfile": """
        FROM tst-busybox:1
        HEALTHCHECK --interval=10s --start-interval=200ms --start-period=10s --retries=2 CMD test -e /well
        """,
    "store/Dockerfile": """
        FROM base
        CMD ["sh", "-c", "touch /well; mkdir /www; echo kept > /www/a; exec httpd -f -p 80 -h /www"]
        """,
    "web/Dockerfile": """
        FROM base AS app
        COPY code /code
        FROM app AS test
        COPY check /check
        RUN --network=none sh /check && date +%s%N > /passed
        FROM app
        """,
    "web/code": "PREFIX\n",
    "web/check": "grep -q PREFIX /code\n",
    "api/run": f"""
        ! ping -c 1 -W 1 127.0.0.2 >/dev/null 2>&1 || [ "$(ls /sys/class/net)" = lo ] || exit 3
        grep -q PREFIX /code || exit 4
        echo "mode $MODE"
        echo '{JUNIT}' > /junit.xml
        """,
    "live": "wget -qO- http://store/a | grep kept\n",
    "README.md": "1\n",
}


class Shop(Stack):
    """A project with tests of each kind; ``said`` is what doit said last."""

    said = ""


@pytest.fixture
def shop(busybox: str, tmp_path: Path) -> Iterator[Shop]:
    one = Shop(tmp_path / "shop")
    one.environ["XDG_STATE_HOME"] = str(tmp_path / "state")
    one.write(SHOP)
    yield one
    one.close()


def run(shop: Shop, *words: str, status: int = 0, **environ: str) -> dict[str, str]:
    """Run `doit test_image`, and say what became of each test."""
    done = shop.doit(*(words or ("test_image",)), **environ)
    shop.said = done.stderr
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    return dict(re.findall(r"^(\w+) passed (in|before)", done.stderr, re.MULTILINE))


def left_over() -> str:
    return docker("ps", "--all", "--quiet", "--filter", "name=doit-images-once-").stdout


@pytest.mark.engine
def test_a_project_without_tests_is_told_how_to_declare_one(lab: Lab) -> None:
    lab.write({"compose.yml": "services: {one: {image: PREFIX/one, build: {dockerfile_inline: FROM scratch}}}\n"})
    assert lab.doit("test_image").stdout.startswith("no image has a test: a stage `test` of its Dockerfile is one")


def test_each_is_run_once_on_what_it_sees(shop: Shop) -> None:
    assert run(shop) == dict.fromkeys(("api", "live", "now", "web"), "in")
    junit = shop.folder / ".doit-images/compose.yml/ci/test-api.xml"
    assert junit.read_text().strip() == JUNIT
    junit.unlink()
    # Another machine would not even build: nothing but what says that it is never known is run.
    docker("image", "rm", "--force", shop.ref("store"))
    shop.write({"README.md": "2\n"})
    assert run(shop) == {"api": "before", "live": "before", "web": "before", "now": "in"}
    assert junit.read_text().strip() == JUNIT

    shop.write({"web/check": "grep PREFIX /code\n"})  # of the stage of web alone
    assert run(shop) == {"api": "before", "live": "before", "web": "in", "now": "in"}
    assert "`web/check` changed" in shop.said
    labelled = SHOP["store/Dockerfile"].replace("FROM base", "FROM base\n        LABEL a=b")
    shop.write({"store/Dockerfile": labelled})  # of a service that one needs
    assert run(shop) == {"api": "before", "live": "in", "web": "before", "now": "in"}
    assert run(shop, "test_image:api", MODE="other") == {"api": "in"}
    shop.write({"web/check": "grep -q PREFIX /code\n"})
    assert run(shop, "test_image:web") == {"web": "before"}

    # Asked for again, for real: also where BuildKit has the stage in its cache.
    assert run(shop, "test_image:web", "--again") == {"web": "in"}
    assert shop.said.count("web passed in") == 1
    run(shop, "test_image:web", "--runs", "2")
    assert shop.said.count("web passed in") == 2
    log = (shop.folder / ".doit-images/compose.yml/logs/web.test.log").read_text()
    assert "CACHED" not in next(line for line in log.splitlines() if "sh /check" in line)
    assert not left_over()
    assert shop.containers() == {}


VOLATILE = "RUN cat /proc/sys/kernel/random/uuid > /made"  # the same inputs, other bytes


def planned_tests(shop: Shop, **environ: str) -> dict[str, str]:
    """What `doit plan` says of each test."""
    tests = json.loads(shop.doit("plan", "--json", **environ).stdout)["tests"]
    return {test["name"]: "; ".join([test["action"], *test["reasons"]]) for test in tests}


@pytest.mark.engine
def test_a_pass_counts_for_the_content_that_it_ran_on(shop: Shop, tmp_path: Path) -> None:
    """After a security rebuild the inputs are the same, and the bytes are others."""
    web = SHOP["web/Dockerfile"].replace("COPY code /code", f"COPY code /code\n        {VOLATILE}")
    store = SHOP["store/Dockerfile"].replace("FROM base", f"FROM base\n        {VOLATILE}")
    shop.write({"web/Dockerfile": web, "store/Dockerfile": store})
    kept = ("test_image:api", "test_image:live", "test_image:web")
    assert run(shop, *kept) == dict.fromkeys(("api", "live", "web"), "in")
    assert run(shop, *kept) == dict.fromkeys(("api", "live", "web"), "before")

    assert shop.doit("rebuild_optimized:store").returncode == 0
    assert run(shop, *kept) == {"api": "before", "live": "in", "web": "before"}
    before = shop.image_id(shop.ref("web"))
    assert shop.doit("rebuild_optimized:web").returncode == 0
    assert shop.image_id(shop.ref("web")) != before
    told = planned_tests(shop)
    assert {told[name] for name in ("api", "live", "web")} == {"test; the content of its image `web` is another"}
    assert run(shop, *kept) == dict.fromkeys(("api", "live", "web"), "in")
    log = (shop.folder / ".doit-images/compose.yml/logs/web.test.log").read_text()
    assert "CACHED" not in next(line for line in log.splitlines() if "sh /check" in line), "it ran on what is new"

    # What is built again from BuildKit's cache is what was tested; before it is built nobody can say so.
    docker("image", "rm", "--force", *shop.images())
    told = planned_tests(shop)
    assert told["api"] == "test; it depends on the content of `web`, which is not known yet"
    assert told["web"] == "test; it depends on the content of `web`, `base`, which is not known yet"
    assert run(shop, *kept) == dict.fromkeys(("api", "live", "web"), "before")


@pytest.mark.engine
def test_a_stage_that_ran_on_other_bytes_than_the_image_counts_for_none(shop: Shop, tmp_path: Path) -> None:
    """BuildKit builds the stages below a test itself, also where the image came from another machine."""
    web = SHOP["web/Dockerfile"].replace("COPY code /code", f"COPY code /code\n        {VOLATILE}")
    shop.write({"web/Dockerfile": web})
    with loopback.registry(tmp_path / "registry") as server:
        shared = {"CACHE_REGISTRY": server.address}
        assert run(shop, "test_image:api", **shared) == {"api": "in"}
        theirs = shop.image_id(shop.ref("web"))
        assert shop.doit("rebuild_optimized:web").returncode == 0  # of which the registry is not told
        docker("image", "rm", "--force", *shop.images())
        other = {**shared, "XDG_STATE_HOME": str(tmp_path / "other"), "CACHE_WRITE": "0"}
        assert planned_tests(shop, **other)["api"].startswith("passed"), "by the digest that the registry has"
        assert run(shop, "test_image:web", **other) == {"web": "in"}
        assert shop.image_id(shop.ref("web")) == theirs
        assert "ran on other layers than those of its image" in shop.said
        assert run(shop, "test_image:web", **other) == {"web": "in"}


@pytest.mark.engine
def test_a_failure_is_never_kept_and_says_what_was_said_last(shop: Shop) -> None:
    """And neither that nor its log holds the value of a secret."""
    secret = {"APP_TOKEN": "hunter2-hunter2"}
    said = f"echo once {secret['APP_TOKEN']}; echo twice"
    shop.write({"api/run": f"{said}; exit 5\n", "web/check": f"{said} >&2; exit 6\n"})
    for name, told in (
        ("api", "failed api/test: `sh /test/api/run` ended with exit status 5"),
        ("api", "    twice"),
        ("web", "ended with exit status 6"),
    ):
        assert run(shop, f"test_image:{name}", status=1, **secret) == {}
        assert told in shop.said
        log = (shop.folder / f".doit-images/compose.yml/logs/{name}.test.log").read_text()
        assert "once ***\n" in log
        assert secret["APP_TOKEN"] not in log + shop.said
    assert not left_over()


@pytest.mark.engine
def test_a_failure_on_what_passed_before_is_told_to_all(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Passed, then failed on the same: nobody is to believe any more that it passes, here or elsewhere."""
    with loopback.registry(tmp_path / "registry") as server:
        shared = {"CACHE_REGISTRY": server.address}
        other = {**shared, "XDG_STATE_HOME": str(tmp_path / "other"), "CACHE_WRITE": "0"}
        assert run(shop, "test_image:api", **shared) == {"api": "in"}
        assert run(shop, "test_image:api", **other) == {"api": "before"}
        heard: list[str] = []
        failing = iter([0, 7, 0, 7])
        monkeypatch.setenv("XDG_STATE_HOME", shop.environ["XDG_STATE_HOME"])
        monkeypatch.setattr(act, "attempted", lambda *_, again: Trial(next(failing), 0.0, 1.0, why="by chance"))
        here = Run((shop.folder / "compose.yml",), shop.env(**shared), parts=Parts(peers=Machines))
        here.events.listen(lambda event: heard.append(getattr(event, "text", "")))
        with pytest.raises(UserError, match=r"^2 of 4 runs failed: by chance$"):
            act.run_test(here, "api", runs="4")
        assert "api is flaky: it failed on just what it passed on before, which does not count any more" in heard
        third = {**other, "XDG_STATE_HOME": str(tmp_path / "third")}
        assert run(shop, "test_image:api", **third) == {"api": "in"}
        assert run(shop, "test_image:api", **shared) == {"api": "in"}
        assert run(shop, "test_image:api", **shared) == {"api": "before"}


@pytest.mark.engine
def test_what_is_edited_while_it_runs_is_not_kept(shop: Shop) -> None:
    shop.write({"api/run": "until [ -e /go ]; do sleep 0.1; done\n"})
    with shop.start("test_image:api") as process:
        container = until(left_over).split()[0]
        shop.write({"api/run": "exit 1\n"})
        until(lambda: docker("exec", container, "touch", "/go").returncode == 0)
        said, _ = process.communicate(timeout=patience())
    assert process.returncode == 0, said
    assert "changed while it ran" in said
    assert run(shop, "test_image:api", status=1) == {}


@pytest.mark.engine
def test_other_machines_take_what_somebody_they_trust_signed(shop: Shop, tmp_path: Path) -> None:
    with loopback.registry(tmp_path / "registry") as server:
        shared = {"CACHE_REGISTRY": server.address, "SHARE_BUILDERS": str(tmp_path / "builders.toml")}
        keyed = shop.doit("share_key", "ci", str(tmp_path / "key"), **shared)
        assert keyed.returncode == 0, keyed.stderr
        assert run(shop, "test_image:api", **shared, SHARE_KEY=str(tmp_path / "key")) == {"api": "in"}
        # Another machine, which may only read, and has neither results nor images.
        other = {**shared, "XDG_STATE_HOME": str(tmp_path / "other"), "CACHE_WRITE": "0"}
        docker("image", "rm", "--force", *shop.images())
        junit = shop.folder / ".doit-images/compose.yml/ci/test-api.xml"
        junit.unlink()
        assert run(shop, "test_image:api", **other) == {"api": "before"}
        assert junit.read_text().strip() == JUNIT
        assert shop.images() == []
        # One that trusts nobody who signed it runs it.
        (tmp_path / "builders.toml").write_text("")
        third = {**other, "XDG_STATE_HOME": str(tmp_path / "third"), "SHARE_TRUST": "signed"}
        assert run(shop, "test_image:api", **third) == {"api": "in"}
        assert "is not taken" in shop.said
        registry, path = Registry(server.address), f"{shop.prefix}/web"
        (tag,) = (tag for tag in registry.tags(path) if tag.startswith("test-"))
        held = Repository(registry, path).held(tag)
        assert held is not None
        assert held.made > time.time() - 600  # by which it goes one day
