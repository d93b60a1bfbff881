"""Which of Debian's packages in an image have a newer version, and is it a fix of Debian's security team?

apt itself compares, in a container of the base image: it has the sources of the base and checks what it fetches. An
image is asked only for its list of packages, so it needs neither apt nor a shell.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Mapping

from doit_images.ci.updating import managers
from doit_images.ci.updating.managers import Pending
from doit_images.core.engine.client import Engine
from doit_images.stack import one_container

# dpkg's own list, and that of images which are put together without dpkg (bazel's, distroless ones).
_LISTS = ("/var/lib/dpkg/status", "/var/lib/dpkg/status.d")
_LINE = re.compile(r"(?P<name>[^/\s]+)/(?P<suites>\S+) (?P<new>\S+) \S+ \[upgradable from: (?P<old>[^\]]+)\]")
# Without capabilities root may write only what is its own.
_SCRIPT = """
mkdir -p /tmp/lists /tmp/apt/lists/partial /tmp/apt/cache/archives/partial
tar -x -f - -C /tmp/lists
set -- -qq -o Dir::State::Lists=/tmp/apt/lists -o Dir::Cache=/tmp/apt/cache
apt-get "$@" -o APT::Sandbox::User=root -o Acquire::Languages=none update >&2
for list in /tmp/lists/*; do
    echo "== ${list##*/}"
    apt "$@" -o Dir::State::status="$list" list --upgradable 2>/dev/null
done
"""


def pending(base: str, lists: Mapping[str, bytes]) -> dict[str, list[Pending]]:
    """What is newer than in these lists of packages (by the name of an image), as the sources of the image ``base``
    have it now. ``UserError`` where apt cannot be asked."""
    newer = parsed(managers.answer(base, "apt", _SCRIPT, _packed(lists)))
    return {name: newer[name] for name in lists}


def parsed(text: str) -> dict[str, list[Pending]]:
    """What ``apt list --upgradable`` says, by the headings between.

    >>> parsed("== auth\\nopenssl/stable-security 3.5.2 amd64 [upgradable from: 3.5.1]\\n== redis\\n")
    {'auth': [Pending(name='openssl', installed='3.5.1', available='3.5.2', security=True)], 'redis': []}
    """
    newer: dict[str, list[Pending]] = {}
    for line in text.splitlines():
        if line.startswith("== "):
            newer[line.removeprefix("== ")] = []
        elif match := _LINE.match(line):
            security = any(suite.endswith("-security") for suite in match["suites"].split(","))
            newer[next(reversed(newer))].append(Pending(match["name"], match["old"], match["new"], security))
    return newer


def list_of(engine: Engine, image_id: str) -> bytes | None:
    """The list of Debian's packages in an image of the engine; None where it has none."""
    with one_container.created(engine, image_id, "none") as made:
        for path in _LISTS:
            if (there := one_container.archive(engine, image_id, made, path)) is not None:
                return _joined(there)
    return None


def _joined(archive: bytes) -> bytes:
    """The files of a tar archive one behind the other, an empty line between; without the sums beside them."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        files = [tar.extractfile(each) for each in tar if each.isfile() and not each.name.endswith(".md5sums")]
        return b"\n".join(file.read() for file in files if file)


def _packed(lists: Mapping[str, bytes]) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as tar:
        for name, text in lists.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text))
    return content.getvalue()
