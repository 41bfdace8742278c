"""System calls of each proxy per connection and per request, counted by strace."""
import re
import signal
import subprocess
import time

import proxies
from workloads import wrk

KINDS = {"connection": True, "request": False}


def count(backends, folder, seconds):
    """proxy → kind → system call → how often for each."""
    counts = {}
    for proxy in proxies.PROXIES[1:]:
        for kind, close in KINDS.items():
            address, process = proxies.start(proxy, backends.addresses("http", 8), 1, folder)
            output = folder / "strace"
            pids = [part for pid in process.pids() for part in ("-p", str(pid))]
            strace = subprocess.Popen(["strace", "-c", "-f", "-o", output, *pids], stderr=subprocess.DEVNULL)
            try:
                attached(process)
                done = wrk(address, 16, seconds, close)["requests"]
            finally:
                strace.send_signal(signal.SIGINT)
                strace.wait()
                process.stop()
            rows = re.findall(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", output.read_text(), re.M)
            per = {name: int(calls) / done for calls, name in rows if name != "total"}
            counts.setdefault(proxy, {})[kind] = {n: c for n, c in sorted(per.items()) if c >= 0.005}
            print(f"system calls per {kind:10} {proxy:10} {sum(per.values()):.2f}", flush=True)
    return counts


def attached(process):
    """Waits until every thread is traced."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        tasks = [task for pid in process.pids() for task in proxies.Path(f"/proc/{pid}/task").iterdir()]
        if all("TracerPid:\t0\n" not in (task / "status").read_text() for task in tasks):
            return
        time.sleep(0.02)
    raise SystemExit("strace could not attach")
