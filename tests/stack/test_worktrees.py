"""Each checkout has a stack of its own: which one it is, what is another in it, and several at once on the engine."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from doit_images.core.base import commands
from doit_images.core.base.errors import UserError
from doit_images.core.compose.stack import Compose
from doit_images.core.engine.client import normalise
from doit_images.stack import compose_override, seed
from doit_images.stack.checkout import Choice, Other, decide, is_in_the_way, name_for
from doit_images.stack.containers import Belongings, Containers, projects
from doit_images.stack.ephemeral_stack import free_port
from doit_images.stack.images import Kept, named
from doit_images.stack.place import Place
from tests.conftest import docker
from tests.stack.test_stack import Stack

# ---- where a checkout is


def checkout(folder: Path) -> Place:
    """A git repository, as far as its files go, with a project in a folder of it."""
    (folder / ".git").mkdir(parents=True)
    (folder / ".git" / "HEAD").touch()
    return project_in(folder)


def worktree(folder: Path, of: Path) -> Place:
    own = of / ".git" / "worktrees" / folder.name
    own.mkdir(parents=True)
    (own / "commondir").write_text("../..\n")
    folder.mkdir(parents=True)
    (folder / ".git").write_text(f"gitdir: {own}\n")
    return project_in(folder)


def project_in(folder: Path) -> Place:
    (folder / "deploy").mkdir()
    return Place.of(folder / "deploy")


def test_a_worktree_is_a_twin_and_a_relative_and_a_clone_only_a_twin(tmp_path: Path) -> None:
    main = checkout(tmp_path / "main")
    inside = worktree(tmp_path / "main" / "trees" / "b", tmp_path / "main")
    clone = checkout(tmp_path / "clone")
    assert main.is_twin(inside)
    assert main.is_relative(inside)
    assert inside.is_relative(main)
    assert main.is_twin(clone)
    assert not main.is_relative(clone)
    assert (inside.root, inside.repository) == (tmp_path / "main/trees/b", tmp_path / "main/.git")


def test_clones_of_one_repository_are_relatives(tmp_path: Path) -> None:
    main, near, far, farther = (checkout(tmp_path / name) for name in ("main", "near", "far", "farther"))
    assert (main.origin, Place(tmp_path, tmp_path).origin) == (str(tmp_path / "main"), "")
    remote = '[remote "other"]\n\turl = x\n[remote "origin"]\n\tfetch = a\n\turl = {}\n[branch "a"]\n'
    for place, address in ((near, main.root), (far, "https://x/a/b.git"), (farther, "https://me:hidden@x/a/b")):
        (place.root / ".git" / "config").write_text(remote.format(address))
    assert near.is_relative(main)
    assert far.is_relative(farther)
    assert farther.origin == "https://x/a/b", "it is written down"
    assert not far.is_relative(main)
    (near.root / ".git" / "config").write_text(remote.format("../main"))
    assert near.is_relative(main)


def test_two_folders_of_one_checkout_are_two_projects(tmp_path: Path) -> None:
    main = checkout(tmp_path / "main")
    (tmp_path / "main" / "other").mkdir()
    assert not main.is_twin(Place.of(tmp_path / "main" / "other"))
    assert not main.is_twin(Place.of(tmp_path / "main" / "deploy"))
    clone = checkout(tmp_path / "clone")
    assert not clone.is_twin(Place.of(tmp_path / "main" / "other")), "another folder of the project"


def test_without_git_a_checkout_is_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "sub").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    assert Place.of(tmp_path / "a").is_twin(Place.of(tmp_path / "b"))
    assert not Place.of(tmp_path / "a").is_twin(Place.of(tmp_path / "a" / "sub"))
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert not Place.of(tmp_path / "a").is_twin(Place.of(tmp_path / "link"))


# ---- which stack is whose


def first(folder: Path) -> Choice:
    folder.mkdir(parents=True, exist_ok=True)
    return Choice("shop", "shop", str(folder), "unix:///engine")


def test_the_first_has_the_name_of_the_project_and_others_one_of_their_own(tmp_path: Path) -> None:
    main, feature = first(tmp_path / "shop"), first(tmp_path / "feature")
    assert decide(main, None, []) == main
    stack_of_main = Other("shop", main.place)
    moved = decide(feature, None, [stack_of_main])
    assert (moved.name, moved.project, moved.beside) == ("shop-feature", "shop", True)
    assert decide(main, None, [Other("shop-feature", feature.place)]) == main
    assert decide(feature, None, [Other("other", main.place)]) == feature
    gone = Other("shop", Place.of(tmp_path / "gone"))
    assert decide(feature, None, [gone]) == feature, "nobody is there who has the name"


def test_a_choice_stays_but_the_name_of_the_project_only_while_no_other_has_it(tmp_path: Path) -> None:
    main, feature = first(tmp_path / "shop"), first(tmp_path / "feature")
    moved = dataclasses.replace(feature, name="shop-feature", beside=True, ports={"web": 28_000})
    assert decide(feature, moved, []) == moved
    assert decide(main, main, [Other("shop", feature.place)]).beside


def test_the_name_can_be_set(tmp_path: Path) -> None:
    feature = first(tmp_path / "feature")
    wanted = decide(feature, None, [], "mine")
    assert (wanted.name, wanted.beside) == ("mine", True)
    kept = dataclasses.replace(wanted, ports={"web": 28_000})
    assert decide(feature, kept, [], "mine") == kept
    assert decide(feature, kept, [], "shop") == feature, "the user gives it the project's own"
    assert decide(feature, kept, []).name == "mine"


def test_names() -> None:
    taken = name_for("shop", Path("/src/feature"), {"shop-feature"})
    assert taken.startswith("shop-feature-")
    assert taken == name_for("shop", Path("/src/feature"), {"shop-feature"})
    assert taken != name_for("shop", Path("/other/feature"), {"shop-feature"})
    assert name_for("shop", Path("/src/Fix #12 (ä)"), ()) == "shop-fix-12"
    assert name_for("shop", Path("/shop"), ()) == "shop"


@pytest.mark.parametrize(
    ("has", "moved"),
    [
        ({"ports": {8005}}, True),
        ({"containers": {"web-1"}}, True),
        ({"resources": {"theirs"}}, True),
        ({"resources": {"shop-front"}}, True),
        ({"ports": {8006}, "containers": {"a"}, "resources": {"shop-b_data", "bridge", "proxy"}}, False),
    ],
)
def test_a_worktree_that_compose_calls_otherwise_is_moved_where_it_wants_what_another_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has: dict[str, set[str]], moved: bool
) -> None:
    kept = Belongings((), (), ())
    monkeypatch.setattr(Containers, "belongings", lambda self: kept)
    monkeypatch.setattr(Compose, "config", lambda self: ELSEWHERE if self.project.endswith("elsewhere") else CONFIG)
    main = checkout(tmp_path / "shop")
    there = worktree(tmp_path / "fix", tmp_path / "shop")
    choice = Choice("fix", "fix", str(there.directory), "unix:///engine")
    compose = Compose((), "fix", {})
    of_main = Other("shop", main, **{key: frozenset(names) for key, names in has.items()})
    assert is_in_the_way(compose, choice, [of_main], ["proxy"]) == moved
    stranger = dataclasses.replace(of_main, place=checkout(tmp_path / "other"))
    assert not is_in_the_way(compose, choice, [stranger], ["proxy"])
    kept = Belongings((), (), ("shop$data",))
    assert is_in_the_way(compose, choice, [of_main], ["proxy"]), "the data of a stack that is down"


# ---- what is another in a stack beside the first

CONFIG: dict[str, Any] = {
    "name": "shop-b",
    "services": {
        "web": {
            "build": {"context": "/b"},
            "container_name": "web-1",
            "networks": {"front": None, "proxy": None},
            "ports": [
                {"mode": "ingress", "host_ip": "127.0.0.1", "target": 80, "published": "8005", "protocol": "tcp"},
                {"mode": "ingress", "target": 3000, "published": "3000-3002", "protocol": "tcp"},
                {"mode": "ingress", "target": 9000, "protocol": "tcp"},
            ],
            "volumes": [
                {"type": "bind", "source": "/srv/files", "target": "/files"},
                {"type": "bind", "source": "/b/source", "target": "/source"},
                {"type": "bind", "source": "/etc/hosts", "target": "/hosts", "read_only": True},
                {"type": "bind", "source": "/var/run/docker.sock", "target": "/engine"},
            ],
        },
        "db": {"image": "x/db", "networks": {"front": {"aliases": ["dd"], "ipv4_address": "10.9.0.4"}}},
        "seen": {"image": "x/web", "network_mode": "host"},
        "near": {
            "image": "x/near",
            "network_mode": "container:web-1",
            "pid": "container:web-1",
            "ipc": "container:theirs",
            "volumes_from": ["container:web-1:ro", "container:theirs", "db"],
            "external_links": ["theirs:t"],
        },
        "inside": {"image": "x/near", "network_mode": "shop-front", "use_api_socket": True},
    },
    "networks": {
        "default": {"name": "shop-b_default", "ipam": {}},
        "front": {
            "name": "shop-front",
            "ipam": {"config": [{"subnet": "10.9.0.0/24"}]},
            "driver_opts": {"com.docker.network.bridge.name": "br-shop"},
        },
        "proxy": {"name": "proxy", "ipam": {}, "external": True},
    },
    "volumes": {
        "data": {"name": "shop-b_data"},
        "named": {"name": "shop$data"},
        "by_chance": {"name": "shop-b-data"},
        "theirs": {"name": "theirs", "external": True},
        "disk": {"name": "shop-b_disk", "driver_opts": {"type": "none", "o": "bind", "device": "/srv/disk"}},
    },
}
ELSEWHERE = {
    "networks": {**CONFIG["networks"], "default": {"name": "other_default"}},
    "volumes": {**CONFIG["volumes"], "data": {"name": "other_data"}, "disk": {"name": "other_disk"}},
}


class Tagged(yaml.SafeLoader):
    """Reads Compose's tags: a pair of the tag and the value."""


Tagged.add_multi_constructor(
    "!",
    lambda loader, tag, node: (
        tag,
        loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else None,
    ),
)
KEYS = {"web 127.0.0.1:8005:80/tcp": 1, "web 3000-3002:3000/tcp": 3}


def test_the_ports_of_the_files() -> None:
    assert compose_override.wanted_ports(CONFIG) == KEYS
    assert compose_override.published(CONFIG) == {8005, 3000, 3001, 3002}


PORT_NUMBERS = {"web 127.0.0.1:8005:80/tcp": 28_000, "web 3000-3002:3000/tcp": 28_001}


def overridden(*joined: str) -> dict[str, Any]:
    fixed = compose_override.names_of_files(CONFIG, ELSEWHERE)
    return cast(dict[str, Any], yaml.load(compose_override.override(CONFIG, fixed, PORT_NUMBERS, joined), Tagged))


def test_the_override_file() -> None:
    made = overridden()
    web = made["services"]["web"]
    tag, published = web["ports"]
    assert (tag, [port.get("published") for port in published]) == ("override", ["28000", "28001-28003", None])
    assert published[0]["host_ip"] == "127.0.0.1"
    assert web["container_name"] == ("reset", None)
    assert web["networks"] == {"front": {"aliases": ["web-1"]}, "proxy": {"aliases": ["web-1"]}}
    assert made["services"]["db"] == {"networks": {"front": {"ipv4_address": ("reset", None)}}}
    assert "seen" not in made["services"]
    assert made["networks"] == {
        "front": {
            "name": "shop-b_front",
            "ipam": ("reset", None),
            "driver_opts": {"com.docker.network.bridge.name": ("reset", None)},
        },
        "proxy": {"external": False, "name": "shop-b_proxy"},
    }
    assert made["volumes"] == {
        "named": {"name": "shop-b_named"},
        "by_chance": {"name": "shop-b_by_chance"},
        "theirs": {"external": False, "name": "shop-b_theirs"},
    }


def test_who_is_put_beside_a_container_is_put_beside_that_of_this_stack() -> None:
    services = overridden()["services"]
    assert services["near"] == {
        "network_mode": "service:web",
        "pid": "service:web",
        "volumes_from": ("override", ["web:ro", "container:theirs", "db"]),
    }
    assert services["inside"] == {"network_mode": "shop-b_front"}


def test_an_external_network_is_joined_when_it_is_asked_for() -> None:
    made = overridden("proxy")
    assert "proxy" not in made["networks"]
    assert made["services"]["web"]["networks"] == {"front": {"aliases": ["web-1"]}}, "the first one's name there"
    told = compose_override.shared(CONFIG, Path("/b"), ["proxy"])
    assert "the network proxy is not made here: in it web is one name for all checkouts" in told


def test_what_is_still_shared_is_said() -> None:
    assert compose_override.shared(CONFIG, Path("/b")) == [
        "inside has the engine's socket: it sees the containers of all checkouts",
        "near has the shared memory of the container theirs, which is not this stack's",
        "near is linked to the container theirs, which is not this stack's",
        "seen is in the network of this machine: the ports that it listens on cannot be moved",
        "web has the engine's socket: it sees the containers of all checkouts",
        "web writes to /srv/files, which lies outside of this checkout and is the same for all",
        "the network front has other addresses here than its fixed 10.9.0.0/24",
        "the network proxy belongs to others: here it is a separate network without their services"
        " (STACK_NETWORKS=proxy joins it; there web is one name for all checkouts)",
        "the volume disk is /srv/disk in all checkouts",
        "the volume theirs belongs to others: here it is new and empty",
    ]


def test_each_service_runs_the_image_of_this_checkout() -> None:
    images = {"web": Kept(("x/web", "x/web:more"), "x/web:in-1", "sha256:1")}
    pinned = yaml.safe_load(compose_override.pinned(CONFIG, images))
    assert pinned == {"services": {"web": {"image": "x/web:in-1"}, "seen": {"image": "x/web:in-1"}}}
    mount = {"type": "image", "source": "x/web:more", "target": "/$w", "image": {"subpath": "of"}}
    other = {"type": "image", "source": "y", "target": "/y"}
    mounted = {"services": {"run": {"image": "y", "volumes": [mount, other, {"type": "bind", "source": "x/web"}]}}}
    pinned = yaml.safe_load(compose_override.pinned(mounted, images))
    assert pinned == {"services": {"run": {"volumes": [{**mount, "source": "x/web:in-1", "target": "/$$w"}]}}}
    assert named(images) == dict.fromkeys(map(normalise, ("x/web", "x/web:more", "x/web:in-1")), "sha256:1")


def assigned(kept: Mapping[str, int], taken: set[int], busy: set[int] | None = None) -> dict[str, int]:
    return compose_override.assigned(KEYS, kept, taken, lambda port: port not in (busy or ()), "shop-b")


def test_ports_are_free_and_stay_the_same() -> None:
    given = assigned({}, set())
    numbers = [given["web 127.0.0.1:8005:80/tcp"], *(given["web 3000-3002:3000/tcp"] + step for step in range(3))]
    assert len(set(numbers)) == 4
    assert set(numbers) <= set(compose_override.PORTS)
    assert assigned(given, set()) == given
    key = "web 3000-3002:3000/tcp"
    for moved in (assigned(given, {given[key] + 2}), assigned(given, set(), {given[key] + 1})):
        assert moved[key] != given[key]
        assert moved["web 127.0.0.1:8005:80/tcp"] == given["web 127.0.0.1:8005:80/tcp"]
    with pytest.raises(UserError, match="no port between"):
        assigned({}, set(compose_override.PORTS))


# ---- on the engine

FILES = {
    "compose.yml": """
        name: PREFIX
        x-small: &small {init: true, stop_grace_period: 1s, networks: [front]}
        services:
          base: {image: PREFIX/base, scale: 0, build: {context: base}}
          web:
            <<: *small
            build: {context: web, additional_contexts: {base: "service:base"}}
            container_name: PREFIX-server
            ports: ["127.0.0.1:PORT:80"]
            volumes: ["data:/data"]
          user:
            <<: *small
            image: PREFIX-web
            command: [sleep, "1000"]
            healthcheck: {disable: true}
            depends_on: [web]
        networks: {front: {name: PREFIX-net}}
        volumes: {data: {name: PREFIX-data}}
        """,
    "base/Dockerfile": "FROM tst-busybox:1\nRUN mkdir /www\n",
    "web/Dockerfile": """
        FROM base
        COPY index.html /www/
        HEALTHCHECK --interval=10s --start-interval=200ms --start-period=10s CMD wget -q -O /dev/null http://127.0.0.1/
        CMD ["httpd", "-f", "-p", "80", "-h", "/www"]
        """,
    "web/index.html": "main\n",
}


def test_a_volume_that_compose_did_not_make_is_not_written_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As one that a backup was restored to before the stack was up for the first time."""
    monkeypatch.setattr(seed, "_pairs", lambda *_: [("data", "other_data", "mine_data")])
    monkeypatch.setattr(seed, "_same_passwords", lambda *_: None)
    monkeypatch.setattr(commands, "run", lambda argv, **_: commands.Done(0, b"mine_data\nother_data\n", "", {}))
    engine, compose = SimpleNamespace(address=""), SimpleNamespace(project="mine", directory=tmp_path)
    other = Choice("it", "other", str(tmp_path), "")
    with pytest.raises(UserError, match="mine has data already, in mine_data"):
        seed.seed(engine, tmp_path, compose, other, {})


@pytest.mark.parametrize(
    ("example", "other", "same"),
    [
        ("A=change-me\nPORT=80\n", "A=one\nPORT=81\n", True),
        ("A=change-me\nPORT=80\n", "A=two\nPORT=80\n", False),
        ("A=change-me\n", None, False),
        ("PORT=80\n", "A=two\n", True),
    ],
)
def test_data_comes_only_from_where_the_passwords_are_the_same(
    tmp_path: Path, example: str, other: str | None, same: bool
) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "mine/.env.example").write_text(example)
    (tmp_path / "mine/.env").write_text("A=one\nPORT=80\n")
    if other is not None:
        (tmp_path / "other/.env").write_text(other)
    differ = pytest.raises(UserError, match=f"passwords of {tmp_path}/other/.env, which differ")
    with contextlib.nullcontext() if same else differ:
        seed._same_passwords(tmp_path / "mine", Choice("it", "other", str(tmp_path / "other"), ""))


class Tree(Stack):
    """One of several checkouts of a project."""

    def stack(self) -> str:
        """What its stack is called: what was chosen is kept in its `.doit-images`."""
        (path,) = self.folder.glob(".doit-images/*/stack.json")
        return str(json.loads(path.read_text())["name"])

    def running(self) -> dict[str, str]:
        """The address of each container of its stack that runs, by service; "" for one without."""
        label = f"label=com.docker.compose.project={self.stack()}"
        form = '{{.Label "com.docker.compose.service"}} {{.Ports}}'
        lines = docker("ps", "--filter", label, "--format", form).stdout.splitlines()
        return {line.split()[0]: line.partition(" ")[2].partition("->")[0] for line in lines}

    def page(self, path: str = "") -> str:
        with urllib.request.urlopen(f"http://{self.running()['web']}/{path}") as answer:
            return str(answer.read().decode()).strip()

    def inside(self, script: str, service: str = "web") -> str:
        """What a script says in the container of a service of this stack."""
        labels = (f"project={self.stack()}", f"service={service}")
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        (one,) = docker("ps", "-q", *filters).stdout.split()
        return docker("exec", one, "sh", "-c", script).stdout.strip()

    def ask(self, host: str) -> str:
        """What another service of this stack gets from a host by this name."""
        return self.inside(f"wget -q -O - http://{host}/", "user")

    def close(self) -> None:
        for name in {self.prefix, *(name for name in projects(f"{self.prefix}-.*"))}:
            Containers(name).remove()
        names = docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}", f"{self.prefix}-web").stdout.split()
        self.nameless |= set(names)
        super().close()


def git(folder: Path, *words: str) -> None:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *who, *words], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def trees(busybox: str, tmp_path: Path) -> Iterator[list[Tree]]:
    """A repository and two worktrees of it, each with a line of its own."""
    main = Tree(tmp_path / "shop")
    with free_port() as port:
        main.write({name: text.replace("PORT", str(port)) for name, text in FILES.items()})
        git(main.folder, "init", "-q")
        git(main.folder, "add", "-A")
        git(main.folder, "commit", "-q", "-m", "first")
        several = [main]
        for name in ("left", "right"):
            git(main.folder, "worktree", "add", "-q", str(tmp_path / name))
            tree = Tree(tmp_path / name)
            tree.prefix = main.prefix
            tree.write({"web/index.html": f"{name}\n"})
            several.append(tree)
        yield several
        main.close()


def up_at_once(trees: list[Tree]) -> list[str]:
    """Bring all up side by side; what each said."""
    started = [tree.start("up_optimized") for tree in trees]
    said = [process.communicate()[0] for process in started]
    assert [process.returncode for process in started] == [0] * len(trees), "\n".join(said)
    return said


def test_three_checkouts_are_up_at_once_and_one_goes(trees: list[Tree]) -> None:
    said = up_at_once(trees)
    lines = ["main", "left", "right"]
    assert [tree.page() for tree in trees] == lines
    assert [tree.ask("web") for tree in trees] == lines
    assert [tree.ask(f"{trees[0].prefix}-server") for tree in trees] == lines, "the container's name means its own"
    # One of them has what the files say, as if it were alone; the others say what they have.
    names = [tree.stack() for tree in trees]
    assert names.count(trees[0].prefix) == 1
    assert len(set(names)) == 3
    for name, words in zip(names, said, strict=True):
        assert (f"the stack of this checkout is {name}, beside that of" in words) == (name != trees[0].prefix)
    declared = yaml.safe_load((trees[0].folder / "compose.yml").read_text())["services"]["web"]["ports"][0]
    first = trees[names.index(trees[0].prefix)]
    assert f"{first.running()['web']}:80" == declared
    # As many builds as there are fingerprints: three of `web`, one of `base`.
    built = [line.split()[1] for words in said for line in words.splitlines() if line.startswith("built ")]
    assert sorted(built) == ["base", "web", "web", "web"]
    before = [tree.running() for tree in trees]
    made = containers(trees)
    up_at_once(trees)
    assert [tree.running() for tree in trees] == before, "each keeps its name and its ports"
    assert containers(trees) == made, "nothing was made anew"
    one_goes_and_one_is_gone(trees, first)


AWKWARD = {
    "compose.yml": """
        name: PREFIX
        include: [parts/more.yml]
        x-small: &small {image: "tst-busybox:1", init: true, stop_grace_period: 1s}
        services:
          web:
            <<: *small
            container_name: PREFIX-web
            command: [sh, -c, "hostname > /index.html; exec httpd -f -p 80 -h /"]
            networks: [theirs, bridged]
            ports: ["127.0.0.1:PORT:80"]
          near:
            <<: *small
            command: [sleep, "1000"]
            network_mode: container:PREFIX-web
            pid: container:PREFIX-web
            volumes_from: ["container:PREFIX-web"]
            depends_on: [web]
          seldom:
            <<: *small
            command: [sh, -c, "echo kept > /data/a"]
            profiles: [seldom]
            volumes: ["seldom:/data"]
        networks:
          theirs: {external: true, name: PREFIX-theirs}
          bridged: {name: PREFIX-bridged, driver_opts: {com.docker.network.bridge.name: BRIDGE}}
        volumes:
          seldom: {name: PREFIX-seldom}
          mine: {name: PREFIX-two-mine}
        """,
    "parts/more.yml": """
        services:
          more:
            image: tst-busybox:1
            init: true
            container_name: PREFIX-more
            command: [sh, -c, "ls /data > /names; touch /data/$$HOSTNAME; exec sleep 1000"]
            volumes: ["mine:/data"]
        """,
}


@pytest.fixture
def awkward(tmp_path: Path, busybox: str) -> Iterator[list[Tree]]:
    """Two checkouts of a project whose files fix all they can, and the network that is somebody else's."""
    first = Tree(tmp_path / "one" / "shop")
    with free_port() as port:
        bridge = f"{first.prefix[-10:]}br"
        second = Tree(tmp_path / "two")
        second.prefix = first.prefix
        for tree in (first, second):
            for name, text in AWKWARD.items():
                tree.write({name: text.replace("PORT", str(port)).replace("BRIDGE", bridge)})
        docker("network", "create", f"{first.prefix}-theirs")
        yield [first, second]
        first.close()
        docker("network", "rm", f"{first.prefix}-theirs")


def test_what_files_fix_is_apart(awkward: list[Tree]) -> None:
    first, second = awkward
    assert docker("compose", "--file", str(first.folder / "compose.yml"), "run", "--rm", "seldom").returncode == 0
    for tree in awkward:
        done = tree.doit("up_optimized")
        assert done.returncode == 0, done.stderr
    assert f"the network {first.prefix}-theirs belongs to others" in done.stderr
    ask = "wget -q -O - http://127.0.0.1/index.html"
    own = [tree.inside("hostname") for tree in awkward]
    assert len(set(own)) == 2
    for tree, host in zip(awkward, own, strict=True):
        assert tree.page("index.html") == host
        assert tree.inside(ask, "near") == host, "near is in the network of its own stack's web"
        assert tree.inside("cat /proc/1/root/index.html", "near") == host
        assert tree.inside("wget -q -O - http://web/index.html", "web") == host, (
            "no other stack's web is in its networks"
        )
        assert tree.inside("cat /names", "more") == "", "nobody else has written to its volume"
    done = second.doit("down_optimized", "--volumes", "--yes")
    assert done.returncode == 0, done.stderr
    assert second.running() == {}
    assert f"{first.prefix}-seldom" in docker("volume", "ls", "-q").stdout.split(), "that is the first one's data"
    assert set(first.running()) == {"web", "near", "more"}
    assert first.doit("down_optimized", "--volumes", "--yes").returncode == 0
    assert f"{first.prefix}-seldom" not in docker("volume", "ls", "-q").stdout.split()


def one_goes_and_one_is_gone(trees: list[Tree], first: Tree) -> None:
    goes, vanishes = (tree for tree in trees if tree is not first)
    first.inside("head -c 100000 /dev/urandom > /data/much")
    listed = {row["stack"]: row for row in json.loads(first.doit("ps_optimized", "--all", "--json").stdout)}
    assert listed.keys() == {tree.stack() for tree in trees}
    for tree in trees:
        row = listed[tree.stack()]
        assert (row["checkout"], row["gone"]) == (str(tree.folder), False)
        assert {each["service"]: each["state"] for each in row["services"]} == {"web": "running", "user": "running"}
        assert row["images"].keys() == {"base", "web"}
        assert set(row["images"].values()) <= {"fresh", "retag"}
        assert (row["disk"]["data"] >= 100_000) == (tree is first)
        assert 0 <= row["disk"]["images"] < 30_000_000
    page, stack = first.page(), vanishes.stack()
    assert goes.doit("down_optimized", "--volumes", "--yes").returncode == 0
    assert goes.running() == {}
    begins_with_anothers_data(goes, first)
    assert goes.doit("down_optimized", "--volumes", "--yes").returncode == 0
    assert projects(f"{first.prefix}.*") == sorted([first.prefix, stack])
    shutil.rmtree(vanishes.folder)
    done = first.doit("ps_optimized", "--all")
    assert f"the checkout of {stack} is gone: `doit down_optimized --gone` removes it" in done.stderr
    done = first.doit("down_optimized", "--gone", "--volumes")
    assert done.returncode == 1
    assert f"this removes {stack}, of {vanishes.folder}, which is gone" in done.stderr
    assert projects(f"{first.prefix}.*") == sorted([first.prefix, stack]), "nobody agreed"
    assert first.doit("down_optimized", "--gone", "--volumes", "--yes").returncode == 0
    assert projects(f"{first.prefix}.*") == [first.prefix]
    assert first.page() == page
    assert first.doit("down_optimized", "--all-worktrees", "--yes").returncode == 0
    assert first.running() == {}
    assert f"{first.prefix}-data" in docker("volume", "ls", "-q").stdout.split(), "its data is kept"


def begins_with_anothers_data(tree: Tree, other: Tree) -> None:
    """A stack that is not up starts with what another one holds at that moment; its own is never overwritten."""
    other.inside("echo kept > /data/a; chmod 640 /data/a; chown 7:8 /data/a")
    done = tree.doit("up_optimized", "--seed-from", "nowhere")
    assert done.returncode == 1
    assert "no other checkout has the stack or the folder 'nowhere' (there is " in done.stderr
    done = tree.doit("up_optimized", "--seed-from", str(other.folder))
    assert done.returncode == 0, done.stderr
    assert tree.inside("cat /data/a; stat -c '%a %u %g' /data/a").split() == ["kept", "640", "7", "8"]
    other.inside("echo other > /data/a")
    assert other.inside("cat /data/a") == "other", "it goes on"
    again = tree.doit("up_optimized", "--seed-from", other.stack())
    assert again.returncode == 1
    assert "has data already" in again.stderr
    assert tree.inside("cat /data/a") == "kept"


def containers(trees: list[Tree]) -> set[str]:
    """The ids of the containers of all of these that run."""
    names = (f"label=com.docker.compose.project={tree.stack()}" for tree in trees)
    return {one for name in names for one in docker("ps", "-q", "--no-trunc", "--filter", name).stdout.split()}
