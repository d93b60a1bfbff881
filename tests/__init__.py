"""What must hold. ``conftest`` is what all tests share."""

import sys
from pathlib import Path

if sys.dont_write_bytecode:
    # As ``tasks`` keeps its modules: for each worker to rewrite the asserts of all tests anew takes 2.6 s.
    sys.dont_write_bytecode = False
    sys.pycache_prefix = str(Path(__file__).resolve().parent.parent / ".doit-images" / "pycache")
