"""Bring a service's code, and what services share, into /app: byte-compiled, for nobody to write, all of one time.

code.py NAME    with its code mounted on /srv, and the shared one on /media

Python, because a distroless image has nothing else; and one process takes less time than one each to copy and to touch.
"""

import compileall
import os
import shutil
import sys
from pathlib import Path
from py_compile import PycInvalidationMode

app = Path("/app")
time = app.stat().st_mtime_ns  # the base's one time (times.sh)
shutil.copytree("/media", app / "common", symlinks=True)
shutil.copytree("/srv", app / sys.argv[1], symlinks=True)
for path in app.rglob("*"):
    if not path.is_symlink():
        path.chmod(0o555 if path.is_dir() or path.stat().st_mode & 0o111 else 0o444)
# checked-hash: an edited source counts, though its time may be older than the compiled file's.
if not compileall.compile_dir(app, quiet=1, invalidation_mode=PycInvalidationMode.CHECKED_HASH):
    sys.exit(1)
for path in (*app.rglob("*"), app):
    os.utime(path, ns=(time, time), follow_symlinks=False)
