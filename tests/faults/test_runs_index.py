"""Package indexes that stall, answer 500 or cut off what they give: the build fails in words, the next is right."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from tests.faults.project import SOON, Project
from tests.waiting import comes

pytestmark = pytest.mark.engine


class Index:
    """An index on loopback that does as it is told: ``well``, ``stalls``, ``500`` or ``cuts``."""

    def __init__(self) -> None:
        self.does = "well"
        self.over = threading.Event()
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                if index.does == "stalls":
                    index.over.wait()
                self.send_response(500 if index.does == "500" else 200)
                self.send_header("Content-Length", "100")
                self.end_headers()
                self.wfile.write(b"x" * (10 if index.does == "cuts" else 100))

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def index() -> Iterator[Index]:
    one = Index()
    yield one
    one.close()


@pytest.mark.parametrize(
    ("does", "says"),
    [
        ("500", "500 Internal Server Error"),
        ("cuts", "connection closed prematurely"),
        ("stalls", "right was not built in 10 s"),
    ],
)
def test_an_index_that_does_not_do_its_work(project: Project, index: Index, does: str, says: str) -> None:
    fetch = f"wget -O /package http://127.0.0.1:{index.port}/package && test $(wc -c < /package) = 100"
    project.write({"right/Dockerfile": f"FROM base\nCOPY f /of/right\nRUN {fetch} && cat /of/* > /all-right\n"})
    compose = (project.folder / "compose.yml").read_text()
    network = compose.replace('"context": "right"', '"network": "host", "context": "right"')
    assert network != compose
    (project.folder / "compose.yml").write_text(network)
    index.does = does
    began = time.monotonic()
    done = project.doit("-c", "build_optimized", BUILD_TIMEOUT="10s")
    assert done.returncode != 0
    assert says in done.stderr, done.stderr
    assert "Traceback" not in done.stderr
    assert "3 built, 1 failed (right)" in done.stderr, done.stderr
    assert comes(lambda: not project.processes(), SOON)
    print(f"{does}: {time.monotonic() - began:.0f} s")
    index.does = "well"
    assert project.build() == {"right": "built"}
    assert set(project.actions().values()) == {"fresh"}
    project.assert_clean()
