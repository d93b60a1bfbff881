"""What does a module of ours consist of? Each is parsed once a process, whoever asks.

The garbage collector rests meanwhile: Python 3.11 calls a tree a ``SystemError`` when what the collector finalises lets
another thread print a traceback, which parses too (python/cpython#106905).
"""

from __future__ import annotations

import ast
import gc
from functools import cache
from pathlib import Path


@cache
def parsed(path: Path) -> ast.Module:
    """The tree of a module; read only."""
    text = path.read_text()
    gc.disable()
    try:
        return ast.parse(text)
    finally:
        gc.enable()
