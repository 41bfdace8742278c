"""Every endpoint, without a server."""
import json

import pytest

import app as backend


def test_the_front_page_is_text_with_the_name_of_the_server(client):
    answer = client.get("/")
    assert (answer.status_code, answer.text) == (200, "Response from alpha\n")
    assert answer.mimetype == "text/plain"


@pytest.mark.parametrize("accept", ["application/json", "application/json, text/plain, */*"])
def test_the_front_page_is_json_on_request(client, accept):
    client.get("/")
    answer = client.get("/", headers={"Accept": accept})
    assert answer.json == {"status": "success", "message": "Response from alpha", "current_rps": 2}


@pytest.mark.parametrize("accept", ["*/*", "text/html,*/*;q=0.8", "application/json;q=0.1, text/plain", "nonsense"])
def test_the_front_page_is_text_for_other_clients(client, accept):
    assert client.get("/", headers={"Accept": accept}).mimetype == "text/plain"


def test_home_names_the_server_id(client):
    assert client.get("/home").json == {"message": "Hello from Server: 7", "status": "successful"}


def test_health_can_be_made_to_fail_and_back(client):
    assert (client.get("/health").status_code, client.get("/health").text) == (200, "ok")
    assert client.post("/health/fail").json == {"health": "failing", "server": "alpha"}
    assert (client.get("/health").status_code, client.get("/health").text) == (503, "failing")
    assert client.get("/").status_code == 200
    assert client.post("/health/ok").json == {"health": "ok", "server": "alpha"}
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("path", ["/health/fail", "/health/ok"])
@pytest.mark.parametrize("address", ["172.18.0.5", "fd00::5", "::ffff:172.18.0.5", "", None])
def test_a_client_of_the_balancer_does_not_switch_health(client, path, address):
    answer = client.post(path, environ_overrides={"REMOTE_ADDR": address})
    assert answer.status_code == 403 and "HEALTH_SWITCH" in answer.json["error"]
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "::ffff:127.0.0.1"])
def test_the_container_itself_switches_health(client, address):
    assert client.post("/health/fail", environ_overrides={"REMOTE_ADDR": address}).status_code == 200
    assert client.get("/health").status_code == 503


def test_with_the_switch_on_every_client_switches_health(client, monkeypatch):
    monkeypatch.setenv("HEALTH_SWITCH", "on")
    assert client.post("/health/fail", environ_overrides={"REMOTE_ADDR": "172.18.0.5"}).status_code == 200
    assert client.get("/health").status_code == 503
    monkeypatch.setenv("HEALTH_SWITCH", "off")
    assert client.post("/health/ok", environ_overrides={"REMOTE_ADDR": "172.18.0.5"}).status_code == 403


def test_a_get_does_not_switch_health(client):
    answer = client.get("/health/fail")
    assert answer.status_code == 405 and answer.json["error"] and "POST" in answer.headers["Allow"]
    assert client.get("/health").status_code == 200


def test_heartbeat_is_empty(client):
    answer = client.get("/heartbeat")
    assert (answer.status_code, answer.data) == (200, b"")


def test_the_rate_counts_one_second():
    now = 100.0
    rate = backend.Rate(clock=lambda: now)
    for _ in range(3):
        rate.count()
    now = 100.9
    rate.count()
    assert rate.current() == 4
    now = 101.0
    assert rate.current() == 1
    now = 200.0
    assert rate.current() == 0


def test_monitoring_is_not_load(client):
    for path in ("/health", "/heartbeat", "/rps-display"):
        client.get(path)
    assert backend.rate.current() == 0
    client.get("/users")
    assert backend.rate.current() == 1


def test_rps_streams_the_server_then_numbers(client):
    client.get("/")
    client.get("/")
    answer = client.get("/rps")
    assert answer.mimetype == "text/event-stream" and answer.headers["Cache-Control"] == "no-store"
    events = (part.decode() for part in answer.response)
    assert next(events) == 'retry: 1000\nevent: server\ndata: "alpha"\n\n'
    assert next(events) == "data: 2\n\n"
    assert next(events) == "data: 0\n\n"
    backend.stopping.set()
    assert list(events) == []


def test_rps_display_listens_to_rps(client):
    answer = client.get("/rps-display")
    assert answer.mimetype == "text/html" and 'EventSource("/rps")' in answer.text


@pytest.mark.parametrize("what", ["users", "products", "orders"])
def test_the_demo_data_has_the_name_of_the_server(client, what):
    answer = client.get(f"/{what}").json
    assert answer["server"] == "alpha"
    assert [row["id"] for row in answer[what]] == [1, 2, 3]


def test_slow_sleeps(client, monkeypatch):
    slept = []
    monkeypatch.setattr(backend.time, "sleep", slept.append)
    assert client.get("/slow?seconds=2.5").json == {"server": "alpha", "seconds": 2.5}
    assert client.get("/slow").json["seconds"] == 1
    assert slept == [2.5, 1]


@pytest.mark.parametrize("total", [0, 1, 2, 250, 251, 65536, 65537, 1_000_000])
def test_a_stream_is_exactly_the_pattern(client, total):
    answer = client.get(f"/stream?bytes={total}")
    assert answer.headers["Content-Length"] == str(total)
    assert answer.data == bytes(i % 251 for i in range(total))


def test_a_stream_is_spread_evenly(monkeypatch):
    now, sizes = [0.0], []
    monkeypatch.setattr(backend.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(backend.time, "sleep", lambda s: now.__setitem__(0, now[0] + s))
    for part in backend.pattern(1_000_000, 4):
        sizes.append((now[0], len(part)))
    assert sizes[0][0] == 0 and sizes[-1][0] == pytest.approx(4)
    by_half_time = sum(size for at, size in sizes if at < 2)
    assert by_half_time == pytest.approx(500_000, rel=0.05)
    assert max(size for _, size in sizes) <= 64 * 1024


@pytest.mark.parametrize(
    "path",
    [
        "/slow?seconds=-1", "/slow?seconds=", "/slow?seconds=nan", "/slow?seconds=inf", "/slow?seconds=1e9",
        "/slow?seconds=301", "/slow?seconds=abc", "/slow?seconds=%D9%A1", "/stream?bytes=-1", "/stream?bytes=1.5",
        "/stream?bytes=x", "/stream?bytes=1073741825", "/stream?bytes=" + "9" * 5000, "/stream?bytes=1&seconds=301",
        "/stream?bytes=1%0A",
    ],
)  # fmt: skip
def test_a_bad_parameter_is_a_400_with_the_allowed_range(client, path):
    answer = client.get(path)
    assert answer.status_code == 400
    assert "must be a number from 0 to" in answer.json["error"]


def test_an_unknown_path_is_a_404_in_json(client):
    answer = client.get("/nowhere")
    assert answer.status_code == 404
    assert json.loads(answer.data)["server"] == "alpha"
