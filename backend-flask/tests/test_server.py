"""The app in gunicorn, as in the image: threads, streams, SIGTERM."""
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1]


class Server:
    def __init__(self, **environment):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "app:app"],
            cwd=FOLDER,
            env={**os.environ, "PORT": str(self.port), "NAME": "alpha", **environment},
        )
        self.until(lambda: self.get("/heartbeat").status == 200)

    def open(self, path, method="GET"):
        connection = HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request(method, path, headers={"Connection": "close"})
        return connection.getresponse()

    def get(self, path):
        answer = self.open(path)
        answer.body = answer.read()
        return answer

    def until(self, holds, seconds=20):
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, "the server ended"
            try:
                if holds():
                    return
            except OSError:
                pass
            assert time.monotonic() < deadline, "it took too long"
            time.sleep(0.02)

    def terminate(self):
        """Seconds from SIGTERM to the end of the process, which must succeed."""
        start = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=20) == 0
        return time.monotonic() - start


@pytest.fixture
def server():
    started = []

    def start(**environment):
        started.append(Server(**environment))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def test_many_event_streams_do_not_delay_the_health_check(server):
    backend = server()
    streams = [backend.open("/rps") for _ in range(64)]
    for stream in streams:
        assert stream.readline() == b"retry: 1000\n"
    assert backend.get("/health").body == b"ok"
    took = backend.terminate()
    assert took < 5, "the streams end"


def test_clients_that_stay_connected_delay_no_other_client(server):
    backend = server(THREADS="8")
    silent = [socket.create_connection(("127.0.0.1", backend.port)) for _ in range(40)]
    answered = [backend.open("/") for _ in range(20)]  # the server closes; these clients do not
    assert [answer.status for answer in answered] == [200] * 20
    start = time.monotonic()
    assert backend.get("/health").body == b"ok"
    assert time.monotonic() - start < 1
    assert backend.terminate() < 5
    for connection in silent:
        connection.close()


def test_the_health_check_can_fail_from_the_start(server):
    backend = server(HEALTH="fail")
    assert backend.get("/health").status == 503
    assert backend.open("/health/ok", "POST").status == 200
    assert backend.get("/health").status == 200


def test_requests_in_progress_finish_after_sigterm(server):
    backend = server()
    with ThreadPoolExecutor() as pool:
        slow = pool.submit(backend.get, "/slow?seconds=2")
        stream = pool.submit(backend.get, "/stream?bytes=300000&seconds=2")
        time.sleep(0.5)
        assert 1 < backend.terminate() < 5
        assert slow.result().status == 200
        assert stream.result().body == bytes(i % 251 for i in range(300000))


def test_accepted_connections_are_served_and_later_ones_refused(server):
    backend = server()

    def clients():
        served = 0
        while True:
            try:
                connection = socket.create_connection(("127.0.0.1", backend.port), timeout=20)
            except ConnectionRefusedError:
                return served
            with connection:
                connection.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                answer = b""
                while part := connection.recv(4096):
                    answer += part
            assert answer.startswith(b"HTTP/1.1 200 "), answer
            served += 1

    with ThreadPoolExecutor(9) as pool:
        slow = pool.submit(backend.get, "/slow?seconds=4")
        running = [pool.submit(clients) for _ in range(8)]
        time.sleep(0.5)
        backend.process.send_signal(signal.SIGTERM)
        assert all(one.result() > 0 for one in running)
        assert not slow.done(), "the clients were refused during the slow request"
        assert slow.result().status == 200
    assert backend.process.wait(timeout=20) == 0


def test_an_idle_server_stops_at_once(server):
    assert server().terminate() < 2
