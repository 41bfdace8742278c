"""The number of replicas under a load that rises and falls, as a picture, with every request counted.

    target/benchmarks/venv/bin/python benchmarks/scaling.py      (benchmarks/run makes the venv)

Needs a Docker engine and the image backend-flask (`docker build -t backend-flask backend-flask`). Starts Pointsman beside
the engine with `replicas` and `autoscale`, sends it clients that keep their connections for some requests and clients
that open one for each, and writes scaling.json and scaling.svg. Takes two minutes; `--quick` one."""
import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from proxies import free_port

ROOT = Path(__file__).resolve().parent.parent
GROUP = "pointsman-benchmark-scaling"
TARGET = 10
CONFIG = """
runtime: {{workers: 1}}
log: {{connections: false}}
admin: {{bind: 127.0.0.1:{admin}}}
listeners:
  web: {{bind: 127.0.0.1:{web}, pool: web}}
pools:
  web:
    balance: least-connections
    health: {{http: /health, every: 500ms, timeout: 400ms, rise: 1, grace: 30s}}
    replicas:
      image: backend-flask
      port: 5000
      group: {group}
      min: 2
      max: 6
      autoscale: {{connections_per_backend: {target}, up_after: 3s, down_after: {down_after}, cooldown: 3s, step: 3}}
"""
SHORT = 4  # clients that open a connection for each request
REQUESTS = 20  # of a client on one connection
PAUSE = 0.1  # seconds between two of its requests
SAMPLE = 0.25  # seconds


def phases(quick):
    """Seconds and clients: few, many, few."""
    return [(8, 8), (25, 44), (30, 8)] if quick else [(15, 8), (45, 44), (60, 8)]


class Clients:
    """As many clients as are wanted now, each a task."""

    def __init__(self, port):
        self.port, self.tasks, self.short_ones, self.leaving = port, [], [], []
        self.served, self.lost = 0, []

    def want(self, n):
        while len(self.tasks) < n:
            stop = asyncio.Event()
            self.tasks.append((asyncio.create_task(self.client(stop, REQUESTS)), stop))
        while len(self.tasks) > n:
            task, stop = self.tasks.pop()
            stop.set()
            self.leaving.append(task)

    def short(self):
        stop = asyncio.Event()
        self.short_ones.append((asyncio.create_task(self.client(stop, 1)), stop))

    async def end(self):
        self.want(0)
        for task, stop in self.short_ones:
            stop.set()
            self.leaving.append(task)
        await asyncio.gather(*self.leaving)

    async def client(self, stop, requests):
        while not stop.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
            except OSError as e:
                self.lost.append(repr(e))
                await asyncio.sleep(PAUSE)
                continue
            try:
                for _ in range(requests):
                    if stop.is_set():
                        break
                    writer.write(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
                    fields = head.decode("latin-1").lower().split("\r\n")
                    length = next(int(f.split(":")[1]) for f in fields if f.startswith("content-length:"))
                    await asyncio.wait_for(reader.readexactly(length), 30)
                    if " 200 " not in fields[0] + " ":
                        raise OSError(fields[0])
                    self.served += 1
                    if "connection: close" in fields:
                        break
                    await asyncio.sleep(PAUSE)
            except (OSError, EOFError, asyncio.TimeoutError, StopIteration) as e:
                self.lost.append(repr(e))
            finally:
                writer.close()


def get(port, path):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
        return json.load(answer)


async def sample(port, began, samples):
    while True:
        status = (await asyncio.to_thread(get, port, "/api/v1/status"))["pools"][0]
        replicas = status["replicas"]
        samples.append(
            {
                "at": round(time.time() - began, 2),
                "open": sum(backend["active"] for backend in status["backends"]),
                "up": status["up"],
                "wanted": replicas["wanted"],
                "leaving": len(replicas["leaving"]),
            }
        )
        await asyncio.sleep(SAMPLE)


async def when_up(port, n):
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            if (await asyncio.to_thread(get, port, "/api/v1/status"))["pools"][0]["up"] == n:
                return
        except OSError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit(f"there were never {n} replicas up")


async def measure(web, admin, quick):
    await when_up(admin, 2)
    clients, samples, began = Clients(web), [], time.time()
    sampler = asyncio.create_task(sample(admin, began, samples))
    for _ in range(SHORT):
        clients.short()
    for seconds, n in phases(quick):
        clients.want(n)
        await asyncio.sleep(seconds)
    await clients.end()
    sampler.cancel()
    decisions = get(admin, "/api/v1/replicas")["pools"]["web"]["decisions"]
    keep = ("from", "to", "cause")
    decisions = [{"at": round(d["at"] - began, 2), **{k: d[k] for k in keep}} for d in decisions]
    return {"target": TARGET, "served": clients.served, "lost": clients.lost, "decisions": decisions, "samples": samples}


def remove_replicas():
    ids = subprocess.run(
        ["docker", "ps", "-aq", "--filter", f"label=pointsman.replicas={GROUP}"], capture_output=True, text=True, check=True
    ).stdout.split()
    if ids:
        subprocess.run(["docker", "rm", "-f", "-v", *ids], check=True, stdout=subprocess.DEVNULL)


def run(binary, quick):
    remove_replicas()
    web, admin = free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "pointsman.yaml"
        down_after = "6s" if quick else "15s"
        file.write_text(CONFIG.format(web=web, admin=admin, group=GROUP, target=TARGET, down_after=down_after))
        process = subprocess.Popen([binary, "run", "-c", file])
        try:
            return asyncio.run(measure(web, admin, quick))
        finally:
            process.terminate()
            process.wait()
            remove_replicas()


def draw(data, folder):
    import matplotlib.pyplot as plt

    from plots import COLOURS, save

    samples, target = data["samples"], data["target"]
    at = [s["at"] for s in samples]
    figure, axes = plt.subplots(figsize=(8, 3.2))
    axes.fill_between(at, [s["open"] for s in samples], color="#d0d0d0", label="open connections", linewidth=0)
    axes.plot(at, [s["up"] * target for s in samples], color="#4c78a8", linewidth=1, linestyle=":", label="what those up are to carry")
    axes.set_xlabel("seconds")
    axes.set_ylabel("connections")
    other = axes.twinx()
    other.spines["right"].set_visible(True)
    other.step(at, [s["wanted"] for s in samples], where="post", color=COLOURS["pointsman"], label="replicas")
    other.set_ylabel("replicas")
    top = max(max(s["open"] for s in samples), max(s["up"] for s in samples) * target) * 1.15
    axes.set_ylim(0, top)
    other.set_ylim(0, top / target)
    for decision in data["decisions"]:
        axes.axvline(decision["at"], color="#909090", linewidth=0.6)
        axes.annotate(f" {decision['from']} → {decision['to']}", (decision["at"], top * 0.95), fontsize=8)
    handles = [h for a in (axes, other) for h in a.get_legend_handles_labels()[0]]
    axes.legend(handles=handles, loc="upper right", fontsize=7, frameon=False, bbox_to_anchor=(1, 0.93))
    axes.set_title(f"{data['served']} requests, {len(data['lost'])} lost", fontsize=9)
    save(figure, folder, "scaling")


def judge(data):
    """What must hold: from two to five and back, no request lost, one turn."""
    ups = [d["to"] > d["from"] for d in data["decisions"]]
    turns = sum(before != after for before, after in zip(ups, ups[1:]))
    problems = [f"lost: {why}" for why in data["lost"]]
    if max(s["up"] for s in data["samples"]) < 5:
        problems.append("there were never five up")
    if data["samples"][-1]["wanted"] != 2:
        problems.append("in the end there were not two")
    if turns != 1:
        problems.append(f"it turned {turns} times")
    return problems


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=ROOT / "target/dist/pointsman")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    parser.add_argument("--quick", action="store_true", help="shorter")
    args = parser.parse_args()
    data = run(args.binary, args.quick)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "scaling.json").write_text(json.dumps(data, indent=1) + "\n")
    draw(data, args.out)
    for decision in data["decisions"]:
        print(f"{decision['at']:6.1f} s  {decision['from']} -> {decision['to']}  {decision['cause']}")
    print(f"{data['served']} requests served, {len(data['lost'])} lost")
    problems = judge(data)
    print("\n".join(problems))
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
