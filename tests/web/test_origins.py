"""Both pages accept requests of their own pages and of programs, and reject those of other sites' pages."""

import json

import pytest

from imagen_jax.errors import UserError
from imagen_jax.web.listening import keep_out
from imagen_jax.web.origins import read_origin
from tests.torture.requests import HOST, JSON, PROXY, answer, order_requests, rating_requests

OWN = [["host", HOST]]


@pytest.fixture(params=["page", "rating page"])
def app(request, tmp_path):
    requests = order_requests("data:,") if request.param == "page" else rating_requests(tmp_path)
    yield requests
    requests.close()


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
def test_public_addresses_are_normalised(origin):
    assert read_origin(origin) == origin.lower().rstrip("/")


@pytest.mark.parametrize("origin", ["", "hub.example", "ftp://hub.example", "https://", "https://hub.example/user/me",
                                    "https://a@hub.example", "https://hub.example:port", "https://[", "*"])  # fmt: skip
def test_invalid_origins_are_refused(origin):
    with pytest.raises(UserError, match="--origins="):
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
    """Another site's host name may point to this machine (DNS rebinding)."""
    rebound = [["host", "evil.example"], ["origin", "http://evil.example"], ["sec-fetch-site", "same-origin"]]
    assert status_of(app, "GET", "/", rebound) == 400


@pytest.mark.parametrize(
    "path",
    ["/../app.py", "/%2e%2e/app.py", "/..%2fapp.py", "//etc/passwd", "/..\\app.py", "/page.js/../../app.py", "/\0",
     "/" + "x" * 5000, "/pictures/../../app.py", "/pictures/..%2f..%2fapp.png"],
)  # fmt: skip
def test_no_path_leads_out_of_the_folder(app, path):
    assert status_of(app, "GET", path, OWN) in (404, 405)


def test_a_query_that_is_not_ascii_is_refused(app):
    assert status_of(app, "GET", "/nothing/?\xff", OWN) == 400


def test_responses_have_the_safety_headers(app):
    _, headers, _ = answer(app, json.dumps(["GET", "/", OWN]).encode() + b"\n")
    assert headers["x-content-type-options"] == "nosniff" and headers["cross-origin-resource-policy"] == "same-origin"


def test_invalid_settings_never_reach_the_history():
    requests = order_requests("data:,")
    stage = {"steps": 2, "guidance": 1.0}
    for bad, fact in (
        ({"stages": [{**stage, "x": float("nan")}] * 2}, "'x'"),
        ({"x": "\ud800"}, "'x'"),
        ({"stages": [{**stage, "\ud800": 1}] * 2}, "ud800"),
    ):
        body = json.dumps({"prompt": "a cat", **bad}).encode()
        status, _, content = answer(requests, json.dumps(["POST", "/orders", JSON]).encode() + b"\n" + body)
        assert status == 400 and fact in content.decode()
    assert status_of(requests, "GET", "/history", OWN) == 200
    requests.close()
