"""Both pages answer their own pages and what is no browser, and nobody else's pages."""

import json

import pytest

from imagen_jax.errors import UserError
from imagen_jax.web.listening import keep_out
from imagen_jax.web.origins import read_origin
from tests.torture.requests import HOST, JSON, PROXY, answer, order_requests, rating_requests

OWN = [["host", HOST]]


@pytest.fixture(params=["page", "rating page"])
def app(request, tmp_path):
    asked = order_requests("data:,") if request.param == "page" else rating_requests(tmp_path)
    yield asked
    asked.close()


def status_of(app, method, path, headers, body=b""):
    return answer(app, json.dumps([method, path, headers]).encode() + b"\n" + body)[0]


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [["origin", f"http://{HOST}"]],
        [["origin", PROXY], ["sec-fetch-site", "same-origin"]],
        [["sec-fetch-site", "same-origin"]],
        [["sec-fetch-site", "none"], ["sec-fetch-mode", "navigate"]],
        [["sec-fetch-site", "cross-site"], ["sec-fetch-mode", "navigate"]],  # a link
    ],
)
def test_own_pages_and_links_are_answered(app, headers):
    assert status_of(app, "GET", "/", [*OWN, *headers]) == 200


def test_a_proxy_may_keep_its_own_name(app):
    proxied = [["host", "hub.example:8443"], ["origin", PROXY], ["sec-fetch-site", "same-origin"]]
    assert status_of(app, "GET", "/", proxied) == 200


@pytest.mark.parametrize("origin", ["https://Hub.example:8443/", "http://[::1]:80", "http://10.0.0.1"])
def test_where_a_proxy_shows_the_page(origin):
    assert read_origin(origin) == origin.lower().rstrip("/")


@pytest.mark.parametrize("origin", ["", "hub.example", "ftp://hub.example", "https://", "https://hub.example/user/me",
                                    "https://a@hub.example", "https://hub.example:port", "https://[", "*"])  # fmt: skip
def test_what_is_no_origin(origin):
    with pytest.raises(UserError, match="write it as https"):
        keep_out(HOST, [origin])


@pytest.mark.parametrize(
    "headers",
    [
        [["origin", "https://elsewhere.example"]],
        [["origin", "https://hub.example"]],
        [["origin", PROXY.replace("https", "http")]],
        [["origin", "null"]],
        [["origin", f"http://{HOST}:9999"]],
        [["sec-fetch-site", "cross-site"]],
        [["sec-fetch-site", "same-site"], ["sec-fetch-mode", "no-cors"]],
    ],
)
def test_other_pages_are_not(app, headers):
    for method, path in (
        ("GET", "/"),
        ("GET", "/history"),
        ("POST", "/orders"),
        ("POST", "/next"),
        ("DELETE", "/jobs/x"),
    ):
        assert status_of(app, method, path, [*JSON, *headers], b"{}") == 403
    posted = [*JSON, *headers, ["sec-fetch-site", "cross-site"], ["sec-fetch-mode", "navigate"]]
    assert status_of(app, "POST", "/orders", posted, b"{}") == 403, "a form of another page"


def test_another_name_for_this_machine_is_refused(app):
    """Which somebody's page may point here, being of the same origin then (DNS rebinding)."""
    rebound = [["host", "evil.example"], ["origin", "http://evil.example"], ["sec-fetch-site", "same-origin"]]
    assert status_of(app, "GET", "/", rebound) == 400


@pytest.mark.parametrize(
    "path",
    ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/..\\app.py", "/page.js/../../app.py", "/\0",
     "/" + "x" * 5000, "/pictures/../../app.py", "/pictures/..%2f..%2fapp.png"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(app, path):
    assert status_of(app, "GET", path, OWN) in (404, 405)


def test_an_address_that_is_none_is_refused(app):
    assert status_of(app, "GET", "/nothing/?\xff", OWN) == 400


def test_answers_are_what_they_say_and_are_shown_nowhere_else(app):
    _, headers, _ = answer(app, json.dumps(["GET", "/", OWN]).encode() + b"\n")
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"


def test_what_the_history_tells_was_checked():
    asked = order_requests("data:,")
    stage = {"steps": 2, "guidance": 1.0}
    for bad in (
        {"stages": [{**stage, "x": float("nan")}] * 2},
        {"x": "\ud800"},
        {"stages": [{**stage, "\ud800": 1}] * 2},
    ):
        body = json.dumps({"prompt": "a cat", **bad}).encode()
        status, _, said = answer(asked, json.dumps(["POST", "/orders", JSON]).encode() + b"\n" + body)
        assert status == 400 and ("unknown setting" in said.decode() or "has no" in said.decode())
    assert status_of(asked, "GET", "/history", OWN) == 200
    asked.close()
