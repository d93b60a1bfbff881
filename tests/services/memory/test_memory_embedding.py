from __future__ import annotations

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory.embedding import DIMENSIONS, Embedding


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Embedding:
    """Made where nothing can be downloaded to or from."""
    import requests

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requests, "get", lambda *_, **__: pytest.fail("it tried to download"))
        patch.setenv("HOME", str(tmp_path_factory.mktemp("empty")))
        return Embedding()


EMBEDDING = Embedding()


@given(text=st.text(min_size=1, max_size=200))
def test_every_text_has_a_unit_vector_or_none(text: str) -> None:
    vector = EMBEDDING.of(text)
    if vector is not None:
        assert vector.shape == (DIMENSIONS,)
        assert numpy.linalg.norm(vector) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("query", "near", "far"),
    [
        ("Which colour do I like?", "My favourite colour is teal.", "The train to Oslo leaves at nine."),
        ("When does the train leave?", "The train to Oslo leaves at nine.", "My favourite colour is teal."),
        ("a dog and its food", "Rex the puppy eats twice a day", "Interest rates were raised again"),
    ],
)
def test_what_means_the_same_is_nearer(embedding: Embedding, query: str, near: str, far: str) -> None:
    asked, one, other = (embedding.of(text) for text in (query, near, far))
    assert asked is not None
    assert one is not None
    assert other is not None
    assert asked @ one > asked @ other
