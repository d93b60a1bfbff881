"""What `advise` says of public projects is counted as it is: the worst verdict of a patch, and why one was left."""

from __future__ import annotations

from benchmarks.advised_public import figures, markdown


def test_a_patch_counts_by_its_worst_verdict_and_says_why_it_was_left() -> None:
    def patch(*verdicts: str) -> dict[str, object]:
        proofs = {str(at): {"verdict": one, "differs": ["a", "b\nc"]} for at, one in enumerate(verdicts)}
        return {"rule": "order", "dockerfile": "Dockerfile", "line": 7, "proofs": proofs}

    work = {"commits": 60, "before": {"runs": 30, "seconds": 0.0}, "after": {"runs": 10, "seconds": 0.0}}
    said = {"patches": [patch("same"), patch("same", "same but for"), patch("same", "fails")], "saved": {"web": work}}
    row = figures(said, images=2)
    assert row["verdicts"] == {"same": 1, "same but for": 1, "fails": 1}
    assert row["why"] == ["order in Dockerfile:7 fails: a, b"]
    assert (row["commits"], row["before"], row["after"]) == (60, 30, 10)
    good = figures({"patches": [], "saved": {}}, images=1)
    text = markdown({"a/b": {**row, "run": "then"}, "c/d": {**good, "run": "then"}})
    assert "| a/b | 2 | 3 | 1 same, 1 same but for, 1 fails | 60 | 30 | 10 | 3.0 | then |" in text
    assert "| c/d | 1 | 0 | no patch known |" in text
    assert "the median where it is known: 3.0 × (goal: 2 ×, met)" in text
