"""A package index on loopback for tests: PEP 691 with the times of uploads."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class LocalIndex:
    """``releases`` are wheels by package and version: when each came, to stay the same for whoever asks again later.
    ``requires`` says by package what all of its releases need."""

    url: str = ""
    releases: dict[str, dict[str, datetime]] = field(default_factory=dict)
    requires: dict[str, str] = field(default_factory=dict)
    answers: bool = True

    def add(self, name: str, version: str, days: float) -> None:
        self.releases.setdefault(name, {})[version] = datetime.now(UTC) - timedelta(days=days)

    def page(self, path: str) -> bytes | None:
        """What is at this path; None for nothing."""
        match path.strip("/").split("/"):
            case ["simple", name] if name in self.releases:
                return json.dumps({"meta": {"api-version": "1.1"}, "name": name, "files": self._files(name)}).encode()
            case ["files", wheel]:
                name, version, *_ = wheel.split("-")
                return self._wheel(name, version)
        return None

    def _files(self, name: str) -> list[dict[str, Any]]:
        files = []
        for version, came in self.releases[name].items():
            filename = f"{name}-{version}-py3-none-any.whl"
            uploaded = came.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            hashes = {"sha256": hashlib.sha256(self._wheel(name, version)).hexdigest()}
            url = f"/files/{filename}"
            files.append({"filename": filename, "url": url, "hashes": hashes, "upload-time": uploaded})
        return files

    def _wheel(self, name: str, version: str) -> bytes:
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        if name in self.requires:
            metadata += f"Requires-Dist: {self.requires[name]}\n"
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as archive:
            for path, text in (
                (f"{name}.py", f"VERSION = {version!r}\n"),
                (f"{name}-{version}.dist-info/METADATA", metadata),
                (f"{name}-{version}.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
                (f"{name}-{version}.dist-info/RECORD", ""),
            ):
                archive.writestr(zipfile.ZipInfo(path), text)
        return content.getvalue()


@contextlib.contextmanager
def serving() -> Iterator[LocalIndex]:
    index = LocalIndex()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = index.page(self.path)
            self.send_response(503 if not index.answers else 200 if page is not None else 404)
            simple = self.path.startswith("/simple")
            self.send_header("Content-Type", f"application/{'vnd.pypi.simple.v1+' if simple else ''}json")
            self.send_header("Content-Length", str(len(page or b"")))
            self.end_headers()
            self.wfile.write(page or b"")

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, *_: object) -> None:
            """Nothing: the tests' output is their own."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    index.url = f"http://127.0.0.1:{server.server_address[1]}/simple"
    try:
        yield index
    finally:
        server.shutdown()
        server.server_close()
