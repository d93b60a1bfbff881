"""Where does a text lie in meaning? A small static model, whose weights come inside its package."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy
import wordllama
from numpy.typing import NDArray

DIMENSIONS = 256

NEAR_ENOUGH = 0.15
"""Of the way from texts that have nothing to do with a question to the question itself: most answers are nearer than
that, and most other texts are not. ``benchmarks/memory_cutoff.md`` says how many, of a published set in twelve
languages: 1 % of these pass in English, 41 % in Greek."""

_LANGUAGES: NDArray[numpy.float32] = numpy.load(Path(__file__).with_name("languages.npy")).astype(numpy.float32)
"""For each language of that set the middle of its texts. The model knows English best: of another language all texts
are near each other."""

type Vector = NDArray[numpy.float32]


class Embedding:
    """The model, in memory: about 30 MB, ready in a moment, tens of microseconds for a sentence."""

    def __init__(self) -> None:
        # Given its own folder as the cache, the package finds its tokenizer there: it looks in "tokenizer" for what
        # it ships in "tokenizers", and would go on to download it.
        package = Path(wordllama.__file__).parent
        self._model = wordllama.WordLlama.load(dim=DIMENSIONS, cache_dir=package, disable_download=True)

    def of(self, text: str) -> Vector | None:
        """The unit vector of ``text``; none when the model knows no part of it."""
        vector: Vector = self._model.embed([text])[0]
        length = float(numpy.linalg.norm(vector))
        return vector / numpy.float32(length) if length > 0 else None


def least_score(question: Vector) -> float:
    """How near to ``question`` a text must be to have to do with it."""
    unrelated = float((_LANGUAGES @ question).max())
    return unrelated + NEAR_ENOUGH * (1 - unrelated)


load = functools.cache(Embedding)
"""The model. It never changes, so a process has it once."""
