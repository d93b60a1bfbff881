"""Put into a folder what a Python service runs on, and nothing else: the interpreter, its libraries, certificates, time
zones. No shell, no other program, no package manager, nothing setuid.

distroless.py FOLDER    run by the interpreter that is meant, on the filesystem that all comes from

Only what stays is named, so nothing that the base may hold one day comes along unasked. It works on Debian's own Python
(/usr) as on the official image's (/usr/local).
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from py_compile import PycInvalidationMode, compile

TOP = Path("/")
DPKG = Path("/var/lib/dpkg")
STDLIB = Path(sysconfig.get_path("stdlib"))
# What a wheel may expect of every system (PEP 600).
FOR_WHEELS = ("libc", "libdl", "libgcc_s", "libm", "libpthread", "libresolv", "librt", "libstdc++", "libutil", "libz")
# Modules for terminals, for a database of the nineties, and for Python's own tests.
NO_MODULES = ("_curses*", "readline.*", "_dbm.*", "_test*", "_ctypes_test*", "_xx*", "xx*")
NO_LIBRARY = ("__pycache__", "lib-dynload", "site-packages", "dist-packages", "config-*", "pydoc_data")
DATA = (
    *("/etc/group", "/etc/passwd", "/etc/nsswitch.conf", "/etc/host.conf", "/etc/os-release", "/usr/lib/os-release"),
    *("/etc/mime.types", "/etc/protocols", "/etc/services", "/etc/localtime", "/etc/ssl", "/usr/share/ca-certificates"),
    *("/usr/lib/ssl", "/usr/lib/locale/C.utf8", "/usr/share/zoneinfo", f"{STDLIB}/LICENSE.txt"),
)
# Mounted in a container: where one is not there it is made for the mount, and the folder above gets another time.
MOUNTED = ("/etc/hosts", "/etc/resolv.conf")


def main(root: Path) -> None:
    """Make it all."""
    folders(root)
    programs = list(interpreter())
    paths: set[Path] = set()
    for path in sorted({*programs, *libraries(programs), *map(Path, DATA)}):
        paths |= copy(path, root)
    for name in MOUNTED:
        within(root, Path(name)).touch()
    library(root)
    packages(root, paths)
    subprocess.run(["/sbin/ldconfig", "-X", "-r", root], check=True)
    shutil.rmtree(root / "var/cache", ignore_errors=True)


def folders(root: Path) -> None:
    """The folders at the top, and the links there: /lib may be one."""
    root.mkdir()
    for path in set(TOP.iterdir()) - {root}:
        if path.is_symlink():
            within(root, path).symlink_to(path.readlink())
            within(root, path.resolve()).mkdir(parents=True, exist_ok=True)
        elif path.is_dir():
            within(root, path).mkdir(exist_ok=True)
            within(root, path).chmod(path.stat().st_mode & 0o1777)


def interpreter() -> Iterator[Path]:
    """The interpreter by all its names, and those of its modules that are libraries."""
    for path in Path(sys.executable).parent.iterdir():
        if re.fullmatch(r"python(3(\.\d+)?)?", path.name):
            yield path
    for path in (STDLIB / "lib-dynload").glob("*.so"):
        if not any(fnmatch(path.name, pattern) for pattern in NO_MODULES):
            yield path


def libraries(programs: Iterable[Path]) -> Iterator[Path]:
    """What these load, and what wheels may, with the loader itself."""
    [loader, *_] = TOP.glob("lib*/ld-linux*.so.*")
    yield loader
    for program in programs:
        yield from needed(loader, program)
    [libc] = [path for path in needed(loader, Path(sys.executable)) if path.name == "libc.so.6"]
    for name in FOR_WHEELS:
        yield from libc.parent.glob(f"{name}.so.*")


def needed(loader: Path, program: Path) -> list[Path]:
    """The libraries that the loader takes for a program. One that is not there ends it all."""
    lines = subprocess.run([loader, "--list", program], check=True, capture_output=True, text=True).stdout
    if "not found" in lines:
        sys.exit(f"distroless.py: {program} cannot be loaded:\n{lines}")
    return [Path(path) for path in re.findall(r"=> (/\S+)", lines)]


def copy(path: Path, root: Path) -> set[Path]:
    """Bring a file, a folder with all that it holds, or a link with what it leads to, if it is there and not yet here:
    the paths of all that."""
    path = place(path)
    target = within(root, path)
    if not (path.is_symlink() or path.exists()) or target.is_symlink() or target.is_file():
        return set()
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink():
        target.symlink_to(path.readlink())
        return {path} | copy(path.resolve(), root)
    if path.is_dir():
        target.mkdir(exist_ok=True)
        return {path}.union(*(copy(inner, root) for inner in path.iterdir()))
    shutil.copyfile(path, target)
    target.chmod(path.stat().st_mode & 0o755)
    return {path}


def place(path: Path) -> Path:
    """Where a file or link lies, though folders above it may be links."""
    return path.parent.resolve() / path.name


def within(root: Path, path: Path) -> Path:
    """Where this path is in the folder."""
    return root / path.relative_to(TOP)


def library(root: Path) -> None:
    """The standard library, in the archive where each interpreter looks for it first: compiled, and as source for
    tracebacks. That is a third of what the files take."""
    [archive] = [Path(path) for path in sys.path if path.endswith(".zip")]
    with zipfile.ZipFile(within(root, archive), "w") as zipped, tempfile.NamedTemporaryFile() as compiled:
        for path in sorted(STDLIB.rglob("*.py")):
            name = path.relative_to(STDLIB)
            if any(fnmatch(part, pattern) for part in name.parts for pattern in NO_LIBRARY):
                continue
            # Checked by nothing, for it cannot change, and without a time: the same sources, the same bytes.
            compile(path, compiled.name, f"{archive / name}", True, -1, PycInvalidationMode.UNCHECKED_HASH)  # type: ignore[call-overload]
            for member, content in ((f"{name}c", Path(compiled.name)), (str(name), path)):
                zipped.writestr(zipfile.ZipInfo(member), content.read_bytes(), zipfile.ZIP_DEFLATED)


def packages(root: Path, paths: set[Path]) -> None:
    """dpkg's list of the packages that these are of, for vulnerability scanners, and their licenses."""
    files = {path for path in paths if path.is_symlink() or not path.is_dir()}
    there = set()
    for listed in (DPKG / "info").glob("*.list"):
        if not files.isdisjoint(place(Path(line)) for line in listed.read_text().splitlines()):
            there.add(listed.stem.partition(":")[0])
    within(root, DPKG).mkdir(parents=True)
    status = (DPKG / "status").read_text().split("\n\n")
    kept = [entry for entry in status if entry.partition("\n")[0].removeprefix("Package: ") in there]
    (within(root, DPKG) / "status").write_text("\n\n".join(kept) + "\n")
    for name in sorted(there):
        copy(Path("/usr/share/doc", name, "copyright"), root)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
