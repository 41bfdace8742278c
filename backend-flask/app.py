"""The demo backend: a small HTTP server that names itself in responses, and can be slow, unhealthy or streaming.

NAME (else SERVER_NAME, else the host name) is the name in responses; SERVER_ID (else the host name) is the id in
/home; HEALTH=fail starts it failing its health check; HEALTH_SWITCH=on lets every client switch that.
"""
import ipaddress
import json
import os
import re
import socket
import threading
import time
from collections import deque

from flask import Flask, Response, abort, jsonify, request
from werkzeug.exceptions import HTTPException

HOSTNAME = socket.gethostname()
NAME = os.environ.get("NAME") or os.environ.get("SERVER_NAME") or HOSTNAME
SERVER_ID = os.environ.get("SERVER_ID") or HOSTNAME

MAX_SECONDS = 300
MAX_BYTES = 1 << 30
CHUNK = 64 * 1024  # the limit of one write, in bytes
TICK = 0.05  # seconds between two writes of a slow stream
PERIOD = 251  # byte i of a stream is i % 251: prime, so a lost or repeated block is noticed at any block size

# Monitoring is not load, so these paths do not count.
UNCOUNTED = ("/health", "/heartbeat", "/rps")


class Rate:
    """The number of requests in the last second."""

    def __init__(self, clock=time.monotonic):
        self._clock = clock
        self._arrivals = deque()
        self._lock = threading.Lock()

    def count(self):
        with self._lock:
            self._arrivals.append(self._clock())
            self._forget()

    def current(self):
        with self._lock:
            self._forget()
            return len(self._arrivals)

    def _forget(self):
        oldest = self._clock() - 1
        while self._arrivals and self._arrivals[0] <= oldest:
            self._arrivals.popleft()


app = Flask(__name__)
app.json.sort_keys = False
rate = Rate()
stopping = threading.Event()  # set on SIGTERM: ends endless streams
healthy = threading.Event()
if os.environ.get("HEALTH", "ok").lower() not in ("fail", "failing"):
    healthy.set()


@app.before_request
def count():
    if not request.path.startswith(UNCOUNTED):
        rate.count()


@app.errorhandler(HTTPException)
def error(e):
    headers = [(k, v) for k, v in e.get_headers() if k not in ("Content-Type", "Content-Length")]
    return jsonify(error=e.description, status="failure", server=NAME), e.code, headers


@app.get("/")
def home_page():
    message = f"Response from {NAME}"
    if wants_json():
        return jsonify(status="success", message=message, current_rps=rate.current())
    return text(message + "\n")


@app.get("/home")
def home():
    return jsonify(message=f"Hello from Server: {SERVER_ID}", status="successful")


@app.get("/health")
def health():
    return text("ok") if healthy.is_set() else text("failing", 503)


def may_switch_health():
    """Behind a balancer all clients share its address, so only loopback clients can be distinguished."""
    if os.environ.get("HEALTH_SWITCH", "").lower() == "on":
        return True
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def check_health_switch():
    if not may_switch_health():
        abort(403, "only clients inside the container may switch health; HEALTH_SWITCH=on allows all clients")


@app.post("/health/fail")
def health_fail():
    check_health_switch()
    healthy.clear()
    return jsonify(health="failing", server=NAME)


@app.post("/health/ok")
def health_ok():
    check_health_switch()
    healthy.set()
    return jsonify(health="ok", server=NAME)


@app.get("/heartbeat")
def heartbeat():
    return text("")


@app.get("/rps")
def rps():
    """One event with the server's name, then the rate every second as a plain number."""

    def events():
        yield f"retry: 1000\nevent: server\ndata: {json.dumps(NAME)}\n\n"
        while True:
            yield f"data: {rate.current()}\n\n"
            if stopping.wait(1):
                return

    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Response(events(), mimetype="text/event-stream", headers=headers)


@app.get("/rps-display")
def rps_display():
    return Response(PAGE, mimetype="text/html")


@app.get("/users")
def users():
    rows = [("Ada Lovelace", "ada"), ("Edsger Dijkstra", "edsger"), ("Grace Hopper", "grace")]
    return listing("users", [{"name": name, "email": f"{user}@example.com"} for name, user in rows])


@app.get("/products")
def products():
    rows = [("Signal lamp", 2490), ("Point lever", 8900), ("Railway clock", 12900)]
    return listing("products", [{"name": name, "price_cents": price} for name, price in rows])


@app.get("/orders")
def orders():
    rows = [(1, 3, "shipped"), (2, 1, "packed"), (3, 2, "new")]
    return listing("orders", [{"user": user, "product": product, "state": state} for user, product, state in rows])


@app.get("/slow")
def slow():
    seconds = seconds_parameter(default=1)
    time.sleep(seconds)
    return jsonify(server=NAME, seconds=seconds)


@app.get("/stream")
def stream():
    total = bytes_parameter(default=1 << 20)
    seconds = seconds_parameter(default=0)
    headers = {"Content-Length": str(total), "X-Server": NAME, "Cache-Control": "no-store"}
    return Response(pattern(total, seconds), mimetype="application/octet-stream", headers=headers)


def pattern(total, seconds):
    """`total` bytes spread evenly over `seconds`: the first part at once, the last at the end."""
    parts = max(2, -(-total // CHUNK), min(int(seconds / TICK), total))
    start = time.monotonic()
    sent = 0
    for part in range(parts):
        wait = start + seconds * part / (parts - 1) - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        end = total * (part + 1) // parts
        offset = sent % PERIOD
        yield PATTERN[offset : offset + end - sent]
        sent = end


PATTERN = bytes(i % PERIOD for i in range(CHUNK + PERIOD))


def seconds_parameter(default):
    return number("seconds", r"\d{1,9}(\.\d{1,9})?", float, default, MAX_SECONDS)


def bytes_parameter(default):
    return number("bytes", r"\d{1,18}", int, default, MAX_BYTES)


def number(name, form, convert, default, most):
    given = request.args.get(name)
    if given is None:
        return default
    if not re.fullmatch(form, given, re.ASCII) or convert(given) > most:
        abort(400, f"{name} must be a number from 0 to {most}, without a sign or unit")
    return convert(given)


def wants_json():
    """Whether Accept names JSON and prefers no other type; `*/*` alone does not count."""
    accepted = dict(request.accept_mimetypes)
    quality = accepted.get("application/json", 0)
    return quality > 0 and quality >= max(accepted.get("text/plain", 0), accepted.get("text/html", 0))


def text(body, status=200):
    return Response(body, status, mimetype="text/plain", headers={"Cache-Control": "no-store"})


def listing(what, rows):
    return jsonify({"server": NAME, what: [{"id": n, **row} for n, row in enumerate(rows, start=1)]})


PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<link rel="icon" href="data:,">
<title>Requests per second</title>
<style>
  body { font: 1.1rem/1.4 system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid; place-content: center; text-align: center }
  #rps { font-size: 6rem; font-variant-numeric: tabular-nums; line-height: 1 }
  svg { width: min(90vw, 40rem); height: 6rem } polyline { fill: none; stroke: currentColor }
</style>
<div id="rps" role="status">–</div>
<div>requests per second at <b id="server">…</b></div>
<svg viewBox="0 0 59 100" preserveAspectRatio="none" aria-hidden="true"><polyline vector-effect="non-scaling-stroke"/></svg>
<small id="state">connecting…</small>
<script>
  const $ = (q) => document.querySelector(q);
  let last = [];
  const stream = new EventSource("/rps");
  stream.addEventListener("server", (e) => { $("#server").textContent = JSON.parse(e.data); last = []; });
  stream.onopen = () => { $("#state").textContent = "live"; };
  stream.onerror = () => { $("#state").textContent = "connection lost, reconnecting…"; };
  stream.onmessage = (e) => {
    $("#rps").textContent = e.data;
    last = [...last, Number(e.data)].slice(-60);
    const top = Math.max(1, ...last);
    $("polyline").setAttribute("points", last.map((v, i) => `${i},${99 - 98 * v / top}`).join(" "));
  };
</script>
</html>
"""
