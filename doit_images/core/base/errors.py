"""The one error that a person is meant to read."""

from __future__ import annotations

from collections.abc import Iterable


class UserError(Exception):
    """An expected failure, said in one sentence.

    ``sentence`` is what went wrong, ``where`` the place as ``file`` or ``file:line``, ``remedy`` what
    to do about it. None of them may hold the value of a secret (rule 4 of the design). It is caught
    once, at the edge of each command; what anybody sees is ``str(error)``.
    """

    def __init__(self, sentence: str, *, where: str = "", remedy: str = "") -> None:
        self.sentence = sentence
        self.where = where
        self.remedy = remedy
        super().__init__(sentence)

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" ({self.remedy})" if self.remedy else ""
        return printable(f"{place}{self.sentence}{remedy}", but="\n\t")


def printable(text: str, but: str = "") -> str:
    """A text that others wrote, such as the name of a file, as a terminal may get it: what it would obey, or cannot
    show, as ``\\x1b``. ``but`` are characters that stay."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() or char in but else char.encode("unicode_escape").decode() for char in text
    )


def meant(word: str, names: Iterable[str]) -> str:
    """The remedy for a name that there is not: the one that it is most like, else all that there are.

    >>> meant("wbe", ["web", "db"]), meant("x", ["web", "db"])
    ("did you mean 'web'?", 'there are web, db')
    """
    near = nearest(word, names := list(names))
    return f"did you mean {near!r}?" if near else f"there are {', '.join(names)}"


def nearest(word: str, names: Iterable[str]) -> str:
    """The name that is most like a word, "" if none is."""
    import difflib  # 3 ms that few runs need

    return next(iter(difflib.get_close_matches(word, names, 1)), "")


def os_reason(error: OSError) -> str:
    """What the system says, as a sentence with its place: for what nobody expected of it."""
    place = f"{error.filename}: " if error.filename else ""
    return f"{place}{error.strerror or error}"
