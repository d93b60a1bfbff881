"""What is known of the images that the engine holds? Asked once for each whose id can never mean another image."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from doit_images.core.base import checked_json
from doit_images.core.engine.client import ImageConfig

_FORMAT = 3  # raised whenever something else of an image counts than before: what is kept of it is then asked again


class ImageConfigCache:
    """What is known of image ids. Of those that can never mean another image (``engine.LocalImage.fixed``) it is kept
    in a file; of the others it holds until ``forget``."""

    def __init__(self, path: Path, ask: Callable[[str], ImageConfig]) -> None:
        self._path = path
        self._ask = ask
        self._known: dict[str, ImageConfig] | None = None
        self._passing: dict[str, ImageConfig] = {}
        self._new = False
        self._lock = threading.Lock()

    def get(self, image_id: str) -> ImageConfig:
        """What is known of an image that the engine holds and whose id never means another. For any thread."""
        with self._lock:
            if self._known is None:
                kept = checked_json.recall(self._path) or {}
                kept = kept if kept.pop("format", None) == _FORMAT else {}
                try:
                    self._known = {
                        image_id: ImageConfig(**{**config, "onbuild": tuple(config["onbuild"])})
                        for image_id, config in kept.items()
                    }
                except (KeyError, TypeError, ValueError):  # written by another version
                    self._known = {}
            if image_id not in self._known:
                self._known[image_id] = self._ask(image_id)
                self._new = True
            return self._known[image_id]

    def get_passing(self, image_id: str) -> ImageConfig:
        """What is known of one whose id may mean another image later. For any thread."""
        with self._lock:
            if image_id not in self._passing:
                self._passing[image_id] = self._ask(image_id)
            return self._passing[image_id]

    def forget(self) -> None:
        """The engine may hold another platform of an image than before."""
        self._passing.clear()

    def keep(self, ids: Iterable[str]) -> None:
        """Write down what was learnt about these ids, and forget the others."""
        if self._new and self._known is not None:
            known = {key: self._known[key]._asdict() for key in set(ids) if key in self._known}
            checked_json.remember(self._path, {"format": _FORMAT, **known})
            self._new = False
