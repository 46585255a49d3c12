"""A run that ends itself: when its worker is gone, or when Prefect says that it is to be cancelled."""

import http.server
import json
import os
import threading

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import watch
from flows.services import MARK


@pytest.fixture
def says():
    """A server that tells the state of a run: says["state"] is what it tells."""
    told = {"state": "Running"}

    class Api(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/api/flow_runs/one" else 404)
            self.end_headers()
            self.wfile.write(json.dumps({"state_name": told["state"]}).encode())

        def log_message(self, *words):
            """Nothing of this belongs to the test's output."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with temporary_settings({PREFECT_API_URL: f"http://127.0.0.1:{server.server_port}/api"}):
            yield told
        server.shutdown()


def test_cancelling_is_noticed(says, monkeypatch):
    monkeypatch.setattr(watch, "_cancelled", [])
    asked = watch._asker("one")
    assert not asked()
    says["state"] = "Cancelling"
    assert asked() and watch._cancelled == ["one"]


def test_a_server_that_does_not_answer_ends_nothing(monkeypatch):
    with temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}):
        assert not watch._asker("one")()


def test_worker_that_bears_our_mark_is_there(monkeypatch):
    """The parent's environment tells; one without the mark has taken its place."""
    monkeypatch.delenv(MARK, raising=False)
    assert not watch._orphaned(os.getppid())()
    monkeypatch.setenv(MARK, "no parent of this test bears this")
    assert watch._orphaned(os.getppid())()


def test_worker_that_is_the_first_process_is_there(monkeypatch):
    """As in a container; who becomes its child later has lost another worker."""
    monkeypatch.delenv(MARK, raising=False)
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not watch._orphaned(1)()
    assert watch._orphaned(42)()
