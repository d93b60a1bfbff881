"""Times as others write them: any number of digits, any zone, Go's own form, and what is no time."""

from __future__ import annotations

import pytest

from doit_images.core.base.timestamps import epoch_seconds


@pytest.mark.parametrize(
    ("stamp", "seconds"),
    [
        ("2026-11-24T07:29:38Z", 1795505378.0),
        ("2026-11-24T07:29:38.905736163Z", 1795505378.905736),
        ("2026-11-24T07:29:38.97733018+00:00", 1795505378.97733),
        ("2026-11-24T08:29:38.5+01:00", 1795505378.5),
        ("2026-11-24 07:29:38.905736163 +0000 UTC", 1795505378.905736),
        ("2026-11-24 08:29:38 +0100 CET", 1795505378.0),
        ("0001-01-01T00:00:00Z", 0.0),
        ("", 0.0),
        ("yesterday", 0.0),
        (None, 0.0),
        (20261124, 0.0),
    ],
)
def test_what_others_write(stamp: object, seconds: float) -> None:
    assert epoch_seconds(stamp) == seconds
