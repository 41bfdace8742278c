"""What it costs to let the kernel forward (`plane: kernel`): a client, the balancer and a backend, each in a network
namespace of its own, connected by veth pairs.

    benchmarks/kernel_plane

Compared in each round, one after the other: a machine that merely forwards packets, without translation (the limit); nftables
under Pointsman's control; Pointsman that relays; HAProxy in TCP mode. Small requests over 64 connections (wrk), a connection
for each request, bulk (iperf3, both directions together count once). CPU is that of the whole machine, client and backend
included, as packets are handled wherever they arrive."""
import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from proxies import LOAD, Process, wait_for
from workloads import wrk

CLIENT, BALANCER, BACKEND = "client", "balancer", "backend"
# The balancer's addresses towards the client and the backend; theirs end in 2.
FRONT, BACK = "10.77.1.1", "10.77.2.1"
SERVER = "10.77.2.2"
WEB, BULK = 5000, 5201
WAYS = ["forwarding", "kernel", "relaying", "haproxy"]
NAMES = {
    "forwarding": "only forwarding",
    "kernel": "`plane: kernel`",
    "relaying": "Pointsman relaying",
    "haproxy": "HAProxy",
}

HAPROXY = """
global
  nbthread 2
  maxconn 4000
defaults
  mode tcp
  timeout connect 1s
  timeout client 1h
  timeout server 1h
  option splice-auto
listen web
  bind {front}:6001
  server s {server}:5000
listen bulk
  bind {front}:6002
  server s {server}:5201
"""

POINTSMAN = """
runtime: {{workers: 2}}
log: {{level: warn, connections: false}}
listeners:
  web: {{bind: {front}:{web}, pool: web, plane: {plane}}}
  bulk: {{bind: {front}:{bulk}, pool: bulk, plane: {plane}}}
pools:
  web: {{discover: [{{static: [{server}:5000]}}]}}
  bulk: {{discover: [{{static: [{server}:5201]}}]}}
"""


def sh(command):
    subprocess.run(command, shell=True, check=True)


def inside(namespace, *command):
    return ["ip", "netns", "exec", namespace, *map(str, command)]


def network():
    for name in (CLIENT, BALANCER, BACKEND):
        sh(f"ip netns add {name} && ip -n {name} link set lo up")
    for name, side in ((CLIENT, 1), (BACKEND, 2)):
        sh(f"ip link add cable{side} netns {BALANCER} type veth peer name cable netns {name}")
        sh(f"ip -n {BALANCER} addr add 10.77.{side}.1/24 dev cable{side} && ip -n {BALANCER} link set cable{side} up")
        sh(f"ip -n {name} addr add 10.77.{side}.2/24 dev cable && ip -n {name} link set cable up")
        sh(f"ip -n {name} route add default via 10.77.{side}.1")
    sh(f"ip netns exec {BALANCER} sysctl -qw net.ipv4.ip_forward=1")
    sh(f"ip netns exec {CLIENT} sysctl -qw net.ipv4.tcp_tw_reuse=1 net.ipv4.ip_local_port_range='1024 65535'")


def machine_cpu():
    """CPU seconds of the whole machine, without idleness (proc(5))."""
    values = [int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = values[3] + values[4]
    return (sum(values) - idle) / 100


def in_client(function, *arguments):
    """Runs one of our functions in the client's namespace, in a process of its own."""
    code = f"import json, sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import kernel_plane as k; " \
           f"print(json.dumps(getattr(k, sys.argv[1])(*json.loads(sys.argv[2]))))"
    command = inside(CLIENT, sys.executable, "-c", code, function, json.dumps(arguments))
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)


def requests(host, port, seconds, close):
    return wrk((host, port), 64, seconds, close=close)


def bulk(host, port, seconds):
    command = ["iperf3", "--json", "-c", host, "-p", str(port), "-t", str(seconds)]
    ended = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)["end"]
    return {"gbit_per_second": ended["sum_received"]["bits_per_second"] / 1e9}


def reach(host, port):
    wait_for((host, port), "the balancer")


def start(way, folder, pointsman):
    """The processes of a way, and its addresses for requests and for bulk."""
    if way == "forwarding":
        return None, [(SERVER, WEB), (SERVER, BULK)]
    if way == "haproxy":
        file, ports = folder / "haproxy.cfg", (6001, 6002)
        file.write_text(HAPROXY.format(front=FRONT, server=SERVER))
        process = Process(inside(BALANCER, "haproxy", "-db", "-f", file))
    else:
        file, ports = folder / f"{way}.yaml", (7001, 7002) if way == "kernel" else (8001, 8002)
        plane = "kernel" if way == "kernel" else "user"
        file.write_text(POINTSMAN.format(front=FRONT, server=SERVER, plane=plane, web=ports[0], bulk=ports[1]))
        process = Process(inside(BALANCER, pointsman, "run", "-c", file), cwd=folder)
    return process, [(FRONT, port) for port in ports]


def measure(way, folder, pointsman, seconds):
    process, (web, to_bulk) = start(way, folder, pointsman)
    result = {}
    try:
        for address in (web, to_bulk):
            in_client("reach", *address)
        in_client("requests", *web, 1, False)
        for name, close in (("small", False), ("connections", True)):
            before = machine_cpu()
            figures = in_client("requests", *web, seconds, close)
            figures["cpu_us"] = (machine_cpu() - before) * 1e6 / max(1, figures["requests"])
            if figures["errors"]:
                print(f"{way}, {name}: {figures['errors']} errors", file=sys.stderr)
            result[name] = figures
        before = machine_cpu()
        figures = in_client("bulk", *to_bulk, seconds)
        figures["cpu_share"] = (machine_cpu() - before) / seconds
        result["bulk"] = figures
    finally:
        if process:
            process.process.terminate()
            try:
                process.process.wait(10)
            except subprocess.TimeoutExpired:
                process.stop()
    return result


FIGURES = [
    ("small requests, per second", "small", "per_second"),
    ("p50, µs", "small", "p50_us"),
    ("p99, µs", "small", "p99_us"),
    ("CPU of the machine, µs each", "small", "cpu_us"),
    ("a connection each, per second", "connections", "per_second"),
    ("p99, µs", "connections", "p99_us"),
    ("CPU of the machine, µs each", "connections", "cpu_us"),
    ("bulk, Gbit/s", "bulk", "gbit_per_second"),
]


def table(rounds):
    """Medians of all rounds, and the median ratio to the same round's HAProxy."""
    lines = ["| | " + " | ".join(NAMES[way] for way in WAYS) + " | kernel : forwarding | kernel : HAProxy |"]
    lines.append("| --- |" + " --- |" * (len(WAYS) + 2))
    for title, workload, figure in FIGURES:
        values = {way: [one[way][workload][figure] for one in rounds] for way in WAYS}
        ratio = lambda to: statistics.median(a / b for a, b in zip(values["kernel"], values[to]) if b)
        cells = [f"{statistics.median(values[way]):,.4g}" if statistics.median(values[way]) < 100
                 else f"{statistics.median(values[way]):,.0f}" for way in WAYS]
        lines.append(f"| {title} | {' | '.join(cells)} | {ratio('forwarding'):.2f} | {ratio('haproxy'):.2f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pointsman", required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns")
    network()
    servers = [
        Process(inside(BACKEND, LOAD, "http", f"0.0.0.0:{WEB}")),
        Process(inside(BACKEND, "iperf3", "-s", "-p", BULK)),
    ]
    rounds = []
    with tempfile.TemporaryDirectory(prefix="pointsman-benchmarks-") as folder:
        for number in range(args.rounds):
            ways = WAYS[number % len(WAYS):] + WAYS[:number % len(WAYS)]
            rounds.append({way: measure(way, Path(folder), args.pointsman, args.seconds) for way in ways})
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
    for server in servers:
        server.stop()
    args.output.write_text(json.dumps({"rounds": rounds, "at": time.strftime("%Y-%m-%d")}, indent=1) + "\n")
    print(table(rounds))
    if any(one["kernel"][workload].get("errors") for one in rounds for workload in ("small", "connections")):
        sys.exit("there were errors through the kernel plane")


if __name__ == "__main__":
    main()
