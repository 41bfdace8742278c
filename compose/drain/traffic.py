"""Sends short and long requests through Pointsman, each on a connection of its own, terminates Pointsman in
the middle of them, and accounts for every connection. Exits with 0 when none was cut.

Standard library only. See compose/drain.yaml."""
import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

HOST, PORT = "pointsman", 8080
TERM_AFTER = float(os.environ.get("TERM_AFTER", "5"))
SHORT_PER_SECOND = float(os.environ.get("SHORT_PER_SECOND", "20"))
LONG_PER_SECOND = float(os.environ.get("LONG_PER_SECOND", "2"))
GO_ON_FOR = 3.0  # seconds after SIGTERM in which requests are still tried, to see them refused
GIVE_UP = 60.0  # seconds for one connection: longer than any request and the whole drain

SHORT = ["/"]
LONG = ["/slow?seconds=5", "/stream?bytes=4000000&seconds=8"]
RUNNING, FINISHED, CUT, REFUSED, FAILED = "running", "finished", "cut", "refused", "failed"


@dataclass
class Connection:
    path: str
    kind: str
    outcome: str = RUNNING
    answered: float = 0.0  # when the connect succeeded or failed
    ended: float = 0.0
    detail: str = ""

    async def run(self, address):
        try:
            reader, writer = await asyncio.wait_for(asyncio.open_connection(address, PORT), 5)
        except (OSError, asyncio.TimeoutError) as e:
            self.answered = time.monotonic()
            return self.end(REFUSED, repr(e))
        self.answered = time.monotonic()
        try:
            request = f"GET {self.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n"
            writer.write(request.encode())
            answer = await asyncio.wait_for(reader.read(-1), GIVE_UP)
            self.end(*judge(self.path, answer))
        except (OSError, asyncio.TimeoutError) as e:
            self.end(CUT, repr(e))
        finally:
            writer.close()

    def end(self, outcome, detail=""):
        self.outcome, self.detail, self.ended = outcome, detail, time.monotonic()


def judge(path, answer):
    """Whether the response is complete: all announced bytes, and, of a stream, the right ones."""
    head, _, body = answer.partition(b"\r\n\r\n")
    status, *fields = head.decode("latin-1").split("\r\n")
    length = [int(f.split(":")[1]) for f in fields if f.lower().startswith("content-length:")]
    if not length or len(body) != length[0]:
        return CUT, f"{len(body)} bytes of {length[0] if length else 'an unknown number'}"
    if " 200 " not in status:
        return FAILED, status
    if path.startswith("/stream") and body != (bytes(range(251)) * (len(body) // 251 + 1))[: len(body)]:
        return FAILED, "wrong bytes"
    return FINISHED, ""


def pointsman():
    """The process id of Pointsman, or None."""
    for comm in Path("/proc").glob("[0-9]*/comm"):
        try:
            if comm.read_text().strip() == "pointsman":
                return int(comm.parent.name)
        except OSError:
            pass
    return None


async def ready():
    """The address of Pointsman, once a request through it is answered."""
    deadline = time.monotonic() + 60
    while True:
        probe = Connection("/", "probe")
        await probe.run(HOST)
        if probe.outcome == FINISHED:
            info = await asyncio.get_running_loop().getaddrinfo(HOST, PORT)
            return info[0][4][0]
        if time.monotonic() > deadline:
            sys.exit(f"no request gets through Pointsman: {probe.outcome}, {probe.detail}")
        await asyncio.sleep(0.2)


class Show:
    def __init__(self, address, process):
        self.address, self.process = address, process
        self.start = time.monotonic()
        self.signalled = None
        self.gone = None
        self.connections = []
        self.tasks = []

    def say(self, words):
        print(f"{time.monotonic() - self.start:6.1f} s  {words}")

    async def run(self):
        self.say(f"{SHORT_PER_SECOND:g} short and {LONG_PER_SECOND:g} long requests a second, each on a new connection")
        senders = [
            asyncio.create_task(self.send("short", SHORT, SHORT_PER_SECOND)),
            asyncio.create_task(self.send("long", LONG, LONG_PER_SECOND)),
        ]
        await asyncio.sleep(TERM_AFTER)
        running = self.count(outcome=RUNNING)
        os.kill(self.process, signal.SIGTERM)
        self.signalled = time.monotonic()
        self.say(f"SIGTERM sent to Pointsman, {running} connections running")
        watch = asyncio.create_task(self.watch())
        await asyncio.gather(*senders)
        await asyncio.gather(*self.tasks)
        self.say("every connection has ended")
        await watch
        return self.account()

    async def send(self, kind, paths, per_second):
        n = 0
        while self.signalled is None or time.monotonic() < self.signalled + GO_ON_FOR:
            connection = Connection(paths[n % len(paths)], kind)
            self.connections.append(connection)
            self.tasks.append(asyncio.create_task(connection.run(self.address)))
            n += 1
            await asyncio.sleep(1 / per_second)

    async def watch(self):
        """Waits for Pointsman's process to end."""
        deadline = time.monotonic() + GIVE_UP
        while Path(f"/proc/{self.process}").exists():
            if time.monotonic() > deadline:
                self.say("Pointsman has not ended")
                return
            await asyncio.sleep(0.02)
        self.gone = time.monotonic()
        self.say(f"Pointsman ended, {self.gone - self.signalled:.1f} s after SIGTERM")

    def count(self, **wanted):
        return sum(all(getattr(c, k) == v for k, v in wanted.items()) for c in self.connections)

    def account(self):
        before = [c for c in self.connections if c.answered < self.signalled]
        after = [c for c in self.connections if c.answered >= self.signalled]
        running = [c for c in before if c.ended >= self.signalled]

        print(f"\n{'':28}{'accepted':>10}{'finished':>10}{'cut':>10}{'failed':>10}{'refused':>10}")
        for name, group in [("before SIGTERM", before), ("  running at SIGTERM", running), ("after SIGTERM", after)]:
            for kind in ("short", "long"):
                line = tally([c for c in group if c.kind == kind])
                print(f"{name + ', ' + kind:28}" + "".join(f"{line[k]:10}" for k in line))
        for c in self.connections:
            if c.outcome in (CUT, FAILED) or c.outcome == REFUSED and c.answered < self.signalled:
                print(f"{c.outcome}: {c.path} at {c.ended - self.start:.2f} s: {c.detail}")

        total = tally(self.connections)
        early = tally(before)["refused"]
        good = (
            not (total["cut"] or total["failed"] or early)
            and tally(running)["finished"] > 0
            and tally(after)["refused"] > 0
            and self.gone is not None
        )
        drained = self.gone and round(self.gone - self.signalled, 2)
        print(json.dumps({**total, "refused_before_sigterm": early, "running_at_sigterm": len(running), "drain_seconds": drained, "ok": good}))
        return good


def tally(group):
    counts = {outcome: sum(c.outcome == outcome for c in group) for outcome in (FINISHED, CUT, FAILED, REFUSED)}
    return {"accepted": len(group) - counts[REFUSED], **counts}


async def main():
    address = await ready()
    process = pointsman()
    if process is None:
        sys.exit("no process named pointsman is to be seen; is `pid` in compose/drain.yaml as it was?")
    return await Show(address, process).run()


if __name__ == "__main__":
    sys.exit(0 if asyncio.run(main()) else 1)
