"""Actions of tasks: each is there and takes the options of its task, and options may stand behind words."""

from __future__ import annotations

import importlib
import inspect
import tomllib
from typing import Any

import pytest
from doit.exceptions import TaskFailed
from doit.task import dict_to_task

from doit_images.cli import action, cache, show, stack
from doit_images.core.base.extras import EXTRAS
from tasks import bench
from tests.conftest import ROOT

PARAMS = [
    {"name": "number", "long": "show", "default": ""},
    {**action.JSON, "short": "j"},
]


def acted(words: list[str], params: list[Any]) -> Any:
    """What an action with these words on the command line is called with, or its failure."""
    called: dict[str, Any] = {}
    actions = [(action.act, [lambda run, **options: called.update(options)])]
    task = dict_to_task({"name": "look", "pos_arg": "names", "params": params, "actions": actions})
    task.pos_arg_val = task.init_options(words)
    return task.actions[0].execute() or called


@pytest.mark.parametrize("words", ["--json a b --show 7", "a --show 7 b -j", "a b --show=7 --json", "--show 7 -j a b"])
def test_options_may_stand_anywhere(words: str) -> None:
    assert acted(words.split(), PARAMS) == {"names": ["a", "b"], "number": "7", "as_json": True}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("a --jsn", "`look` has no option --jsn (did you mean --json?)"),
        ("a --zebra", "`look` has no option --zebra (`doit look --help` lists those that it has)"),
        ("a --show", "`look`: option --show requires argument (`doit look --help`)"),
    ],
)
def test_an_option_that_is_not_one(words: str, sentence: str) -> None:
    failed = acted(words.split(), PARAMS)
    assert isinstance(failed, TaskFailed)
    assert failed.message == sentence


def test_words_are_passed_on_by_a_task_without_options() -> None:
    assert acted(["a", "-k", "x", "--lf"], []) == {"names": ["a", "-k", "x", "--lf"]}


def creators() -> list[Any]:
    rooms = (bench, cache, show, stack)
    found = [value for room in rooms for name, value in vars(room).items() if name.startswith("task_")]
    return [one for one in found if not inspect.isgeneratorfunction(one)]


@pytest.mark.parametrize("creator", creators(), ids=lambda one: one.__name__)
def test_an_action_takes_the_options_of_its_task(creator: Any) -> None:
    task = creator()
    action, functions = task["actions"][0]
    options = {option["name"] for option in task.get("params", ())} | {task.get("pos_arg")} - {None}
    if not functions:  # its options say which function acts
        assert set(inspect.signature(action).parameters) - {"task", "options"} <= options
        return
    (function,) = functions
    if isinstance(function, str):
        module, _, name = function.partition(":")
        function = getattr(importlib.import_module(module), name)
    taken = inspect.signature(function).parameters
    others = {name for name, one in taken.items() if one.kind == one.VAR_KEYWORD}
    assert taken.keys() - {"run"} - others <= options
    assert others or options <= taken.keys()


def test_each_module_of_an_extra_is_one_of_its_distributions() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    listed = {word.split()[0]: extra for extra, words in extras.items() for word in words if "[" not in word}
    assert listed == EXTRAS


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("redis.retry", "this needs the module redis, which is not installed (pip install 'doit-images[share]')"),
        ("doit_imags", None),
    ],
)
def test_a_module_that_is_missing(monkeypatch: pytest.MonkeyPatch, module: str, said: str | None) -> None:
    def needs_it(run: object, task: object = None) -> None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)

    task = dict_to_task({"name": "look", "actions": [(action.act, [needs_it])]})
    task.init_options([])
    failed = task.actions[0].execute()
    assert failed.message == said if said else "Traceback" in failed.get_msg()
