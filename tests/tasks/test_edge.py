"""Which certificate does the edge show: your own, or one by ACME (of a real authority: Caddy is one, too)?"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import loopback
from tests.conftest import ROOT, docker
from tests.owners import own
from tests.waiting import until

pytestmark = pytest.mark.stack

EDGE = "vllm-swarm/edge:optimized"
HOST = "swarm.example.com"
DIRECTORY = "https://ca.swarm.internal:9000/acme/local/directory"
AUTHORITY = """{
	admin off
	auto_https disable_redirects
	skip_install_trust
}
https://ca.swarm.internal:9000 {
	tls internal
	acme_server
}
"""


@pytest.fixture(scope="module")
def network(engine: None) -> Iterator[str]:
    """A network of its own, with the image of the edge built; its containers go with it."""
    env = {**os.environ, "COMPOSE_PROFILES": "edge"}
    argv = [sys.executable, "-m", "doit", "build_optimized:edge"]
    subprocess.run(argv, cwd=ROOT, env=env, check=True, capture_output=True)
    name = own("edge-")
    assert docker("network", "create", name).returncode == 0
    yield name
    containers = docker("ps", "--all", "--quiet", "--filter", f"network={name}").stdout.split()
    docker("rm", "--force", "--volumes", *containers)
    docker("network", "rm", name)


def start(network: str, *words: str, command: tuple[str, ...] = ()) -> str:
    done = docker("run", "--detach", "--network", network, *words, EDGE, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def shows_a_certificate(port: int, trusted: str, container: str) -> None:
    """The edge answers as ``HOST``, with a certificate that ``trusted`` signed; fails when it never does."""
    context = ssl.create_default_context(cadata=trusted)
    head = until(lambda: answer(port, context), lambda: docker("logs", container).stderr)
    assert head.startswith(b"HTTP/1.1 404")
    assert b"\r\nStrict-Transport-Security: max-age=" in head


def answer(port: int, context: ssl.SSLContext) -> bytes:
    with (
        contextlib.suppress(OSError),
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname=HOST) as connection,
    ):
        connection.sendall(f"GET /nothing HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        return connection.recv(1000)
    return b""


def test_a_certificate_by_acme(network: str, tmp_path: Path) -> None:
    (tmp_path / "Caddyfile").write_text(AUTHORITY)
    tmp_path.chmod(0o755)
    authority = start(
        network, "--network-alias", "ca.swarm.internal", "--volume", f"{tmp_path}/Caddyfile:/ca:ro",
        "--entrypoint", "caddy", command=("run", "--config", "/ca", "--adapter", "caddyfile"),
    )  # fmt: skip
    argv = ("exec", authority, "cat", "/data/caddy/pki/authorities/local/root.crt")
    root = until(lambda: docker(*argv).stdout, lambda: docker("logs", authority).stderr)
    (tmp_path / "root.crt").write_text(root)
    port = loopback.free_port()
    edge = start(
        network, "--network-alias", HOST, "--volume", f"{tmp_path}/root.crt:/root.crt:ro",
        "--env", "SSL_CERT_FILE=/root.crt", "--env", f"EDGE_HOST={HOST}", "--env", "EDGE_ACME_EMAIL=me@example.com",
        "--env", f"EDGE_ACME_CA={DIRECTORY}", "--publish", f"127.0.0.1:{port}:443",
    )  # fmt: skip
    shows_a_certificate(port, root, edge)


def test_a_certificate_of_your_own(network: str, tmp_path: Path) -> None:
    argv = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-out", "cert.pem"]
    argv += ["-days", "2", "-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    subprocess.run(argv, cwd=tmp_path, check=True, capture_output=True)
    tmp_path.chmod(0o755)
    words = ("--volume", f"{tmp_path}:/tls:ro", "--env", f"EDGE_HOST={HOST}")
    (tmp_path / "key.pem").chmod(0o600)
    refused = docker("run", "--rm", *words, EDGE)
    assert (refused.returncode, "must be readable for user 10003" in refused.stderr) == (78, True)
    (tmp_path / "key.pem").chmod(0o644)
    port = loopback.free_port()
    edge = start(network, *words, "--publish", f"127.0.0.1:{port}:443")
    shows_a_certificate(port, (tmp_path / "cert.pem").read_text(), edge)


@pytest.mark.parametrize(
    "setting", ["EDGE_HOST=https://a", "EDGE_HOST=a b", "MAX_BODY_BYTES=1m", "EDGE_ACME_EMAIL=a{b"]
)
def test_a_setting_that_makes_no_sense_is_one_sentence(network: str, setting: str) -> None:
    refused = docker("run", "--rm", "--env", setting, EDGE)
    assert refused.returncode == 78
    assert refused.stderr.startswith(f"edge: {setting.partition('=')[0]} must be ")
    assert len(refused.stderr.splitlines()) == 1
