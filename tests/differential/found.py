"""What the generator of projects found, each as small as it got."""

from __future__ import annotations

from tests.differential.projects import Case

FOUND: list[Case] = []
