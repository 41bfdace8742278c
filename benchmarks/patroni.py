"""Failover of PostgreSQL under Patroni: how long writers wait, through Pointsman and through HAProxy at the same time.

    benchmarks/patroni

Three servers of a Patroni cluster, each in a network namespace of its own, and etcd, all from Debian's packages (patroni,
etcd-server, haproxy). Writers and pgbench reach the primary through conf/patroni.yaml, and through the configuration that
Patroni's documentation recommends for HAProxy. Per round: a planned switch-over, the primary killed with all its processes,
the primary cut off from the network. Every acknowledged write must be on the primary afterwards, and none may have been
acknowledged by a server that was no longer primary. Writes results/patroni.json; about two minutes a round."""
import argparse
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import psycopg2

from proxies import POINTSMAN, ROOT

BIN = Path("/usr/lib/postgresql/15/bin")
ETCD = "10.77.0.1"
NODES = {"n1": "10.77.0.11", "n2": "10.77.0.12", "n3": "10.77.0.13"}
PORTS = {"pointsman": 6001, "haproxy": 6002}
WRITERS = 4  # through each proxy
PAUSE = 0.02  # seconds between two writes of a writer
LIMIT = 120  # seconds; no change of the primary takes so long
READ_ONLY = "25006"  # SQLSTATE of a write on a server that is no primary

PATRONI = """
scope: benchmark
name: {name}
restapi: {{listen: "{ip}:8008", connect_address: "{ip}:8008"}}
etcd3: {{host: "{etcd}:2379"}}
bootstrap:
  dcs: {{ttl: 20, loop_wait: 5, retry_timeout: 5, synchronous_mode: true, postgresql: {{use_pg_rewind: true}}}}
  initdb: [{{encoding: UTF8}}]
  pg_hba: [local all all trust, host all all 10.77.0.0/16 trust, host replication all 10.77.0.0/16 trust]
postgresql:
  listen: "{ip}:5432"
  connect_address: "{ip}:5432"
  data_dir: {folder}/data
  bin_dir: {bin}
  pgpass: {folder}/pgpass
  authentication:
    superuser: {{username: postgres, password: secret}}
    replication: {{username: replicator, password: secret}}
    rewind: {{username: rewinder, password: secret}}
  parameters: {{unix_socket_directories: {folder}, wal_log_hints: "on", max_connections: 200}}
"""

# https://patroni.readthedocs.io: the example haproxy.cfg of its source
HAPROXY = """
global
    maxconn 400
defaults
    mode tcp
    retries 2
    timeout client 30m
    timeout connect 4s
    timeout server 30m
    timeout check 5s
listen primary
    bind 127.0.0.1:{port}
    option httpchk OPTIONS /primary
    http-check expect status 200
    default-server inter 3s fall 3 rise 2 on-marked-down shutdown-sessions
{servers}
"""


def run(*command):
    subprocess.run([str(part) for part in command], check=True)


def until(what, condition):
    """Waits for a true value of `condition` and returns it."""
    deadline = time.monotonic() + LIMIT
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.1)
    sys.exit(f"it never came true: {what}")


def answers(url):
    """Whether the URL is answered with 200."""
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return answer.status == 200
    except OSError:
        return False


class Node:
    """A server of the cluster, with Patroni, in a network namespace."""

    def __init__(self, name, ip, folder):
        self.name, self.ip, self.folder = name, ip, folder
        folder.mkdir()
        (folder / "patroni.yaml").write_text(PATRONI.format(name=name, ip=ip, etcd=ETCD, folder=folder, bin=BIN))
        for path in (folder, folder / "patroni.yaml"):
            shutil.chown(path, "postgres")
        # The namespace exists as long as this process.
        self.holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        until("the namespace exists", lambda: os.readlink(f"/proc/{self.holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        run("ip", "link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", self.holder.pid)
        run("ip", "link", "set", name, "master", "bridge", "up")
        self.inside("ip", "link", "set", "lo", "up")
        self.inside("ip", "address", "add", f"{ip}/16", "dev", "eth0")
        self.inside("ip", "link", "set", "eth0", "up")

    def inside(self, *command):
        run("nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *command)

    def start(self):
        with open(self.folder / "patroni.log", "a") as log:
            user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]
            command = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *user, "patroni", self.folder / "patroni.yaml"]
            # Its processes must be able to enter the working directory.
            self.patroni = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder, start_new_session=True)

    def end(self):
        self.kill()
        self.holder.kill()

    def kill(self):
        """Kills all its processes: Patroni, PostgreSQL and its children."""
        namespace = os.readlink(f"/proc/{self.holder.pid}/ns/net")
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if int(process.name) != self.holder.pid and os.readlink(process / "ns/net") == namespace:
                    os.kill(int(process.name), signal.SIGKILL)
            except (FileNotFoundError, ProcessLookupError):
                pass
        self.patroni.wait()

    def cut_off(self):
        run("ip", "link", "set", self.name, "down")

    def connect(self):
        run("ip", "link", "set", self.name, "up")

    def is_primary(self):
        return answers(f"http://{self.ip}:8008/primary")

    def is_standby(self):
        """Whether it follows the primary without a delay that matters."""
        return answers(f"http://{self.ip}:8008/replica?lag=1MB")


class Cluster:
    def __init__(self, folder):
        self.nodes = [Node(name, ip, folder / name) for name, ip in NODES.items()]
        for node in self.nodes:
            node.start()
        until("there is a primary", self.primary)
        self.settle()

    def primary(self):
        found = [node for node in self.nodes if node.is_primary()]
        return found[0] if len(found) == 1 else None

    def settle(self):
        """Waits until there are a primary and two standbys, one of them synchronous."""
        def settled():
            primary = self.primary()
            return primary and sum(node.is_standby() for node in self.nodes) == 2 and self.synchronous(primary)
        until("all servers are back", settled)

    def synchronous(self, primary):
        with database(primary.ip, 5432) as cursor:
            cursor.execute("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'")
            return cursor.fetchone()[0] > 0


@contextmanager
def database(host, port):
    """A cursor on a connection that commits by itself."""
    connection = psycopg2.connect(host=host, port=port, user="postgres", dbname="postgres", connect_timeout=5)
    try:
        connection.autocommit = True
        yield connection.cursor()
    finally:
        connection.close()


class Writer(threading.Thread):
    """Writes a row, again and again, on one connection; connects anew after an error."""

    def __init__(self, proxy, number):
        super().__init__(daemon=True)
        self.proxy, self.number, self.ended = proxy, number, False
        self.written = []  # acknowledged: when, number of the row, address of the server
        self.read_only = []  # when a write went to a server that is no primary

    def run(self):
        row = 0
        while not self.ended:
            try:
                with database("127.0.0.1", PORTS[self.proxy]) as cursor:
                    while not self.ended:
                        row += 1
                        cursor.execute(
                            "INSERT INTO written VALUES (%s, %s, %s) RETURNING host(inet_server_addr())",
                            (self.proxy, self.number, row),
                        )
                        self.written.append((time.monotonic(), row, cursor.fetchone()[0]))
                        time.sleep(PAUSE)
            except psycopg2.Error as error:
                if error.pgcode == READ_ONLY:
                    self.read_only.append(time.monotonic())
                time.sleep(PAUSE)


def pgbench(proxy):
    """Load besides, through the proxy. pgbench ends when its connections break, and is started again."""
    command = [BIN / "pgbench", "-n", "-N", "-c", "4", "-R", "100", "-T", "3600", "-h", "127.0.0.1", "-p", str(PORTS[proxy]), "-U", "postgres", "postgres"]
    def again():
        while True:
            subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(0.2)
    threading.Thread(target=again, daemon=True).start()


def start_proxies(folder, pointsman):
    config = (ROOT / "conf/patroni.yaml").read_text()
    servers = ", ".join(f"{ip}:5432" for ip in NODES.values())
    config, found = re.subn(r'\{dns: "[^"]*"\}', f"{{static: [{servers}]}}", config)
    assert found == 2, "conf/patroni.yaml has changed"
    config = config.replace("0.0.0.0:5432", f"127.0.0.1:{PORTS['pointsman']}").replace("0.0.0.0:5433", "127.0.0.1:6003")
    (folder / "pointsman.yaml").write_text(config)
    servers = "".join(f"    server {name} {ip}:5432 maxconn 100 check port 8008\n" for name, ip in NODES.items())
    (folder / "haproxy.cfg").write_text(HAPROXY.format(port=PORTS["haproxy"], servers=servers))
    with open(folder / "pointsman.log", "w") as log:
        subprocess.Popen([pointsman, "run", "-c", folder / "pointsman.yaml"], cwd=folder, stdout=log, stderr=log)
    subprocess.Popen(["haproxy", "-db", "-f", folder / "haproxy.cfg"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def switch_over(cluster, primary):
    body = json.dumps({"leader": primary.name, "candidate": synchronous_name(primary)}).encode()
    request = urllib.request.Request(f"http://{primary.ip}:8008/switchover", body, {"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=LIMIT).read()
    except urllib.error.HTTPError as error:
        sys.exit(f"Patroni refuses to switch over: {error.read().decode()}")


def synchronous_name(primary):
    with database(primary.ip, 5432) as cursor:
        cursor.execute("SELECT application_name FROM pg_stat_replication WHERE sync_state = 'sync'")
        return cursor.fetchone()[0]


FAULTS = {
    "switch-over": (switch_over, lambda node: None),
    "primary killed": (lambda cluster, primary: primary.kill(), Node.start),
    "primary cut off": (lambda cluster, primary: primary.cut_off(), Node.connect),
}


def measure(cluster, writers, fault, mend):
    """Causes the fault. Returns for each proxy what its writers saw."""
    old = cluster.primary()
    time.sleep(3)
    began = time.monotonic()
    fault(cluster, old)
    new = until("there is a new primary", lambda: next((n for n in cluster.nodes if n is not old and n.is_primary()), None))
    def writes_again(writer):
        return writer.written and writer.written[-1][2] == new.ip
    until("every writer writes again", lambda: all(map(writes_again, writers)))
    time.sleep(2)
    ended = time.monotonic()
    mend(old)
    cluster.settle()
    seen = {}
    for proxy in PORTS:
        own = [writer for writer in writers if writer.proxy == proxy]
        to_new = [min(at for at, _, server in writer.written if server == new.ip and at > began) for writer in own]
        last = max(at for writer in own for at, _, server in writer.written if server == old.ip and at < ended)
        seen[proxy] = {
            "outage": min(to_new) - last,  # seconds without a write through this proxy
            "all": max(to_new) - last,  # until the last writer writes again
            "read_only": sum(began < at < ended for writer in own for at in writer.read_only),
        }
    first = min(at for writer in writers for at, _, server in writer.written if server == new.ip and at > began)
    late = [w.proxy for w in writers for at, _, server in w.written if server == old.ip and first < at < ended]
    if late:
        sys.exit(f"{len(late)} writes were acknowledged by the former primary, through {set(late)}")
    return seen


def check_rows(cluster, writers):
    """All acknowledged writes must be there."""
    with database(cluster.primary().ip, 5432) as cursor:
        cursor.execute("SELECT proxy, writer, row FROM written")
        present = set(cursor.fetchall())
    lost = [(w.proxy, w.number, row) for w in writers for _, row, _ in w.written if (w.proxy, w.number, row) not in present]
    if lost:
        sys.exit(f"{len(lost)} acknowledged writes are lost, among them {lost[:3]}")
    return sum(len(writer.written) for writer in writers)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pointsman", type=Path, default=POINTSMAN)
    parser.add_argument("--output", type=Path, help="the JSON file; without it, nothing is written")
    arguments = parser.parse_args()
    run("ip", "link", "set", "lo", "up")
    run("ip", "link", "add", "bridge", "type", "bridge")
    run("ip", "address", "add", f"{ETCD}/16", "dev", "bridge")
    run("ip", "link", "set", "bridge", "up")
    with tempfile.TemporaryDirectory(prefix="pointsman-patroni-") as folder:
        folder = Path(folder)
        folder.chmod(0o755)
        urls = [f"--listen-client-urls=http://{ETCD}:2379", f"--advertise-client-urls=http://{ETCD}:2379"]
        peers = ["--listen-peer-urls=http://127.0.0.1:2380"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["etcd", f"--data-dir={folder}/etcd", *urls, *peers], **quiet)
        until("etcd answers", lambda: answers(f"http://{ETCD}:2379/health"))
        cluster = Cluster(folder)
        start_proxies(folder, arguments.pointsman.resolve())
        with database(cluster.primary().ip, 5432) as cursor:
            cursor.execute("CREATE TABLE written (proxy text, writer int, row int)")
        run(BIN / "pgbench", "-q", "-i", "-h", cluster.primary().ip, "-U", "postgres", "postgres")
        writers = [Writer(proxy, number) for proxy in PORTS for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        until("every writer writes", lambda: all(writer.written for writer in writers))
        for proxy in PORTS:
            pgbench(proxy)
        results = []
        for number in range(arguments.rounds):
            for name, (fault, mend) in FAULTS.items():
                seen = measure(cluster, writers, fault, mend)
                results.append({"round": number, "fault": name, **seen})
                print(json.dumps(results[-1]), flush=True)
        for writer in writers:
            writer.ended = True
        for writer in writers:
            writer.join(LIMIT)
        rows = check_rows(cluster, writers)
        for node in cluster.nodes:
            node.end()
        print(f"{rows} acknowledged writes, none lost, none on a former primary")
        table(results)
        if arguments.output:
            arguments.output.write_text(json.dumps({"writes": rows, "faults": results}, indent=1) + "\n")


def table(results):
    """Medians over the rounds, as Markdown."""
    print("\n| fault | seconds without a write: Pointsman | HAProxy | until all write again: Pointsman | HAProxy | writes refused as read-only: Pointsman | HAProxy |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for fault in FAULTS:
        own = [result for result in results if result["fault"] == fault]
        cells = [f"{statistics.median(r[proxy][key] for r in own):.1f}" for key in ("outage", "all", "read_only") for proxy in PORTS]
        print("| " + " | ".join([fault, *cells]) + " |")


main()
