"""How are small files kept? Whole: a reader, or a kill at any moment, sees the old or the new one, never half of it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

from tasks.base.errors import UserError


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None if there is no such file or nothing in it that can be used."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def write_json(path: Path, content: Any) -> None:
    """Write JSON for nobody but this user. Raises ``UserError`` where it cannot be written."""
    write(path, json.dumps(content, indent=1, sort_keys=True), 0o600)


def write(path: Path, text: str, mode: int = 0o666) -> None:
    """Write a text; ``mode`` is for a new file. Raises ``UserError`` where it cannot be written."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "w") as stream:
            stream.write(text)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"this file cannot be written: {error.strerror}", where=str(path)) from None
