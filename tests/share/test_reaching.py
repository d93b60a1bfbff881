"""Registries as the engine reaches them: behind TLS, with a certificate, or where it was told not to look."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from doit_images.core.base.references import digest_of
from doit_images.core.engine.client import Engine
from doit_images.share import reaching, transport
from doit_images.share.no_answer import Unavailable
from doit_images.share.registry import Registry
from tests import loopback
from tests.conftest import docker
from tests.core.engine.test_engine_api import certificates
from tests.owners import own
from tests.share.test_registry import Fake

Server = Callable[..., Fake]


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("issued")
    certificates(folder)
    return folder


@pytest.fixture
def server(issued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A registry as if it were elsewhere. It may speak TLS, and want a client's certificate."""
    monkeypatch.setattr(reaching, "on_loopback", lambda host: False)
    monkeypatch.setattr(reaching, "_FOLDERS", (tmp_path / "certs.d",))
    monkeypatch.setattr(transport, "_SYSTEM_BUNDLES", ())
    running = []

    def start(tls: bool = True, wants_client: bool = False) -> Fake:
        fake = Fake()
        running.append(fake)
        fake.address = f"127.0.0.1:{fake.server.server_port}"
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(issued / "server.pem", issued / "server-key.pem")
            if wants_client:
                context.load_verify_locations(issued / "ca.pem")
                context.verify_mode = ssl.CERT_REQUIRED
            fake.server.socket = context.wrap_socket(
                fake.server.socket, server_side=True, do_handshake_on_connect=False
            )
        return fake

    yield start
    for fake in running:
        fake.server.shutdown()


def holds(registry: Registry) -> bool:
    return registry.image("app/auth", "in-1", "linux/amd64") is not None


def test_an_authority_of_the_system_alone_is_enough(
    server: Server, issued: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = server()
    with pytest.raises(Unavailable, match="a certificate that is not trusted here"):
        holds(Registry(fake.address))
    monkeypatch.setattr(transport, "_SYSTEM_BUNDLES", (issued / "none", issued / "ca.pem"))
    assert holds(Registry(fake.address))


def test_certificates_that_the_engine_has_for_a_registry_count(server: Server, issued: Path, tmp_path: Path) -> None:
    fake = server(wants_client=True)
    place = tmp_path / "certs.d" / fake.address
    place.mkdir(parents=True)
    (place / "ours.crt").write_bytes((issued / "ca.pem").read_bytes())
    with pytest.raises(Unavailable):
        holds(Registry(fake.address))
    (place / "client.cert").write_bytes((issued / "client.pem").read_bytes())
    (place / "client.key").write_bytes((issued / "client-key.pem").read_bytes())
    assert holds(Registry(fake.address))
    assert not any(reaching.certificates("other:5000"))


@pytest.mark.parametrize("tls", [True, False])
def test_what_the_engine_takes_insecurely_is_taken_so(server: Server, tls: bool) -> None:
    fake = server(tls)
    with pytest.raises(Unavailable):
        holds(Registry(fake.address))
    asked: list[str] = []
    assert holds(Registry(fake.address, insecure=lambda host: bool(asked.append(host)) or True))
    assert asked == [fake.address]


def test_a_password_does_not_leave_without_tls(
    server: Server, issued: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    login = base64.b64encode(b"ann:HUSH").decode()
    fake, tokens = server(), server(tls=False)
    (tmp_path / "config.json").write_text(json.dumps({"auths": {fake.address: {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.setattr(transport, "_SYSTEM_BUNDLES", (issued / "ca.pem",))
    fake.always(401, WWW_Authenticate=f'Bearer realm="http://{tokens.address}/token",service="x"')
    with pytest.raises(Unavailable, match="asks for the login without TLS"):
        holds(Registry(fake.address))
    assert tokens.seen == []


def test_docker_login_counts_and_netrc_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Fake()
    try:
        (tmp_path / "netrc").write_text("machine localhost login other password WRONG\n")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        login = base64.b64encode(b"ann:HUSH").decode()
        (tmp_path / "config.json").write_text(json.dumps({"auths": {fake.address: {"auth": login}}}))
        monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
        fake.always(401, WWW_Authenticate='Basic realm="x"')
        with pytest.raises(Unavailable, match="refuses the credentials"):
            holds(Registry(fake.address))
        assert {how for _, how in fake.seen} == {"", f"Basic {login}"}
    finally:
        fake.server.shutdown()


def test_docker_hub_answers_at_another_address_than_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Registry("docker.io/team").client.base == "https://registry-1.docker.io"
    login = base64.b64encode(b"ann:HUSH").decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    assert Registry("docker.io/team").client.login.credentials[:2] == ("ann", "HUSH")


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("plain.example.org:5000", True),
        ("safe.example.org", False),
        ("unknown.example.org", False),
        ("10.1.2.3:5000", True),
        ("10.1.2.3", True),
        ("[fd00::1]:5000", True),
        ("11.1.2.3:5000", False),
    ],
)
def test_what_the_engine_says_of_insecure_registries(host: str, answer: bool) -> None:
    known = {
        "InsecureRegistryCIDRs": ["10.0.0.0/8", "fd00::/8", "127.0.0.0/8"],
        "IndexConfigs": {"plain.example.org:5000": {"Secure": False}, "safe.example.org": {"Secure": True}},
    }
    assert reaching.insecure(host, {"RegistryConfig": known}) is answer
    assert not reaching.insecure(host, {})


@pytest.mark.engine
def test_an_engine_says_which_registries_are_insecure(engine: None) -> None:
    assert reaching.insecure("127.0.0.1:5000", Engine().info())
    assert not reaching.insecure("registry.example.org", Engine().info())


@pytest.mark.parametrize("tls", [True, False])
def test_a_registry_on_loopback_is_understood_with_tls_as_by_the_engine(
    issued: Path, busybox: str, tmp_path: Path, tls: bool
) -> None:
    """Whoever signed its certificate: nobody else listens there."""
    pair = (issued / "server.pem", issued / "server-key.pem") if tls else None
    with loopback.bare_registry(tmp_path, tls=pair) as server:
        ref = f"{server.address}/{own('tls-')}/one:1"
        try:
            docker("tag", busybox, ref)
            pushed = docker("push", ref)
            assert pushed.returncode == 0, pushed.stderr
            registry = Registry(server.address)
            path = ref.partition("/")[2].removesuffix(":1")
            assert registry.image(path, "1", Engine().snapshot().platform)
            registry.give_blob(path, digest_of(b"x"), b"x")
            assert registry.small_blob(path, digest_of(b"x")) == b"x"
            assert registry.client.base == f"{'https' if tls else 'http'}://{server.address}"
        finally:
            docker("image", "rm", ref)
