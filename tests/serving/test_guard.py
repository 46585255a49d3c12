"""Other sites, other names and other machines get nothing (rebinding, CSRF, exposure)."""

import json

import pytest

from nano_think.core.errors import UsageError
from nano_think.serving.config import check_exposure
from nano_think.serving.guard import HEADERS
from tests.serving.conftest import asked

BODY = json.dumps(asked())
JSON = {"content-type": "application/json"}


def post(server, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.client.post("/v1/chat/completions", content=BODY, headers=JSON | named)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", ""])
def test_other_hosts_are_refused(serving, host):
    """A name that was made to mean this machine."""
    server = serving()
    for path in ("/", "/health", "/v1/models", "/v1/memory/default"):
        assert server.client.get(path, headers={"host": host}).status_code == 403
    assert server.engine.asked == []


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1:9", "[::1]:8000", "chat.example:8000"])
def test_own_hosts_are_answered(serving, host):
    assert serving(names=("chat.example",)).client.get("/health", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://127.0.0.1", "http://127.0.0.1:1", "file://"]
)
def test_other_origins_are_refused(serving, origin):
    server = serving()
    assert post(server, origin=origin).status_code == 403
    assert server.client.delete("/v1/memory/default", headers={"origin": origin}).status_code == 403
    assert server.engine.asked == []


def test_own_origin_is_answered(serving):
    server = serving()
    assert post(server, origin=server.url).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_browsers_word_on_the_site_counts(serving, site):
    server = serving()
    assert post(server, sec_fetch_site=site).status_code == 403
    assert server.client.get("/v1/memory/default", headers={"sec-fetch-site": site}).status_code == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
def test_bodies_that_any_page_may_send_are_refused(serving, kind):
    """A form can be sent across sites without asking; JSON cannot."""
    server = serving()
    assert post(server, content_type=kind).status_code == 415
    assert server.engine.asked == []


def test_no_other_site_may_read(serving):
    server = serving()
    for answer in (server.client.get("/health"), server.client.options("/v1/models"), server.ask()):
        assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize("path", ["/", "/page.js", "/health", "/nothing"])
def test_every_answer_carries_the_policy(serving, path):
    headers = serving().client.get(path).headers
    assert {name: headers[name] for name in HEADERS} == HEADERS
    assert "unsafe" not in headers["content-security-policy"]


@pytest.mark.parametrize("given", ["", "Bearer", "Bearer wrong", "Basic secret", "Bearer secret2", "Bearer sécret"])
def test_wrong_key_is_refused(serving, given):
    server = serving(key="secret")
    answer = server.client.get("/v1/models", headers={"authorization": given.encode()})
    assert answer.status_code == 401 and answer.json()["error"]["type"] == "authentication_error"
    assert server.client.delete("/v1/memory/default", headers={"authorization": given.encode()}).status_code == 401


def test_right_key_is_answered(serving):
    assert post(serving(key="secret"), authorization="Bearer secret").status_code == 200


@pytest.mark.parametrize("path", ["/v1/x/../models", "//v1/models", "/v1/models/health", "/V1/models"])
def test_no_way_around_the_key(serving, path):
    assert serving(key="secret").client.get(path).status_code in (401, 404)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_beyond_this_machine_only_with_a_key(host):
    with pytest.raises(UsageError, match="NANO_THINK_API_KEY"):
        check_exposure(host, "")
    check_exposure(host, "secret")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.8.8"])
def test_this_machine_needs_no_key(host):
    check_exposure(host, "")
