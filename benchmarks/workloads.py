"""The workloads, and what is measured."""
import json
import re
import subprocess
import time

from proxies import LOAD

GIB = 1 << 30
# The unit of each figure.
UNITS = {
    "cpu_us": "µs CPU each",
    "per_second": "per second",
    "p50_us": "µs, p50",
    "p99_us": "µs, p99",
    "cpu_ms_per_gib": "ms CPU per GiB",
    "gib_per_second": "GiB/s",
    "kib_per_connection": "KiB each",
    "idle_cpu_us": "µs CPU each, in a second of idleness",
    "pipes": "pipes",
}


def wrk(address, connections, seconds, close=False, tls=False):
    """Load from wrk, with a thread count that fits on the remaining cores with the backend."""
    threads = 1 if connections < 512 else 2
    seconds = max(1, round(seconds))
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{seconds}s", "--latency", "--timeout", "10s"]
    if close:
        command += ["-H", "Connection: close"]
    # With TLS by name, as clients send no server name for an address.
    command.append(f"https://localhost:{address[1]}/" if tls else f"http://{address[0]}:{address[1]}/")
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def number(pattern):
        match = re.search(pattern, output)
        return float(match[1]) if match else 0.0

    unit = {"us": 1, "ms": 1e3, "s": 1e6}
    result = {"requests": int(number(r"(\d+) requests in")), "per_second": number(r"Requests/sec:\s+([\d.]+)")}
    for share in ("50", "75", "90", "99"):
        value, suffix = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", output).groups()
        result[f"p{share}_us"] = float(value) * unit[suffix]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    result["errors"] = sum(map(int, errors.groups())) if errors else 0
    result["errors"] += int(number(r"Non-2xx or 3xx responses: (\d+)"))
    return result


def load(*arguments):
    output = subprocess.run([LOAD, *map(str, arguments)], capture_output=True, text=True, check=True).stdout
    return json.loads(output)


class Cpu:
    """CPU time that a process takes within a block, in seconds."""

    def __init__(self, process):
        self.process = process

    def __enter__(self):
        self.before = self.process.cpu_seconds() if self.process else 0
        return self

    def __exit__(self, *_):
        self.seconds = self.process.cpu_seconds() - self.before if self.process else None

    def per(self, result, figure, amount, unit):
        if self.seconds is not None and amount:
            result[figure] = self.seconds * unit / amount


class Workload:
    """The defaults of all workloads."""

    backends, workers, busy_poll = 1, 1, "off"
    # One second of warm-up before the measurement.
    warms_up = True


class Small(Workload):
    """Small HTTP requests, on kept-alive connections or a new one each."""

    def __init__(self, connections, close=False, workers=1, backends=8, kind="http"):
        self.connections, self.close, self.workers, self.backends = connections, close, workers, backends
        self.kind = kind

    def run(self, address, process, seconds):
        with Cpu(process) as cpu:
            result = wrk(address, self.connections, seconds, self.close, tls=self.kind == "https")
        cpu.per(result, "cpu_us", result["requests"], 1e6)
        return result


class Bulk(Workload):
    """Endless streams, to the clients or both ways."""

    kind = "source"

    def __init__(self, streams, both=False):
        self.streams, self.both = streams, both

    def run(self, address, process, seconds):
        extra = ["--both"] if self.both else []
        with Cpu(process) as cpu:
            result = load("bulk", "%s:%d" % address, "--streams", self.streams, "--seconds", seconds, *extra)
        result["gib_per_second"] = result["bytes"] / GIB / result["seconds"]
        cpu.per(result, "cpu_ms_per_gib", result["bytes"], 1e3 * GIB)
        return result


class Iperf(Workload):
    """The same, measured by another tool."""

    kind = "iperf3"

    def run(self, address, process, seconds):
        command = ["iperf3", "-c", address[0], "-p", address[1], "-t", max(1, round(seconds)), "-R", "-J"]
        # Its server serves one client at a time, and may still be busy with the last one.
        for _ in range(20):
            with Cpu(process) as cpu:
                output = subprocess.run(list(map(str, command)), capture_output=True, text=True).stdout
            end = json.loads(output)["end"]
            if "sum_received" in end:
                break
            time.sleep(0.2)
        else:
            raise SystemExit(f"iperf3 against {address[0]}:{address[1]}: {output}")
        received = end["sum_received"]
        result = {"gib_per_second": received["bytes"] / GIB / received["seconds"], "bytes": received["bytes"]}
        cpu.per(result, "cpu_ms_per_gib", received["bytes"], 1e3 * GIB)
        return result


class Ping(Workload):
    """One byte each way, repeatedly."""

    kind = "echo"

    def __init__(self, busy_poll="off"):
        self.busy_poll = busy_poll

    def run(self, address, process, seconds):
        return load("ping", "%s:%d" % address, "--seconds", seconds)


class Idle(Workload):
    """Connections that were used once and are idle."""

    kind = "echo"
    warms_up = False  # memory that was used once is not given back

    def __init__(self, connections):
        self.connections = connections

    def run(self, address, process, seconds):
        if not process:
            return {}
        load("ping", "%s:%d" % address, "--seconds", 0.2)  # what is made once, at the first connection
        before, pipes = process.resident_kib(), pipes_of(process)
        command = [LOAD, "idle", "%s:%d" % address, "--connections", str(self.connections)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
            client.stdout.readline()
            time.sleep(0.5)
            grown = process.resident_kib() - before
            result = {
                "connections": self.connections,
                "kib_per_connection": grown / self.connections,
                "pipes": pipes_of(process) - pipes,
            }
            seconds = 3
            with Cpu(process) as cpu:
                time.sleep(seconds)
            cpu.per(result, "idle_cpu_us", self.connections * seconds, 1e6)
            client.stdin.close()
        return result


def pipes_of(process):
    return sum(file.startswith("pipe:") for file in process.files())


class Transfers(Workload):
    """A new connection for each transfer of this many bytes."""

    kind = "source"

    def __init__(self, size):
        self.size = size

    def run(self, address, process, seconds):
        # Enough to keep all proxies busy, not so many that they queue for memory.
        streams = 16 if self.size <= 1 << 20 else 2
        with Cpu(process) as cpu:
            result = load("transfers", "%s:%d" % address, "--bytes", self.size, "--streams", streams, "--seconds", seconds)
        result["errors"] = result.pop("failed")
        cpu.per(result, "cpu_us", result["transfers"], 1e6)
        return result


WORKLOADS = {
    "keep-alive, 64 connections": Small(64),
    "keep-alive, 512 connections": Small(512),
    "a connection each, 64 at once": Small(64, close=True),
    "two workers, 512 connections": Small(512, workers=2),
    "bulk, 1 stream": Bulk(1),
    "bulk, 4 streams": Bulk(4),
    "bulk, 4 streams both ways": Bulk(4, both=True),
    "bulk, 1 stream of iperf3": Iperf(),
    "ping-pong, 1 connection": Ping(),
    "ping-pong, Pointsman with busy_poll: 50us": Ping("50us"),
    "5,000 idle connections": Idle(5000),
}
LESS, MORE = "less", "more"
# The goals for the ratios to each peer.
GOALS = [
    ("keep-alive, 64 connections", "cpu_us", LESS, {"haproxy": 0.95, "nginx": 1.00}),
    ("keep-alive, 64 connections", "per_second", MORE, {"haproxy": 1.00, "nginx": 1.00}),
    ("keep-alive, 64 connections", "p99_us", LESS, {"haproxy": 1.00}),
    ("keep-alive, 512 connections", "cpu_us", LESS, {"haproxy": 0.95, "nginx": 1.00}),
    ("keep-alive, 512 connections", "per_second", MORE, {"haproxy": 1.00, "nginx": 1.00}),
    ("keep-alive, 512 connections", "p99_us", LESS, {"haproxy": 1.00}),
    ("a connection each, 64 at once", "cpu_us", LESS, {"haproxy": 0.85, "nginx": 1.00}),
    *(
        (workload, figure, better, wanted)
        for workload in ("bulk, 1 stream", "bulk, 4 streams", "bulk, 4 streams both ways")
        for figure, better, wanted in (
            ("cpu_ms_per_gib", LESS, {"haproxy": 0.70, "nginx": 0.75}),
            ("gib_per_second", MORE, {"haproxy": 1.00, "nginx": 1.00}),
        )
    ),
    ("ping-pong, 1 connection", "p50_us", LESS, {"haproxy": 0.80, "nginx": 0.80}),
    ("ping-pong, 1 connection", "p99_us", LESS, {"haproxy": 0.80, "nginx": 0.80}),
    ("ping-pong, Pointsman with busy_poll: 50us", "p50_us", LESS, {"haproxy": 0.80, "nginx": 0.80}),
    ("ping-pong, Pointsman with busy_poll: 50us", "p99_us", LESS, {"haproxy": 0.80, "nginx": 0.80}),
    ("5,000 idle connections", "kib_per_connection", LESS, {"haproxy": 0.50}),
    ("two workers, 512 connections", "per_second", MORE, {"haproxy": 1.00, "nginx": 1.00}),
]
# How cost grows: the parameter, the figure, and the workload at each step.
SCALE = {
    "backends": ("cpu_us", {n: Small(64, close=True, backends=n) for n in (1, 10, 100, 1000, 10_000)}),
    "connections": ("cpu_us", {n: Small(n) for n in (10, 100, 1000, 3000, 9000)}),
    "workers": ("per_second", {n: Small(512, workers=n) for n in (1, 2)}),
    "bytes per connection": (
        "cpu_us",
        {n: Transfers(n) for n in (64, 1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20, 1 << 30)},
    ),
}
