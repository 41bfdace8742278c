"""The harness of the browser tests: a real Pointsman, real backends, a real browser.

Started by tests/integration/dashboard.rs, which says in POINTSMAN where the binary is."""

import contextlib
import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time

import pytest
from playwright.sync_api import expect, sync_playwright

# How long a condition may take to come true on a busy machine, in seconds.
TIME_LIMIT = 60
expect.set_options(timeout=TIME_LIMIT * 1000)


def eventually(what, condition):
    """Waits until `condition` gives something."""
    deadline = time.monotonic() + TIME_LIMIT
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"it never came true: {what}"
        time.sleep(0.02)


def hold(host, port=0):
    """Binds an address without listening at it: the kernel then assigns its port to no other socket."""
    held = socket.socket()
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    held.bind((host, port))
    return held


def free_port():
    """A port that is free and stays so: it is below the range from which the kernel assigns ports."""
    with open("/proc/sys/net/ipv4/ip_local_port_range") as range_file:
        end = int(range_file.read().split()[0])

    def one():
        port = random.randrange(12_000, end)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port

    return eventually("a free port", one)


class Backend:
    """An HTTP server that answers everything with its name; it can be killed and revived at the same address."""

    def __init__(self, name, host="127.0.0.1", port=0):
        # Its own also while it is dead.
        self.held = hold(host, port)
        self.name, self.address, self.listener = name, self.held.getsockname(), None
        self.revive()

    def revive(self):
        self.listener = socket.create_server(self.address, backlog=512)
        threading.Thread(target=self.accept, args=(self.listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                stream, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self.answer, args=(stream,), daemon=True).start()

    def answer(self, stream):
        with stream, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                more = stream.recv(4096)
                if not more:
                    return
                request += more
            body = self.name.encode()
            stream.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def kill(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()

    def __str__(self):
        return "{}:{}".format(*self.address)


class Pointsman:
    """A running balancer."""

    arguments = ["run", "-c", "pointsman.yaml"]

    def __init__(self, folder, config):
        self.folder, self.log, self.lines = folder, "", []
        (folder / "pointsman.yaml").write_text(config)
        self.start()

    def start(self):
        self.log = ""
        environment = {name: value for name, value in os.environ.items() if name not in ("POINTSMAN_LOG", "RUST_LOG")}
        self.process = subprocess.Popen(
            [os.environ["POINTSMAN"], *self.arguments],
            cwd=self.folder, env=environment, stderr=subprocess.PIPE, text=True,
        )
        threading.Thread(target=self.read, args=(self.process,), daemon=True).start()
        self.admin = self.when_logged(r"admin listening address=(\S+)")
        eventually("ready", lambda: self.request("GET", "/ready")[0] == 200)

    def read(self, process):
        for line in process.stderr:
            self.log += line

    def when_logged(self, pattern):
        return eventually(pattern, lambda: re.search(pattern, self.log)).group(1)

    def address(self, listener="web"):
        host, port = self.when_logged(rf"listening listener={listener} address=(\S+)").rsplit(":", 1)
        return host, int(port)

    def request(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection(self.admin, timeout=TIME_LIMIT)
        try:
            connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()

    def backend(self, name, pool=0):
        status = self.request("GET", "/api/v1/status")[1]
        return next(each for each in status["pools"][pool]["backends"] if each["name"] == name)

    def when(self, name, **wanted):
        """Waits until a backend is as wanted, by the API."""
        eventually(f"{name} {wanted}", lambda: wanted.items() <= self.backend(name).items())

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(timeout=TIME_LIMIT)


class Demo(Pointsman):
    """A running demo, which a test plays with."""

    arguments = ["demo", "--bind", "127.0.0.1:0", "--admin", "127.0.0.1:0"]

    def state(self):
        return self.request("GET", "/demo/state")[1]

    def act(self, action, **more):
        status, answer = self.request("POST", "/demo/actions", {"action": action, **more})
        assert status == 200, answer
        return answer

    def of(self, name):
        """What was done to a backend; empty if it is not there."""
        return next((each for each in self.state()["backends"] if each["name"] == name), {})


@contextlib.contextmanager
def traffic(address, pause=0.02):
    """Requests to an address, one after the other, for as long as the block lasts."""
    stop = threading.Event()

    def send():
        while not stop.wait(pause):
            with contextlib.suppress(OSError), socket.create_connection(address, timeout=TIME_LIMIT) as stream:
                stream.sendall(b"GET / HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                while stream.recv(4096):
                    pass

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(2 * TIME_LIMIT)
        assert not thread.is_alive(), "a request through the balancer does not end"


def reset(stream):
    """Closes a connection by a reset."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.close()


@pytest.fixture
def lb(tmp_path):
    """Starts balancers that end with the test."""
    running = []

    def start(config):
        text = config if "admin:" in config else f"admin: {{bind: '127.0.0.1:0'}}\n{config}"
        running.append(Pointsman(tmp_path, text))
        return running[-1]

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def demo(tmp_path):
    """A demo whose story is stopped, so that only the test changes anything."""
    running = Demo(tmp_path, "")
    running.act("stop")
    yield running
    running.stop()


@pytest.fixture
def two(lb):
    """A balancer with the backends a and b, and those."""
    backends = [Backend(name) for name in "ab"]

    def start(settings="", admin=""):
        written = ", ".join(f"{{address: '{each}', name: {each.name}}}" for each in backends)
        return lb(
            f"{admin}\nlisteners: {{web: {{bind: '127.0.0.1:0', pool: web}}}}\n"
            f"pools: {{web: {{discover: [{{static: [{written}]}}]{settings}}}}}"
        ), backends

    yield start
    for each in backends:
        with contextlib.suppress(OSError):
            each.kill()


@pytest.fixture(scope="session")
def browser():
    with sync_playwright() as playwright:
        # Sandboxes need rights that a container's root has not; the pages are our own.
        yield playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])


@pytest.fixture
def look(browser):
    """Opens the dashboard of a balancer. In every test, the page must log no errors and send requests to no other server."""
    contexts, complaints = [], []

    def open_page(lb, width=1280, height=900, theme="light", forgive=None, motion="no-preference", script=""):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme, reduced_motion=motion)
        contexts.append(context)
        page = context.new_page()

        def complain(text):
            if not (forgive and re.search(forgive, text)):
                complaints.append(text)

        page.on("pageerror", lambda error: complain(f"error: {error}"))
        page.on("console", lambda message: complain(f"{message.type}: {message.text} {message.location['url']}") if message.type in ("error", "warning") else None)
        page.on("request", lambda request: None if request.url.startswith(f"http://{lb.admin}/") else complain(f"requested {request.url}"))
        page.add_init_script(script)
        page.goto(f"http://{lb.admin}/")
        expect(page.locator("#link")).to_contain_text("live")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not complaints, "\n".join(complaints)


def row(page, name):
    """The row of a backend."""
    return page.locator("table.backends tbody tr").filter(has=page.locator("button.name").get_by_text(name, exact=True))


def tile(page, name):
    """The figure of a tile, as a number without its unit."""
    text = page.locator(f'[data-tile="{name}"] .value').inner_text()
    return float(re.sub(r"[^\d.].*", "", text.replace(",", "")) or 0)
