"""How often is a registry asked, and with which login? Against a double of one with a token server."""

from __future__ import annotations

import base64
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from doit_images.core.planning.shared_image import SharedRef
from doit_images.share import tokens
from doit_images.share.index import Remembered
from doit_images.share.no_answer import Unavailable
from doit_images.share.registry import Registry
from doit_images.share.share import Share
from tests.share.test_registry import CONFIG, MANIFEST, Fake, digest_of

Reply = tuple[int, dict[str, str], bytes]


class WithTokens(Fake):
    """A registry that wants a token for each repository, and gives one that is good for several."""

    def __init__(self, holds: bool = False) -> None:
        super().__init__()
        self.holds = holds
        self.answer = self.guarded
        self.granted: dict[str, set[str]] = {}
        self.seconds = 300
        self.refuses: Callable[[list[str]], int] = lambda scopes: 0
        self.pad = 0
        self.hides: set[str] = set()
        self.lock = threading.Lock()

    def counts(self) -> Counter[str]:
        """How many requests of each kind there were."""
        kinds = {"token": "token", "manifests": "manifests", "blobs": "blobs"}
        return Counter(
            f"{method} {next((kind for word, kind in kinds.items() if word in path), path)}"
            for method, path in self.methods
        )

    def guarded(self, request: BaseHTTPRequestHandler) -> Reply:
        if request.path.startswith("/token"):
            return self.token(request)
        repository = request.path.split("/v2/")[1].rpartition("/")[0].rpartition("/")[0]
        token = request.headers.get("Authorization", "").removeprefix("Bearer ").rstrip("x")
        if repository not in self.granted.get(token, ()):
            realm = f'Bearer realm="http://{self.address}/token",service="reg",scope="repository:{repository}:pull"'
            return 401, {"WWW-Authenticate": realm}, b""
        if not self.holds:
            return 404, {}, b"{}"
        if "/manifests/" in request.path:
            return 200, {"Docker-Content-Digest": digest_of(MANIFEST)}, json.dumps(MANIFEST).encode()
        return 200, {}, json.dumps(CONFIG).encode()

    def token(self, request: BaseHTTPRequestHandler) -> Reply:
        scopes = parse_qs(urlsplit(request.path).query).get("scope", [])
        if status := self.refuses(scopes):
            return status, {}, b"{}"
        with self.lock:
            name = f"T{self.counts()['GET token']}-{len(self.granted)}"
            self.granted[name] = {scope.split(":")[1] for scope in scopes} - self.hides
        token = name + "x" * self.pad * len(scopes)
        return 200, {}, json.dumps({"token": token, "expires_in": self.seconds}).encode()


@pytest.fixture
def guarded() -> Iterator[WithTokens]:
    one = WithTokens()
    yield one
    one.server.shutdown()


def images(count: int) -> dict[str, SharedRef]:
    return {f"i{number}": SharedRef(f"app/i{number}", f"{number:064x}", "linux/amd64") for number in range(count)}


@pytest.mark.parametrize("known", [False, True])
def test_two_thousand_images_cost_one_request_each_and_a_handful_of_tokens(
    guarded: WithTokens, tmp_path: Path, known: bool
) -> None:
    """What is not there, and what this machine knows by its digest, however long ago it was told."""
    memory = Remembered(tmp_path / "answers.json", 0.0)
    if known:
        guarded.holds = True
        first = Share(guarded.address, write=True, say=print)
        first.memory = memory
        assert len(first.look({"i0": images(1)["i0"]})) == 1
        guarded.methods.clear()
    share = Share(guarded.address, write=True, say=print)
    share.memory = memory
    assert len(share.look(images(2000))) == (2000 if known else 0)
    counts = guarded.counts()
    assert counts["HEAD manifests"] <= 2001, "one of them asks how to log in"
    assert counts["GET token"] <= 5
    assert sum(counts.values()) <= 2006


def test_a_manifest_is_fetched_once_for_each_digest(guarded: WithTokens) -> None:
    """A registry may count what is fetched as a pull, and not what is asked for."""
    guarded.holds = True
    share = Share(guarded.address, write=True, say=print)
    first, *others = images(4).values()
    assert share.look({"": first})
    assert (guarded.counts()["GET manifests"], guarded.counts()["GET blobs"]) == (1, 1)
    share.forget(first)
    assert share.look({str(number): each for number, each in enumerate([first, *others])}).keys() == {
        "0",
        "1",
        "2",
        "3",
    }
    assert (guarded.counts()["GET manifests"], guarded.counts()["GET blobs"]) == (1, 1)


def test_the_first_question_finds_out_how_to_log_in_for_all(guarded: WithTokens) -> None:
    Share(guarded.address, write=True, say=print).look(images(24))
    unauthorised = [path for path, how in guarded.seen if not how and "/v2/" in path]
    assert len(unauthorised) == 1


def test_basic_authentication_is_asked_for_once_for_a_host(
    guarded: WithTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    auth = base64.b64encode(b"ann:HUSH").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))

    def basic(request: BaseHTTPRequestHandler) -> Reply:
        known = request.headers.get("Authorization") == f"Basic {auth}"
        return (404, {}, b"") if known else (401, {"WWW-Authenticate": 'Basic realm="x"'}, b"")

    guarded.answer = basic
    Share(guarded.address, write=True, say=print).look(images(50))
    assert len(guarded.seen) == 51


def test_a_token_is_kept_for_as_long_as_it_is_good(guarded: WithTokens, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(tokens, "_now", lambda: now[0])
    registry = Registry(guarded.address)
    for seconds, asked in ((0, 1), (200, 1), (400, 2)):
        now[0] = 1000.0 + seconds
        assert registry.image("app/i0", "in-1", "linux/amd64") is None
        assert guarded.counts()["GET token"] == asked
    assert sum(1 for path, how in guarded.seen if not how and "/v2/" in path) == 1, "no question is asked in vain"


@pytest.mark.parametrize("seconds", [None, "soon", True, -1, 10**400], ids=["none", "word", "true", "past", "endless"])
def test_a_token_that_does_not_say_how_long_it_is_good_counts_for_a_minute(
    guarded: WithTokens, monkeypatch: pytest.MonkeyPatch, seconds: object
) -> None:
    now = [1000.0]
    monkeypatch.setattr(tokens, "_now", lambda: now[0])
    guarded.seconds = seconds  # type: ignore[assignment]
    registry = Registry(guarded.address)
    for later in (0, 50):
        now[0] = 1000.0 + later
        assert registry.image("app/i0", "in-1", "linux/amd64") is None
    assert guarded.counts()["GET token"] == 1


def test_a_token_that_counts_no_more_is_asked_for_again_for_all_that_it_was_for(guarded: WithTokens) -> None:
    share = Share(guarded.address, write=True, say=pytest.fail)
    for asked in (1, 2):
        assert share.look(images(50)) == {}
        assert guarded.counts()["GET token"] == asked
        guarded.granted.clear()  # as after a restart with another key
        for image in images(50).values():
            share.forget(image)


def test_who_may_not_see_one_repository_sees_the_others_with_one_token(guarded: WithTokens) -> None:
    guarded.hides = {"app/i7"}
    said: list[str] = []
    assert Share(guarded.address, write=True, say=said.append).look(images(50)) == {}
    assert len(said) == 1
    assert guarded.counts()["GET token"] == 2


@pytest.mark.parametrize("status", [400, 403, 414, 500])
def test_a_server_that_refuses_a_token_for_many_is_asked_for_fewer(guarded: WithTokens, status: int) -> None:
    guarded.refuses = lambda scopes: status if len(scopes) > 10 else 0
    assert Share(guarded.address, write=True, say=pytest.fail).look(images(100)) == {}
    assert guarded.counts()["GET token"] < 40


def test_a_token_that_no_header_holds_is_asked_for_fewer(guarded: WithTokens) -> None:
    guarded.pad = 90  # bytes that each repository takes in it
    assert Share(guarded.address, write=True, say=pytest.fail).look(images(300)) == {}
    assert max(len(how) for _, how in guarded.seen) < 8000
    assert guarded.counts()["GET token"] < 12


def test_a_repository_that_there_is_no_token_for_is_not_there_for_who_is_logged_in(
    guarded: WithTokens, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GitHub's refuses a token for what was never pushed."""
    guarded.refuses = lambda scopes: 403 if any(scopes) else 0
    with pytest.raises(Unavailable, match="refuses the credentials"):
        Registry(guarded.address).image("app/i0", "in-1", "linux/amd64")
    auth = base64.b64encode(b"ann:HUSH").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {guarded.address: {"auth": auth}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    guarded.answer = lambda request: (200, {}, b"{}") if _of_login(request) else guarded.guarded(request)
    assert Registry(guarded.address).image("app/i0", "in-1", "linux/amd64") is None


def _of_login(request: BaseHTTPRequestHandler) -> bool:
    return request.path == "/v2/" and bool(request.headers.get("Authorization"))
