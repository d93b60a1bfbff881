"""How do templates become pages? Jinja2 escapes every text that goes in; ``templates`` has the frame and its pieces."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from doit_images.core.base.formatting import seconds_text, size_text
from doit_images.core.buildkit.progress import brief

TEMPLATES = Path(__file__).with_name("templates")
_CODE = re.compile(r"`([^`]+)`")


def render(template: Path, **values: object) -> str:
    """The page that a template makes of these values. It may extend ``layout.html``, which needs ``title``, ``when``,
    ``sections`` (ids with their names) and ``footer``."""
    environment = Environment(
        loader=FileSystemLoader([template.parent, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": seconds_text, "size": size_text, "when": when, "brief": brief, "prose": prose}
    return environment.get_template(template.name).render(values)


def when(at: float) -> str:
    """A time for people, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")


def prose(text: str) -> Markup:
    """A sentence as HTML; what stands in backticks is code."""
    parts = (Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(_CODE.split(text)))
    return Markup("").join(parts)
