"""Bring a service's code, and what services share, into /app: byte-compiled, for nobody to write, all of one time.

code.py NAME    with its code mounted on /srv, and the shared one on /media

Python, because a distroless image has nothing else; and one process takes less time than one each to copy and to touch.
``pathlib``, ``shutil`` and ``compileall`` would take a quarter of its time to be imported, in the build of every edit.
"""

import marshal
import os
import sys
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash

TIME = os.stat("/app").st_mtime_ns  # the base's one time (times.sh)
# checked-hash (PEP 552): an edited source counts, though its time may be older than the compiled file's.
HEAD = MAGIC_NUMBER + (0b11).to_bytes(4, "little")


def bring(source: str, target: str) -> None:
    """Copy a folder; what is compiled stands beside its source."""
    os.mkdir(target)
    for name in sorted(os.listdir(source)):  # what a file is compiled to depends on what was compiled before
        here, path = f"{source}/{name}", f"{target}/{name}"
        if os.path.islink(here):
            os.symlink(os.readlink(here), path)
        elif os.path.isdir(here):
            bring(here, path)
        else:
            with open(here, "rb") as file:
                content = file.read()
            write(path, content, 0o555 if os.stat(here).st_mode & 0o111 else 0o444)
            if name.endswith(".py"):
                code = compile(content, path, "exec", dont_inherit=True)
                os.makedirs(f"{target}/__pycache__", exist_ok=True)
                write(cache_from_source(path), HEAD + source_hash(content) + marshal.dumps(code), 0o644)
    os.chmod(target, 0o555)


def write(path: str, content: bytes, mode: int) -> None:
    """A new file."""
    with open(path, "xb") as file:
        file.write(content)
    os.chmod(path, mode)


bring("/media", "/app/common")
bring("/srv", f"/app/{sys.argv[1]}")
for folder, folders, files in os.walk("/app", topdown=False):
    for name in (*folders, *files):
        os.utime(f"{folder}/{name}", ns=(TIME, TIME), follow_symlinks=False)
os.utime("/app", ns=(TIME, TIME))
