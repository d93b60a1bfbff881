"""The images: small, without what they do not run, without secrets, not root, and up with their stores."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from doit_images.core.base import settings
from tests.conftest import ROOT, docker, docker_environ, file_in, printed
from tests.owners import own
from tests.waiting import until

PYTHON = ("base-python", "base-ml", "auth", "memory", "orchestrator")
SERVICES = {"auth": 8005, "memory": 8003, "orchestrator": 8004}
STORES = ("postgres", "redis")
DEPLOYED = (*SERVICES, *STORES)
IMAGES = (*PYTHON, *STORES)
# As in docs/images.md; the promise is made for each image, not for their sum.
SMALLER = 0.42
_MARK = "---- "
Inside = Callable[[str, str], str]


def compose(file: str, **environ: str) -> dict[str, Any]:
    """What Compose makes of this file with an empty environment but for `environ`: a clone without `.env`."""
    done = subprocess.run(
        ["docker", "compose", "--file", str(ROOT / file), "--env-file", "/dev/null", "--profile", "*"]
        + ["config", "--format", "json"],
        env={**docker_environ(), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resolved: dict[str, Any] = json.loads(done.stdout)
    return resolved


@pytest.fixture(scope="module")
def optimized(engine: None) -> dict[str, Any]:
    return compose("docker-compose.optimized.yml")


@pytest.fixture(scope="module")
def standard(engine: None) -> dict[str, Any]:
    return compose("docker-compose.yml")


# ---- what the files say


def test_every_image_has_its_folder_and_every_deployed_one_its_standard_twin() -> None:
    # registry is the team's shared one, of docker-compose.cache.yml; the others are of profiles
    more = {"registry", "edge", "llama", "prometheus"}
    assert {path.parent.name for path in ROOT.glob("docker/*/Dockerfile")} == {*IMAGES, *more}
    assert {path.parent.name for path in ROOT.glob("docker/*/standard.Dockerfile")} == set(DEPLOYED)


def test_the_documented_way_is_the_same_service_from_the_same_locks_in_the_order_that_docker_teaches() -> None:
    text = (ROOT / "docker/documented.Dockerfile").read_text()
    found = re.findall(r"^FROM (?:base|builder) AS ([\w-]+)\n(.*?)(?=^FROM|\Z)", text, flags=re.MULTILINE | re.DOTALL)
    builders = {name.removesuffix("-builder"): stage for name, stage in found if name.endswith("-builder")}
    stages = {name: stage for name, stage in found if not name.endswith("-builder")}
    assert set(stages) == set(builders) == set(SERVICES)
    for name, stage in stages.items():
        ours = (ROOT / "docker" / name / "Dockerfile").read_text()
        assert re.findall(r'^CMD .*"common.serve".*', stage, re.MULTILINE) == [
            line for line in ours.splitlines() if '"common.serve"' in line
        ]
        locks = {name, "base-python", *["base-ml"] * (name == "memory")}
        assert set(re.findall(r"docker/([\w-]+)/requirements.txt", builders[name])) == locks
        assert stage.index(f"--from={name}-builder") < stage.index("COPY services/common")
        assert stage.index("COPY services/common") < stage.index(f"COPY services/{name}")
    every = "\n".join(path.read_text() for path in ROOT.glob("docker/**/documented.Dockerfile"))
    assert "build-essential" not in every
    assert {path.parent.name for path in ROOT.glob("docker/*/documented.Dockerfile")} == set(STORES)


def test_the_documented_deployment_is_another_only_in_its_images(standard: dict[str, Any]) -> None:
    files = ["--file", "docker-compose.yml", "--file", str(ROOT / "docker-compose.documented.yml")]
    made = subprocess.run(
        ["docker", "compose", *files, "--env-file", "/dev/null", "--profile", "*", "config", "--format", "json"],
        env=docker_environ(), cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    documented = json.loads(made.stdout)["services"]
    assert set(documented) == set(standard["services"])
    for name, service in documented.items():
        other = standard["services"][name]
        assert service["image"] == other["image"].replace(":standard", ":documented")
        if "build" in service:
            assert (ROOT / service["build"].pop("dockerfile")).name == "documented.Dockerfile"
            service["build"].pop("target", None)
            other = {**other, "build": {key: value for key, value in other["build"].items() if key != "dockerfile"}}
        assert service | {"image": ""} == other | {"image": ""}


def test_the_builder_is_the_same_in_each_dockerfile_so_that_it_runs_once() -> None:
    found = set()
    for image in PYTHON:
        text = (ROOT / "docker" / image / "Dockerfile").read_text()
        begin, end = text.index("ARG BASE_IMAGE"), text.index("requirements.txt \\", text.index("AS builder\n"))
        # The services' own packages have next to no debugging symbols, so only the bases strip.
        lines = re.sub(
            r"# strip,.*?(?=FROM tools AS)|    --mount=type=bind,from=binutils.*?\n", "", text[begin:end], flags=re.S
        )
        found.add(lines.replace(f"docker/{image}/", ""))
    assert len(found) == 1


def test_no_layer_has_files_with_the_times_of_the_checkout() -> None:
    for image in (*IMAGES, "edge"):
        stages = re.split(r"(?m)^(?=FROM )", (ROOT / "docker" / image / "Dockerfile").read_text())
        final = [stage for stage in stages if re.match(r"FROM (scratch|base-\S+|runtime-\S+)( AS \S+)?\n", stage)]
        copies = [line for stage in final for line in stage.splitlines() if line.startswith(("COPY", "ADD"))]
        assert copies
        assert all("--from=" in line for line in copies), image


def test_env_example_has_every_variable_of_the_compose_files_with_the_same_default() -> None:
    example = settings.read_env(ROOT / ".env.example")
    # These come from the environment alone, as .env.example says.
    outside = {"PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"}
    for file in ("docker-compose.yml", "docker-compose.optimized.yml", "docker-compose.cache.yml"):
        text = re.sub(r"^\s*#.*", "", (ROOT / file).read_text(), flags=re.MULTILINE)
        used = dict(re.findall(r"\$\{(\w+)(?::-([^{}$]*))?", text))
        assert set(used) - outside <= set(example)
        for name in set(used) - outside:
            assert used[name] == example[name].replace("change-me", ""), name


def test_env_example_has_every_setting_with_its_default_and_nothing_that_nobody_reads(tmp_path: Path) -> None:
    example = settings.read_env(ROOT / ".env.example")
    assert settings.load(tmp_path, example) == settings.Settings()
    ours = {name.upper() for name in settings.Settings.__dataclass_fields__}
    files = ("docker-compose.yml", "docker-compose.optimized.yml", "docker-compose.cache.yml")
    used = {name for file in files for name in re.findall(r"\$\{(\w+)", (ROOT / file).read_text())}
    assert set(example) <= ours | used
    assert {name for name, value in example.items() if value == "change-me"} == {
        "POSTGRES_PASSWORD", "REDIS_PASSWORD", "AUTH_SECRET", "MODEL_API_KEY",
        *(f"{one.upper()}_STORE_PASSWORD" for one in SERVICES),
    }  # fmt: skip


def test_every_container_of_ours_is_confined(optimized: dict[str, Any]) -> None:
    for name in (*DEPLOYED, "edge"):
        service = optimized["services"][name]
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "cap_add" not in service, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["pids_limit"] <= 512, name
        assert int(service["mem_limit"]) <= 2**30, name
        assert "privileged" not in service, name


def test_stores_are_published_nowhere_and_services_on_loopback(optimized: dict[str, Any]) -> None:
    for name in STORES:
        assert not optimized["services"][name].get("ports")
    for name, port in SERVICES.items():
        (published,) = optimized["services"][name]["ports"]
        assert (published["host_ip"], published["published"], published["target"]) == ("127.0.0.1", str(port), port)
    (door,) = optimized["services"]["edge"]["ports"]
    assert (door["host_ip"], door["published"], door["target"]) == ("127.0.0.1", "8443", 443)


def test_networks_let_only_those_talk_that_must(optimized: dict[str, Any]) -> None:
    members: dict[str, set[str]] = {}
    for name, service in optimized["services"].items():
        for network in service.get("networks") or ():
            members.setdefault(network, set()).add(name)
    assert members == {
        "front": {"auth", "memory", "orchestrator", "vllm", "llama", "prometheus", "edge"},
        "database": {"postgres", "migrate", "auth", "memory", "orchestrator"},
        "state": {"redis", "auth", "memory", "orchestrator"},
    }
    internal = {name for name, network in optimized["networks"].items() if network.get("internal")}
    assert internal == {"database", "state"}


def test_both_deployments_serve_the_same_data_at_the_same_addresses(
    optimized: dict[str, Any], standard: dict[str, Any]
) -> None:
    assert optimized["name"] == standard["name"]
    assert standard["volumes"].items() <= optimized["volumes"].items()
    for name in DEPLOYED:
        ours, theirs = optimized["services"][name], standard["services"][name]
        # The standard images have nothing that sends traces.
        ours["environment"] = {key: value for key, value in ours["environment"].items() if not key.startswith("OTEL_")}
        for key in ("environment", "ports", "volumes"):
            assert ours.get(key) == theirs.get(key), (name, key)
        assert (ours["image"], theirs["image"]) == (f"vllm-swarm/{name}:optimized", f"vllm-swarm/{name}:standard")


def test_certificates_and_index_come_as_secrets_and_are_optional(engine: None) -> None:
    assert compose("docker-compose.optimized.yml")["secrets"]["build_ca"]["file"] == "/dev/null"
    named = compose("docker-compose.optimized.yml", SSL_CERT_FILE="/a.crt", PIP_CERT="/b.crt")
    assert named["secrets"]["build_ca"]["file"] == "/b.crt"
    own = compose("docker-compose.optimized.yml", BUILD_CA_CERT="/c.crt", PIP_CERT="/b.crt")
    assert own["secrets"]["build_ca"]["file"] == "/c.crt"


# ---- what the images are


def ref(image: str) -> str:
    return f"vllm-swarm/{image}:optimized"


def inspect(image: str) -> dict[str, Any]:
    done = docker("image", "inspect", image)
    if done.returncode:
        pytest.skip(f"{image} is not in the engine: `doit build_optimized` builds it")
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return found


_IMPORT = "import NAME as m, importlib.util as u; print(*open(u.cache_from_source(m.__file__), 'rb').read(8)[4:])"
ASKED = {
    "user": "id -u",
    "programs": "command -v gcc cc g++ make strip pip pip3 uv apt-get dpkg perl",
    "installers": "find / -xdev \\( -name 'pip-*' -o -name 'pip' -o -name 'ensurepip' \\) -not -path '/proc/*'",
    # What scanners for vulnerabilities read is there, and so are the licenses.
    "packages": "cat /var/lib/dpkg/status",
    "license": "ls /usr/share/doc/libc6/copyright",
    "compiled": f'python -c "{_IMPORT}"'.replace("NAME", "fastapi"),
    "own compiled": f'python -c "{_IMPORT}"'.replace("NAME", "$IMAGE"),
    "authorities": "python -c 'import ssl; print(len(ssl.create_default_context().get_ca_certs()))'",
    "secrets": "ls /run/secrets /mnt 2>/dev/null; env | grep -iE 'proxy|pip_|cert|index'",
    "certificates": "cat /etc/ssl/certs/ca-certificates.crt",
}


@pytest.fixture(scope="module")
def inside(engine: None) -> Callable[[str, str], str]:
    """What an image says to one of the questions above: one container of it answers them all."""

    @functools.cache
    def answers(image: str) -> dict[str, str]:
        inspect(ref(image))
        script = "\n".join(f"echo '{_MARK}{name}'; {asked}" for name, asked in ASKED.items())
        said = printed("--network=none", f"--env=IMAGE={image}", "--entrypoint=sh", ref(image), "-c",
                       f"exec 2>/dev/null\n{script}\necho '{_MARK}'")  # fmt: skip
        parts = [part.partition("\n") for part in said.split(_MARK)[1:]]
        found = {name: text.strip() for name, _, text in parts}
        assert found.keys() == {*ASKED, ""}, f"{image} printed {said!r}"
        return found

    return lambda image, question: answers(image)[question]


@pytest.mark.stack
@pytest.mark.parametrize("image", IMAGES)
def test_it_is_not_root(inside: Inside, image: str) -> None:
    assert inside(image, "user") in ("10001", "999")
    assert inside(image, "user") == inspect(ref(image))["Config"]["User"].split(":")[0]


@pytest.mark.stack
def test_an_empty_folder_of_postgres_is_filled_and_a_foreign_one_refused(engine: None) -> None:
    """A folder that is there is the cluster's, also when it is a mount, and never one above it."""
    folder = inspect(ref("postgres"))["Config"]["Env"]
    [pgdata] = [one.removeprefix("PGDATA=") for one in folder if one.startswith("PGDATA=")]
    # What the entrypoint starts in the end only says what it was given.
    script = f"""
        mkdir -p /tmp/bin {pgdata}
        printf '#!/bin/sh\\n[ "$1" != --single ] || exec /usr/lib/postgresql/17/bin/postgres "$@"\\n' >/tmp/bin/postgres
        chmod +x /tmp/bin/postgres
        start() {{ POSTGRES_PASSWORD=secret-enough PATH=/tmp/bin:$PATH entrypoint.sh 2>&1; }}
        BEFORE
        start
        ls {pgdata}/PG_VERSION; ls -d {pgdata}.new {pgdata}/.new {pgdata}/data.new
        start
        """
    done = ["docker", "run", "--rm", "--network", "none", "--tmpfs", "/tmp:exec,mode=1777", "--entrypoint", "sh"]

    def said(before: str, *options: str) -> str:
        argv = [*done[1:], *options, ref("postgres"), "-c", script.replace("BEFORE", before)]
        return docker(*argv).stdout.strip()

    mount = ("--tmpfs", f"{pgdata}:uid=999,gid=999,mode=0755")
    prepared = f"postgres: prepared database swarm of user swarm\n{pgdata}/PG_VERSION"
    assert said("") == prepared
    assert said("", *mount) == prepared
    assert said(f"mkdir {pgdata}/.new {pgdata}/base; touch {pgdata}/.new/x", *mount) == prepared, "a start was killed"
    assert said(f"touch {pgdata}/mine").startswith(f"postgres: {pgdata} holds files, but no cluster")


@pytest.mark.stack
@pytest.mark.parametrize("image", IMAGES)
def test_no_compiler_installer_or_package_manager_is_in_it(inside: Inside, image: str) -> None:
    assert inside(image, "programs") == inside(image, "installers") == ""
    assert "Package: libc6" in inside(image, "packages")
    assert inside(image, "license") == "/usr/share/doc/libc6/copyright"


@pytest.mark.stack
@pytest.mark.parametrize("image", PYTHON)
def test_packages_are_compiled_so_that_a_read_only_container_starts_fast(inside: Inside, image: str) -> None:
    # By hash, unchecked: the same bytes from the same lock. A service's own by hash, checked: an edited source counts.
    assert inside(image, "compiled") == "1 0 0 0"
    assert inside(image, "own compiled") == ("3 0 0 0" if image in SERVICES else "")


@pytest.mark.stack
@pytest.mark.parametrize("image", ["base-python", "memory"])
def test_whoever_speaks_tls_finds_the_certificates(inside: Inside, image: str) -> None:
    """By OpenSSL's own folder, which belongs to a package that goes: httpx brings its own, others do not."""
    assert int(inside(image, "authorities")) > 100


@pytest.mark.stack
@pytest.mark.parametrize("image", DEPLOYED)
def test_it_says_how_it_is_started_checked_and_called(engine: None, image: str) -> None:
    config = inspect(ref(image))["Config"]
    command = [*(config["Entrypoint"] or ()), *config["Cmd"]]
    assert command[0] not in ("/bin/sh", "sh")
    assert config["Healthcheck"]["Test"][0] == "CMD"
    assert config["Labels"]["org.opencontainers.image.title"] == image


@pytest.mark.stack
@pytest.mark.parametrize(
    "image", ["auth", *(pytest.param(one, marks=pytest.mark.all) for one in ("base-python", "memory"))]
)
def test_no_secret_of_the_build_is_in_it(inside: Inside, image: str) -> None:
    """Neither in what the engine tells about it, nor in any byte of its filesystem: certificates, index, mounts."""
    name = ref(image)
    told = json.dumps(inspect(name)) + docker("history", "--no-trunc", name).stdout
    assert "BEGIN CERTIFICATE" not in told
    assert not re.search(r"https?://[^/\s\"]*@", told)
    assert inside(image, "secrets") == "/mnt:"
    ours = _authorities() - set(_certificates(inside(image, "certificates")))
    container = own()
    docker("create", "--name", container, name, "true")
    try:
        export = subprocess.run(["docker", "export", container], capture_output=True, check=True).stdout
    finally:
        docker("rm", "--force", "--volumes", container)
    # A line from the middle of each certificate that this machine trusts beyond Debian's own.
    assert not [line for line in ours if line.encode() in export]


def _authorities() -> set[str]:
    bundles = settings.build_environ(settings.load(), dict(os.environ)).get("BUILD_CA_CERT")
    return set(_certificates(Path(bundles).read_text())) if bundles else set()


def _certificates(bundle: str) -> Iterator[str]:
    for body in re.findall(r"-----BEGIN CERTIFICATE-----\n(.*?)-----END", bundle, re.DOTALL):
        yield body.splitlines()[5]


@pytest.mark.engine
def test_the_secrets_of_a_step_leave_no_trace(base_image: str, tmp_path: Path) -> None:
    """The very script that our Dockerfiles use, with canaries for secrets, in a build of its own."""
    canary, tag = uuid.uuid4().hex, own("secrets-")
    (tmp_path / "ca").write_text(canary)
    (tmp_path / "Dockerfile").write_text(
        f"FROM {base_image}\nCOPY with-secrets.sh /\n"
        "RUN --mount=type=secret,id=build_ca --mount=type=secret,id=pip_index_url sh /with-secrets.sh "
        'sh -c \'[ "$SSL_CERT_FILE" = "$PIP_CERT" ] && cat "$PIP_CERT" | cut -c 1-8 && '
        '[ "$PIP_INDEX_URL" = "$UV_DEFAULT_INDEX" ] && echo "${#PIP_INDEX_URL}" >/length\'\n'
    )
    (tmp_path / "with-secrets.sh").write_text((ROOT / "docker/tools/with-secrets.sh").read_text())
    url = f"https://user:{canary}@index.example/simple"
    argv = ["docker", "buildx", "build", "--quiet", "--tag", tag, "--secret", f"id=build_ca,src={tmp_path / 'ca'}"]
    argv += ["--secret", "id=pip_index_url,env=PIP_INDEX_URL", "--file", str(tmp_path / "Dockerfile"), str(tmp_path)]
    env = {**docker_environ(), "PIP_INDEX_URL": url, "HOME": str(tmp_path)}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    try:
        assert file_in(tag, "/length", tmp_path).strip() == str(len(url))
        saved = subprocess.run(["docker", "save", tag], capture_output=True, check=True).stdout
        assert canary.encode() not in saved
        assert canary not in docker("history", "--no-trunc", tag).stdout
    finally:
        docker("image", "rm", "--force", tag)


# ---- how they behave


@pytest.fixture
def container(engine: None) -> Iterator[str]:
    """The name of a container and of its volume, both gone afterwards."""
    name = own()
    yield name
    docker("rm", "--force", "--volumes", name)
    docker("volume", "rm", "--force", name)


CONFINED = ("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--tmpfs", "/tmp")
DATA = {"postgres": "/var/lib/postgresql", "redis": "/data"}
# With everything that a shell, SQL or a configuration file may stumble over.
PASSWORD = 'it\'s a "pass\\word" $HOME #1'


def start(container: str, store: str, password: str = PASSWORD) -> None:
    inspect(ref(store))
    docker("rm", "--force", "--volumes", container)
    done = docker(
        *("run", "--detach", "--name", container, *CONFINED),
        *("--tmpfs", "/run/postgresql:uid=999,gid=999,mode=0755", "--volume", f"{container}:{DATA[store]}"),
        *("--env", f"{store.upper()}_PASSWORD={password}", ref(store)),
    )
    assert done.returncode == 0, done.stderr


def wait_healthy(container: str) -> None:
    def is_healthy() -> bool:
        state = json.loads(docker("container", "inspect", container).stdout)[0]["State"]
        assert state["Running"], docker("logs", container).stderr
        return bool(state["Health"]["Status"] == "healthy")

    until(is_healthy)


def query(container: str, store: str, *words: str, password: str = PASSWORD) -> str:
    """Ask the store with the password; what it says, errors too."""
    if store == "postgres":
        command = ["psql", "--host=127.0.0.1", "--username=swarm", "--no-align", "--tuples-only", "--command"]
        env = f"PGPASSWORD={password}"
        words = (" ".join(words),)
    else:
        command, env = ["redis-cli", "--no-auth-warning"], f"REDISCLI_AUTH={password}"
    done = docker("exec", "--env", env, container, *command, *words)
    return (done.stdout + done.stderr).strip()


WRITE = {
    "postgres": ("CREATE TABLE kept AS SELECT '[1,2,3]'::vector <-> '[1,2,4]' AS distance",),
    "redis": ("SET", "kept", "1"),
}
READ = {"postgres": ("SELECT distance FROM kept",), "redis": ("GET", "kept")}


@pytest.mark.stack
@pytest.mark.parametrize("store", STORES)
def test_a_store_keeps_its_data_and_its_password(container: str, store: str) -> None:
    start(container, store)
    wait_healthy(container)
    assert query(container, store, *WRITE[store]) in ("SELECT 1", "OK")
    refused = query(container, store, *READ[store], password="wrong")
    assert re.search("authentication failed|WRONGPASS|NOAUTH", refused)
    seen = docker("top", container, "-eo", "args").stdout + docker("logs", container).stdout
    assert "pass\\word" not in seen + docker("logs", container).stderr
    # Stopped in time, killed, and made anew from the same volume.
    docker("stop", "--time", "60", container)
    assert json.loads(docker("container", "inspect", container).stdout)[0]["State"]["ExitCode"] == 0
    start(container, store)
    wait_healthy(container)
    docker("kill", container)
    docker("start", container)
    wait_healthy(container)
    assert query(container, store, *READ[store]) == "1"


@pytest.mark.stack
def test_redis_lets_each_service_do_what_it_needs(container: str) -> None:
    inspect(ref("redis"))
    users = {"auth": "a'\"$x", "memory": "m\\9", "orchestrator": "o #1"}
    words = [
        word for name, password in users.items() for word in ("--env", f"{name.upper()}_STORE_PASSWORD={password}")
    ]
    words += ["--env", "REDIS_PASSWORD=x9"]
    assert docker("run", "--detach", "--name", container, *CONFINED, *words, ref("redis")).returncode == 0
    wait_healthy(container)

    def ask(user: str, *command: str) -> str:
        argv = ["exec", "--env", f"REDISCLI_AUTH={users[user]}", container, "redis-cli", "--user", user]
        return docker(*argv, "--no-auth-warning", *command).stdout.strip()

    assert ask("auth", "SET", "auth:revoked:1", "1", "EX", "60") == "OK"
    assert ask("auth", "INCR", "auth:attempts:a") == "1"
    for user in ("memory", "orchestrator"):
        assert ask(user, "MGET", "auth:revoked:1", "auth:ended:1").split() == ["1"]
        for refused in (("SET", "auth:revoked:1", "0"), ("DEL", "auth:revoked:1"), ("MGET", "auth:attempts:a")):
            assert "NOPERM" in ask(user, *refused), refused
    for user in users:
        for never in (("FLUSHALL",), ("CONFIG", "GET", "*"), ("KEYS", "*"), ("SET", "mine", "1"), ("EVAL", "1", "0")):
            assert "NOPERM" in ask(user, *never), (user, never)
    users["memory"] = "wrong"
    assert "WRONGPASS" in ask("memory", "PING") or "NOAUTH" in ask("memory", "PING")


FILL = """
    local number = 0
    while number < 5000 do
        local answer = redis.pcall('SET', 'key' .. (number + tonumber(ARGV[1])), string.rep('x', 1000))
        if type(answer) == 'table' and answer.err then return number end
        number = number + 1
    end
    return number
"""
REWRITE = "for number = 0, tonumber(ARGV[1]) - 1 do redis.call('SETRANGE', 'key' .. number, 0, 'y') end return 'OK'"


@pytest.mark.stack
def test_a_full_redis_writes_its_file_anew_within_its_memory(container: str, optimized: dict[str, Any]) -> None:
    """While it does, every page may be needed twice: the old one for the file, the new one for what is written."""
    inspect(ref("redis"))
    service = optimized["services"]["redis"]
    words = ["--memory", str(service["mem_limit"]), "--memory-swap", str(service["mem_limit"])]
    words += ["--env", f"REDIS_MAXMEMORY={service['environment']['REDIS_MAXMEMORY']}", "--env", "REDIS_PASSWORD=x9"]
    assert docker("run", "--detach", "--name", container, *CONFINED, *words, ref("redis")).returncode == 0
    wait_healthy(container)
    count = last = 0
    while count == 0 or last == 5000:  # in parts: what one script writes is held until its end
        last = int(query(container, "redis", "EVAL", FILL, "0", str(count), password="x9"))
        count += last
    assert count > 30_000
    assert "OOM" in query(container, "redis", "SET", "one-more", "x" * 5000, password="x9")
    assert query(container, "redis", "CONFIG", "GET", "save", password="x9").split() == ["save"]  # one way is enough
    query(container, "redis", "BGREWRITEAOF", password="x9")
    while "aof_rewrite_in_progress:0" not in query(container, "redis", "INFO", "persistence", password="x9"):
        query(container, "redis", "EVAL", REWRITE, "0", str(count), password="x9")
    state = json.loads(docker("container", "inspect", container).stdout)[0]
    assert (state["State"]["OOMKilled"], state["RestartCount"]) == (False, 0)
    assert "aof_last_bgrewrite_status:ok" in query(container, "redis", "INFO", "persistence", password="x9")


@pytest.mark.stack
def test_postgres_killed_while_it_prepares_its_data_starts_over(container: str) -> None:
    start(container, "postgres")
    for delay in (0.1, 0.5, 1.0):
        time.sleep(delay)
        docker("kill", container)
        docker("start", container)
    wait_healthy(container)
    assert query(container, "postgres", "SELECT 1") == "1"


@pytest.mark.stack
@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("password", ["", "change-me-too", pytest.param("change-me", marks=pytest.mark.all)])
def test_a_store_refuses_an_empty_or_example_password(engine: None, store: str, password: str) -> None:
    inspect(ref(store))
    done = docker("run", "--rm", *CONFINED, "--env", f"{store.upper()}_PASSWORD={password}", ref(store))
    assert done.returncode == 78
    assert done.stderr.count("\n") == 1
    assert f"{store.upper()}_PASSWORD is empty or still the example's" in done.stderr


@pytest.mark.stack
@pytest.mark.parametrize("store", STORES)
def test_a_password_from_a_file_is_not_to_be_seen(container: str, tmp_path: Path, store: str) -> None:
    inspect(ref(store))
    (tmp_path / "password").write_text("from-a-file-9\n")
    (tmp_path / "password").chmod(0o444)
    tmp_path.chmod(0o755)
    words = ["--volume", f"{tmp_path}/password:/run/secrets/password:ro", "--tmpfs", "/run/postgresql:mode=1777"]
    words += ["--env", f"{store.upper()}_PASSWORD_FILE=/run/secrets/password"]
    assert docker("run", "--detach", "--name", container, *CONFINED, *words, ref(store)).returncode == 0
    wait_healthy(container)
    assert "from-a-file-9" not in docker("inspect", container).stdout
    ask = {
        "postgres": "PGPASSWORD=$0 psql -h 127.0.0.1 -U swarm -d swarm -Atc 'SELECT 1'",
        "redis": "REDISCLI_AUTH=$0 redis-cli --no-auth-warning INCR a",
    }[store]
    assert docker("exec", container, "sh", "-c", ask, "from-a-file-9").stdout.strip() == "1"
    assert docker("exec", container, "sh", "-c", ask, "another").stdout.strip() != "1"


@pytest.mark.stack
@pytest.mark.parametrize("image", SERVICES)
def test_a_service_refuses_to_start_without_its_secrets(engine: None, image: str) -> None:
    inspect(ref(image))
    secrets = (
        "--env",
        "REDIS_PASSWORD=",
        "--env",
        "POSTGRES_PASSWORD=",
        "--env",
        "AUTH_SECRET=change-me-0123456789abcdefghij",
    )
    done = docker("run", "--rm", *CONFINED, "--network", "none", *secrets, ref(image))
    assert done.returncode != 0
    assert "Refusing to start." in done.stderr
    assert "REDIS_PASSWORD" in done.stderr
    assert "0123456789abcdefghij" not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.all
@pytest.mark.stack
def test_the_stack_comes_up_confined_and_every_service_answers(engine: None, tmp_path: Path) -> None:
    """From nothing but the Compose file and an env file: published ports, stores behind, health from inside and out."""
    for image in DEPLOYED:
        inspect(ref(image))
    project = own()
    env = (ROOT / ".env.example").read_text().replace("=change-me", f"={uuid.uuid4().hex}{uuid.uuid4().hex}")
    for name in SERVICES:
        env = re.sub(rf"^{name.upper()}_PORT=.*", f"{name.upper()}_PORT=", env, flags=re.MULTILINE)
    (tmp_path / "env").write_text(env)
    # Port 0 takes a free one: several of these may run on one machine.
    (tmp_path / "ports.yml").write_text(
        "services:\n"
        + "".join(f"  {name}:\n    ports: !override ['127.0.0.1:0:{port}']\n" for name, port in SERVICES.items())
    )
    files = ["--file", str(ROOT / "docker-compose.optimized.yml"), "--file", str(tmp_path / "ports.yml")]
    argv = ["compose", "--project-name", project, "--env-file", str(tmp_path / "env"), *files]
    try:
        done = docker(*argv, "up", "--detach", "--no-build", "--wait", "--wait-timeout", "180")
        assert done.returncode == 0, done.stderr + docker(*argv, "logs", "--tail", "20").stdout
        for name, port in SERVICES.items():
            address = docker(*argv, "port", name, str(port)).stdout.strip()
            assert address.startswith("127.0.0.1:")
            assert _get(f"http://{address}/health")["status"] == "ok"
        running = docker(*argv, "ps", "--all", "--format", "{{.Service}}").stdout.split()
        assert sorted(running) == sorted([*DEPLOYED, "migrate"])
    finally:
        docker(*argv, "down", "--volumes", "--timeout", "10")


def _get(url: str) -> dict[str, Any]:
    from urllib.request import urlopen

    with urlopen(url) as answer:
        said: dict[str, Any] = json.load(answer)
        return said


# ---- how small they are


def smaller(image: str, theirs: int) -> None:
    ours = inspect(ref(image))["Size"]
    assert ours <= (1 - SMALLER) * theirs, f"{ours / 1e6:.0f} MB against {theirs / 1e6:.0f} MB"


@pytest.mark.stack
@pytest.mark.parametrize("image", DEPLOYED)
def test_it_is_much_smaller_than_its_standard_twin_was_when_both_were_measured(engine: None, image: str) -> None:
    measured = json.loads((ROOT / "benchmarks/compare_performance.json").read_text())["rows"]
    smaller(image, next(row["standard"] for row in measured if row["metric"] == f"{image}: size"))


@pytest.fixture(scope="module")
def twins(base_image: str) -> None:
    """The standard images, built from the same base and locks as they are now."""
    environ = settings.build_environ(settings.load(), {**os.environ, "BASE_IMAGE": base_image})
    argv = ["docker", "compose", "--file", str(ROOT / "docker-compose.yml"), "--progress", "quiet", "build"]
    done = subprocess.run(argv, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.all
@pytest.mark.stack
@pytest.mark.parametrize("image", DEPLOYED)
def test_it_is_much_smaller_than_its_standard_twin(twins: None, image: str) -> None:
    smaller(image, inspect(f"vllm-swarm/{image}:standard")["Size"])
