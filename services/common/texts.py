"""Which texts are accepted? Those that both stores can hold and that say something."""

from __future__ import annotations

from typing import Annotated

from pydantic import StringConstraints

STORABLE = r"^[^\x00]*$"  # PostgreSQL has no way to store a NUL

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
"""A name for a thing of a user: of a session, of a model's fields. Safe in URLs and as a part of Redis keys."""

Label = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100, pattern=STORABLE)]
"""A short line for people."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=16_000, pattern=STORABLE)]
"""A message, a prompt or a memory."""
