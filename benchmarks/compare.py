#!/usr/bin/env python3
"""Compares Pointsman with HAProxy (TCP mode), nginx (stream) and no proxy at all, side by side.

Every round runs every proxy on every workload, in turn, on this machine, over loopback. What counts are the
ratios within a round; the report gives their medians. See README.md here for what each workload is.
"""
import argparse
import json
import os
import platform
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
LOAD = ROOT / "target/load/release/load"
POINTSMAN = ROOT / "target/release/pointsman"
GIB = 1 << 30
# A backend port and a backend process for each kind of traffic. Several addresses, so that connections do not
# run out of ports.
HTTP = [f"127.0.0.{n}" for n in range(2, 10)]
PROXIES = ["none", "haproxy", "nginx", "pointsman"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address, what):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{what} does not listen on {address[0]}:{address[1]}")


class Process:
    """A process and the threads and children that it has."""

    def __init__(self, command, **options):
        options.setdefault("stdout", subprocess.DEVNULL)
        options.setdefault("stderr", subprocess.DEVNULL)
        self.process = subprocess.Popen([str(part) for part in command], **options)

    def pids(self):
        """It and its children: nginx works in one."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def cpu_seconds(self):
        """CPU time of all its threads, to the nanosecond (proc(5), schedstat)."""
        total = 0
        for pid in self.pids():
            for task in Path(f"/proc/{pid}/task").iterdir():
                try:
                    total += int((task / "schedstat").read_text().split()[0])
                except OSError:
                    pass  # a thread that has just ended
        return total / 1e9

    def resident_kib(self):
        total = 0
        for pid in self.pids():
            found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) if found else 0
        return total

    def stop(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


class Nginx(Process):
    def stop(self):
        self.process.send_signal(signal.SIGTERM)  # the master ends its worker
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            super().stop()


def start_proxy(name, backends, workers, folder, logged=False):
    """A proxy in front of `backends`; the address to connect to and the process (None without a proxy)."""
    if name == "none":
        return tuple(backends[0].split(":")), None
    port = free_port()
    file = folder / f"{name}.conf"
    if name == "haproxy":
        servers = "\n".join(f"  server s{n} {b}" for n, b in enumerate(backends))
        file.write_text(
            f"global\n  nbthread {workers}\n  maxconn 6000\n"
            "defaults\n  mode tcp\n  balance roundrobin\n  option splice-auto\n"
            "  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n"
            f"listen web\n  bind 127.0.0.1:{port}\n{servers}\n"
        )
        process = Process(["haproxy", "-db", "-f", file])
    elif name == "nginx":
        module = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)
        load = f"load_module {module};\n" if module else ""
        servers = "".join(f"server {b};" for b in backends)
        file.write_text(
            f"{load}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\n"
            f"pid {folder}/nginx.pid;\nerror_log /dev/null;\nevents {{ worker_connections 19000; }}\n"
            f"stream {{ access_log off; upstream web {{ {servers} }}\n"
            f"server {{ listen 127.0.0.1:{port} reuseport backlog=4096; proxy_pass web; proxy_timeout 1h; }} }}\n"
        )
        process = Nginx(["nginx", "-c", file, "-p", folder])
    else:
        log = f"{{level: info, directory: {folder}}}" if logged else "{level: warn, connections: false}"
        file = folder / "pointsman.yaml"
        file.write_text(
            f"runtime: {{workers: {workers}}}\nlog: {log}\n"
            f"listeners: {{web: {{bind: 127.0.0.1:{port}, pool: web}}}}\n"
            f"pools: {{web: {{discover: [{{static: [{', '.join(backends)}]}}]}}}}\n"
        )
        process = Process([POINTSMAN, "run", "-c", file], cwd=folder)
    wait_for(("127.0.0.1", port), name)
    return ("127.0.0.1", str(port)), process


def wrk(address, connections, seconds, close=False):
    threads = 1 if connections < 512 else 2
    command = ["wrk", f"-t{threads}", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency", "--timeout", "10s"]
    if close:
        command += ["-H", "Connection: close"]
    output = subprocess.run([*command, f"http://{':'.join(address)}/"], capture_output=True, text=True).stdout

    def found(pattern, default=None):
        match = re.search(pattern, output)
        return match[1] if match else default

    unit = {"us": 1, "ms": 1e3, "s": 1e6}
    percentiles = {}
    for share in ("50", "75", "90", "99"):
        number, suffix = re.search(rf"{share}%\s+([\d.]+)(us|ms|s)", output).groups()
        percentiles[f"p{share}_us"] = float(number) * unit[suffix]
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    # With `Connection: close` wrk counts the end of every answer's connection as no error of its own.
    return {
        "requests": int(found(r"(\d+) requests in", "0")),
        "per_second": float(found(r"Requests/sec:\s+([\d.]+)", "0")),
        "errors": sum(map(int, errors.groups())) if errors else 0,
        "bad": int(found(r"Non-2xx or 3xx responses: (\d+)", "0")),
        **percentiles,
    }


def load(*arguments):
    output = subprocess.run([LOAD, *map(str, arguments)], capture_output=True, text=True, check=True).stdout
    return json.loads(output)


def small(connections, close=False, workers=1):
    def run(address, process, seconds):
        before = process.cpu_seconds() if process else 0
        result = wrk(address, connections, seconds, close)
        if process:
            result["cpu_us"] = (process.cpu_seconds() - before) * 1e6 / max(result["requests"], 1)
        return result

    return {"backend": "http", "workers": workers, "run": run}


def bulk(streams, both=False):
    def run(address, process, seconds):
        before = process.cpu_seconds() if process else 0
        extra = ["--both"] if both else []
        result = load("bulk", ":".join(address), "--streams", streams, "--seconds", seconds, *extra)
        result["gib_per_second"] = result["bytes"] / GIB / result["seconds"]
        if process:
            result["cpu_ms_per_gib"] = (process.cpu_seconds() - before) * 1e3 * GIB / result["bytes"]
        return result

    return {"backend": "source", "workers": 1, "run": run}


def ping(address, process, seconds):
    return load("ping", ":".join(address), "--seconds", seconds)


def idle(connections):
    def run(address, process, seconds):
        if not process:
            return {}
        files = lambda: sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in process.pids())
        pipes = lambda: sum(
            os.readlink(f"/proc/{pid}/fd/{fd}").startswith("pipe:")
            for pid in process.pids()
            for fd in os.listdir(f"/proc/{pid}/fd")
        )
        load("ping", ":".join(address), "--seconds", 0.2)  # what is made once, at the first connection
        before = process.resident_kib()
        pipes_before = pipes()
        client = subprocess.Popen(
            [LOAD, "idle", ":".join(address), "--connections", str(connections)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        client.stdout.readline()
        time.sleep(0.5)
        grown = process.resident_kib() - before
        result = {
            "connections": connections,
            "kib_per_connection": grown / connections,
            "files": files(),
            "pipes": pipes() - pipes_before,
        }
        client.stdin.close()
        client.wait()
        return result

    return {"backend": "echo", "workers": 1, "run": run}


WORKLOADS = {
    "keep-alive, 64 connections": small(64),
    "keep-alive, 512 connections": small(512),
    "a connection each, 64 at once": small(64, close=True),
    "two workers, 512 connections": small(512, workers=2),
    "bulk, 1 stream": bulk(1),
    "bulk, 4 streams": bulk(4),
    "bulk, 4 streams both ways": bulk(4, both=True),
    "ping-pong, 1 connection": {"backend": "echo", "workers": 1, "run": ping},
    "5,000 idle connections": idle(5000),
}
# What is compared: workload, figure, what is better, and what we want of the ratio to each peer.
GOALS = [
    ("keep-alive, 64 connections", "cpu_us", "less", {"haproxy": 0.95, "nginx": 1.00}),
    ("keep-alive, 64 connections", "per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
    ("keep-alive, 64 connections", "p99_us", "less", {"haproxy": 1.00}),
    ("keep-alive, 512 connections", "cpu_us", "less", {"haproxy": 0.95, "nginx": 1.00}),
    ("keep-alive, 512 connections", "per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
    ("keep-alive, 512 connections", "p99_us", "less", {"haproxy": 1.00}),
    ("a connection each, 64 at once", "cpu_us", "less", {"haproxy": 0.85, "nginx": 1.00}),
    ("bulk, 1 stream", "cpu_ms_per_gib", "less", {"haproxy": 0.70, "nginx": 0.75}),
    ("bulk, 1 stream", "gib_per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
    ("bulk, 4 streams", "cpu_ms_per_gib", "less", {"haproxy": 0.70, "nginx": 0.75}),
    ("bulk, 4 streams", "gib_per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
    ("bulk, 4 streams both ways", "cpu_ms_per_gib", "less", {"haproxy": 0.70, "nginx": 0.75}),
    ("bulk, 4 streams both ways", "gib_per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
    ("ping-pong, 1 connection", "p50_us", "less", {"haproxy": 0.80, "nginx": 0.80}),
    ("ping-pong, 1 connection", "p99_us", "less", {"haproxy": 0.80, "nginx": 0.80}),
    ("5,000 idle connections", "kib_per_connection", "less", {"haproxy": 0.50}),
    ("two workers, 512 connections", "per_second", "more", {"haproxy": 1.00, "nginx": 1.00}),
]
UNITS = {
    "cpu_us": "µs CPU each",
    "per_second": "per second",
    "p50_us": "µs, p50",
    "p99_us": "µs, p99",
    "cpu_ms_per_gib": "ms CPU per GiB",
    "gib_per_second": "GiB/s",
    "kib_per_connection": "KiB each",
}


def measure(rounds, seconds, only):
    """All results: workload → proxy → one entry a round."""
    results = {}
    folder = Path(tempfile.mkdtemp(prefix="pointsman-bench-"))
    ports = {"http": free_port(), "source": free_port(), "echo": free_port()}
    kinds = {
        "http": [f"{ip}:{ports['http']}" for ip in HTTP],
        "source": [f"127.0.0.1:{ports['source']}"],
        "echo": [f"127.0.0.1:{ports['echo']}"],
    }
    backends = [Process([LOAD, kind, *addresses]) for kind, addresses in kinds.items()]
    try:
        for addresses in kinds.values():
            host, port = addresses[0].split(":")
            wait_for((host, int(port)), "a backend")
        for round_number in range(rounds):
            for name, workload in WORKLOADS.items():
                if only and only not in name:
                    continue
                # Another order each round, so that nobody is always first.
                order = PROXIES[round_number % len(PROXIES) :] + PROXIES[: round_number % len(PROXIES)]
                for proxy in order:
                    address, process = start_proxy(proxy, kinds[workload["backend"]], workload["workers"], folder)
                    try:
                        workload["run"](address, process, min(seconds, 1))  # warm up
                        result = workload["run"](address, process, seconds)
                    finally:
                        if process:
                            process.stop()
                    results.setdefault(name, {}).setdefault(proxy, []).append(result)
                    shown = {k: round(v, 2) for k, v in result.items() if k in UNITS}
                    print(f"round {round_number + 1}/{rounds}  {name:32} {proxy:10} {shown}", flush=True)
            if not only or only in "logging":
                for logged in (False, True):
                    run_logging(results, kinds, folder, seconds, logged)
    finally:
        for backend in backends:
            backend.stop()
        shutil.rmtree(folder, ignore_errors=True)
    return results


def run_logging(results, kinds, folder, seconds, logged):
    """What it costs to log every connection, against not logging them."""
    address, process = start_proxy("pointsman", kinds["http"], 1, folder, logged)
    try:
        result = small(64, close=True)["run"](address, process, seconds)
    finally:
        process.stop()
    which = "pointsman, logging" if logged else "pointsman, silent"
    results.setdefault("everything logged", {}).setdefault(which, []).append(result)
    print(f"          {'everything logged':32} {which:10} {round(result['per_second'])}/s", flush=True)


def median_ratio(ours, theirs, figure):
    ratios = [a[figure] / b[figure] for a, b in zip(ours, theirs) if a.get(figure) and b.get(figure)]
    return statistics.median(ratios) if ratios else None


def compared(results):
    """Each goal with what came of it."""
    for workload, figure, better, wanted in GOALS:
        entries = results.get(workload)
        if not entries or "pointsman" not in entries:
            continue
        for peer, goal in wanted.items():
            ratio = median_ratio(entries["pointsman"], entries[peer], figure)
            if ratio is not None:
                met = ratio <= goal if better == "less" else ratio >= goal
                yield workload, figure, better, peer, goal, ratio, met
    entries = results.get("everything logged")
    if entries:
        ratio = median_ratio(entries["pointsman, logging"], entries["pointsman, silent"], "per_second")
        yield "everything logged", "per_second", "more", "itself, silent", 0.93, ratio, ratio >= 0.93


def report(results, about):
    lines = ["# Results", "", "Written by `benchmarks/run`; figures are medians over the rounds.", ""]
    lines += [f"- {key}: {value}" for key, value in about.items()]
    lines += ["", "## Ratios", "", "| workload | figure | against | wanted | ratio | |", "| --- | --- | --- | --- | --- | --- |"]
    for workload, figure, better, peer, goal, ratio, met in compared(results):
        sign = "≤" if better == "less" else "≥"
        mark = "✔" if met else "✘"
        lines.append(f"| {workload} | {UNITS[figure]} | {peer} | {sign} {goal:.2f} | {ratio:.2f} | {mark} |")
    lines += ["", "## Figures", ""]
    for workload, entries in results.items():
        figures = [f for f in UNITS if any(f in one for runs in entries.values() for one in runs)]
        lines += [f"### {workload}", "", "| | " + " | ".join(UNITS[f] for f in figures) + " | errors |"]
        lines.append("| --- |" + " --- |" * (len(figures) + 1))
        for proxy, runs in entries.items():
            cells = []
            for figure in figures:
                values = [one[figure] for one in runs if figure in one]
                cells.append(f"{statistics.median(values):,.2f}" if values else "")
            errors = sum(one.get("errors", 0) + one.get("bad", 0) + one.get("failed", 0) for one in runs)
            lines.append(f"| {proxy} | " + " | ".join(cells) + f" | {errors} |")
        lines.append("")
    return "\n".join(lines)


def version(command):
    output = subprocess.run(command, capture_output=True, text=True)
    return (output.stdout + output.stderr).strip().splitlines()[0]


def about(rounds, seconds):
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": f"{os.cpu_count()} cores, {model[1] if model else platform.machine()}, Linux {platform.release()}",
        "pointsman": version([POINTSMAN, "--version"]),
        "haproxy": version(["haproxy", "-v"]),
        "nginx": version(["nginx", "-v"]),
        "rounds": f"{rounds}, each workload for {seconds} s",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--only", help="only the workloads whose name contains this")
    parser.add_argument("--out", type=Path, default=HERE / "results")
    args = parser.parse_args()
    results = measure(args.rounds, args.seconds, args.only)
    args.out.mkdir(parents=True, exist_ok=True)
    facts = about(args.rounds, args.seconds)
    (args.out / "results.json").write_text(json.dumps({"about": facts, "results": results}, indent=1) + "\n")
    text = report(results, facts)
    (args.out / "README.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
