"""What would be done about each image, and why? The task that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tasks.cli.action import QUIET, act


def task_plan() -> dict[str, Any]:
    """Show what would be built, and why: [IMAGE …] [--json] [--inputs] [--bake]"""
    return {
        "actions": [(_plan,)],
        "params": [
            {"name": "as_json", "long": "json", "type": bool, "default": False, "help": "the promised JSON"},
            {"name": "inputs", "long": "inputs", "type": bool, "default": False, "help": "only the inputs, one a line"},
            {"name": "as_bake", "long": "bake", "type": bool, "default": False, "help": "a definition for buildx bake"},
        ],
        "pos_arg": "images",
        **QUIET,
    }


def _plan(images: Sequence[str], as_json: bool, inputs: bool, as_bake: bool) -> Any:
    from tasks.ui.plan_view import show

    return act(show, images, as_json, inputs, as_bake)
