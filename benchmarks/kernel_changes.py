"""What a change of a pool costs while the kernel forwards (`plane: kernel`): the time from an operator's request until the last
rule of the change is in the kernel, under a load of a connection for each request, in which none may fail.

    benchmarks/kernel_plane --changes

One backend machine has all backends' addresses. `maglev` has 65,537 slots, and 262,147 with more than 655 backends."""
import argparse
import json
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from kernel_plane import BACKEND, BALANCER, FRONT, SERVER, WEB, in_client, inside, network, sh
from proxies import LOAD, Process

LISTENER, ADMIN = 7001, 7900
# A change has ended when nothing has changed for this time, in seconds.
QUIET = 1.5
# A change that has not begun by then is lost, in seconds.
LIMIT = 10
CHANGES = 5
CASES = [("round-robin", 10), ("round-robin", 1000), ("round-robin", 10_000), ("maglev", 10), ("maglev", 1000)]

POINTSMAN = """
runtime: {{workers: 2}}
log: {{level: warn, connections: false}}
admin: {{bind: 127.0.0.1:{admin}}}
listeners: {{web: {{bind: {front}:{listener}, pool: web, plane: kernel}}}}
pools: {{web: {{balance: {balance}, discover: [{{static: [{backends}]}}]}}}}
"""


def generations():
    """Prints the time of each change of any rule in this network namespace: `NFT_MSG_GETGEN` of subsystem 10
    (linux/netfilter/nf_tables.h) asks for the number of the last one."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
    netlink.bind((0, 0))
    request = struct.pack("=IHHII", 20, 10 << 8 | 16, 1, 0, 0) + bytes(4)
    before = None
    while True:
        netlink.send(request)
        # A header of 16 bytes, one of 4, and the number as the first attribute.
        number = netlink.recv(4096)[24:28]
        if number != before:
            print(time.time(), flush=True)
            before = number
        time.sleep(0.001)


class Generations:
    """The times of changes in the balancer's namespace, as they come."""

    def __init__(self):
        code = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import kernel_changes as k; k.generations()"
        self.times = []
        self.process = subprocess.Popen(inside(BALANCER, sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
        threading.Thread(target=lambda: self.times.extend(map(float, self.process.stdout)), daemon=True).start()

    def after(self, moment):
        """Those after that moment, when it is quiet again; none: nothing changes."""
        found = []
        while time.time() - max([moment, *found]) < (QUIET if found else LIMIT):
            time.sleep(0.05)
            found = [at for at in self.times if at > moment]
        return found


def curl(*arguments):
    return subprocess.run(inside(BALANCER, "curl", "-sf", "-o", "/dev/null", *arguments)).returncode == 0


def set_state(state):
    header = "Content-Type: application/json"
    url = f"http://127.0.0.1:{ADMIN}/api/v1/pools/web/backends/b3"
    if not curl("-X", "PATCH", "-H", header, "-d", json.dumps({"state": state}), url):
        sys.exit(f"the backend cannot be set to {state}")


def measure(balance, count, folder, pointsman):
    backends = ", ".join(f"{{address: '10.80.{n // 250}.{n % 250 + 1}:{WEB}', name: b{n}}}" for n in range(count))
    file = folder / "pointsman.yaml"
    file.write_text(POINTSMAN.format(admin=ADMIN, front=FRONT, listener=LISTENER, balance=balance, backends=backends))
    generations = Generations()
    began = time.time()
    process = Process(inside(BALANCER, pointsman, "run", "-c", file), cwd=folder)
    try:
        while not curl(f"http://127.0.0.1:{ADMIN}/ready"):
            time.sleep(0.05)
        in_client("reach", FRONT, LISTENER)
        first = generations.after(began)
        seconds = []
        load = {}
        work = lambda: load.update(in_client("requests", FRONT, LISTENER, CHANGES * (QUIET + 1) + 2, True))
        loading = threading.Thread(target=work)
        loading.start()
        transactions = []
        for n in range(CHANGES):
            moment = time.time()
            set_state("up" if n % 2 else "draining")
            changes = generations.after(moment)
            if not changes:
                sys.exit("a change has not reached the kernel")
            seconds.append(changes[-1] - moment)
            transactions.append(len(changes))
        loading.join()
        return {
            "balance": balance,
            "backends": count,
            "first_table_seconds": first[-1] - began,
            "change_ms": statistics.median(seconds) * 1000,
            "longest_change_ms": max(seconds) * 1000,
            "transactions": statistics.median(transactions),
            "per_second": load["per_second"],
            "errors": load["errors"],
        }
    finally:
        process.process.terminate()
        process.process.wait(60)
        generations.process.kill()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pointsman", required=True)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    sh("mount -t tmpfs tmpfs /run && mkdir -p /run/netns")
    network()
    sh(f"ip -n {BACKEND} route add local 10.80.0.0/15 dev lo && ip -n {BALANCER} route add 10.80.0.0/15 via {SERVER}")
    server = Process(inside(BACKEND, LOAD, "http", f"0.0.0.0:{WEB}"))
    results = []
    print("| `balance` | backends | first table, s | a change, ms | the longest, ms | transactions | requests per second, with a connection each |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(prefix="pointsman-benchmarks-") as folder:
        for balance, count in CASES:
            one = measure(balance, count, Path(folder), args.pointsman)
            results.append(one)
            print(f"| {balance} | {count:,} | {one['first_table_seconds']:.2f} | {one['change_ms']:.0f} | "
                  f"{one['longest_change_ms']:.0f} | {one['transactions']:.0f} | {one['per_second']:,.0f} |", flush=True)
    server.stop()
    args.output.write_text(json.dumps({"cases": results, "at": time.strftime("%Y-%m-%d")}, indent=1) + "\n")
    if any(one["errors"] for one in results):
        sys.exit("requests have failed while the rules were changed")


if __name__ == "__main__":
    main()
