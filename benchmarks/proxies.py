"""The compared proxies, each started as its manual recommends for raw TCP."""
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
POINTSMAN = ROOT / "target/dist/pointsman"
LOAD = ROOT / "target/load/release/load"
PROXIES = ["none", "haproxy", "nginx", "pointsman"]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(address, what):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(address, 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    sys.exit(f"{what} does not listen on {address[0]}:{address[1]}")


class Process:
    """A process with the threads and children that it has."""

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
        """CPU time of all its threads, to the nanosecond (schedstat in proc(5))."""
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

    def files(self):
        """Its open files."""
        return [os.readlink(file) for pid in self.pids() for file in Path(f"/proc/{pid}/fd").iterdir()]

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


def start(name, backends, workers, folder, **options):
    """A proxy in front of `backends`: the address to connect to, and the process (None without a proxy). The options
    are for Pointsman alone."""
    if name == "none":
        host, port = backends[0].split(":")
        return (host, int(port)), None
    port = free_port()
    if name == "pointsman":
        process = pointsman(port, backends, workers, folder, **options)
    else:
        process = {"haproxy": haproxy, "nginx": nginx}[name](port, backends, workers, folder)
    wait_for(("127.0.0.1", port), name)
    return ("127.0.0.1", port), process


def haproxy(port, backends, workers, folder):
    servers = "\n".join(f"  server s{n} {b}" for n, b in enumerate(backends))
    file = folder / "haproxy.cfg"
    file.write_text(
        f"global\n  nbthread {workers}\n  maxconn 9300\n  maxpipes 300\n"
        "defaults\n  mode tcp\n  balance roundrobin\n  option splice-auto\n"
        "  timeout connect 1s\n  timeout client 1h\n  timeout server 1h\n"
        f"listen web\n  bind 127.0.0.1:{port} backlog 4096\n{servers}\n"
    )
    return Process(["haproxy", "-db", "-f", file])


def nginx(port, backends, workers, folder):
    module = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    load = f"load_module {module};\n" if module.exists() else ""
    servers = "".join(f"server {b};" for b in backends)
    file = folder / "nginx.conf"
    file.write_text(
        f"{load}daemon off;\nworker_processes {workers};\nworker_rlimit_nofile 20000;\n"
        f"pid {folder}/nginx.pid;\nerror_log /dev/null;\nevents {{ worker_connections 19000; }}\n"
        f"stream {{ access_log off; upstream web {{ {servers} }}\n"
        f"server {{ listen 127.0.0.1:{port} reuseport backlog=4096; proxy_pass web; proxy_timeout 1h; }} }}\n"
    )
    return Nginx(["nginx", "-c", file, "-p", folder])


def https(port, folder):
    """A web server with TLS and a certificate of its own."""
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=CA:FALSE"]
    files = ["-keyout", folder / "key.pem", "-out", folder / "cert.pem"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run(["openssl", "req", "-x509", *curve, *names, *files], check=True, capture_output=True)
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off;\npid {folder}/nginx.pid;\nerror_log /dev/null;\nevents {{ worker_connections 9000; }}\n"
        f"http {{ access_log off; server {{ listen 0.0.0.0:{port} ssl backlog=4096;\n"
        f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; ssl_session_tickets off;\n"
        f"location / {{ return 200 hello; }} }} }}\n"
    )
    return Nginx(["nginx", "-c", file, "-p", folder])


def pointsman(port, backends, workers, folder, logged=False, busy_poll="off", to="pool: web", bind="", listener="", pool=""):
    """`to` is how the listener chooses the pool, `bind` further addresses of the listener; `listener` and `pool` are further
    settings of the two, as YAML."""
    log = f"{{level: info, directory: {folder}}}" if logged else "{level: warn, connections: false}"
    other = "  other: *web\n" if "other" in to else ""
    file = folder / f"pointsman-{port}.yaml"
    file.write_text(
        f"runtime: {{workers: {workers}, busy_poll: {busy_poll}}}\nlog: {log}\n"
        f"listeners: {{web: {{bind: [127.0.0.1:{port}{bind}], {to}{listener}}}}}\n"
        f"pools:\n  web: &web {{discover: [{{static: [{', '.join(backends)}]}}]{pool}}}\n{other}"
    )
    return Process([POINTSMAN, "run", "-c", file], cwd=folder)


class Backends:
    """The backends of every workload, of each kind one process."""

    def __enter__(self):
        self.ports = {kind: free_port() for kind in ("http", "source", "echo", "iperf3", "https")}
        # On every address of 127.0.0.0/8, for any number of backends, and enough ports.
        commands = {kind: [LOAD, kind, f"0.0.0.0:{self.ports[kind]}"] for kind in ("http", "source", "echo")}
        commands["iperf3"] = ["iperf3", "-s", "-p", self.ports["iperf3"]]
        self.processes = [Process(command) for command in commands.values()]
        self.folder = tempfile.TemporaryDirectory(prefix="pointsman-benchmarks-tls-")
        self.processes.append(https(self.ports["https"], Path(self.folder.name)))
        for kind, port in self.ports.items():
            wait_for(("127.0.0.1", port), f"the backend {kind}")
        return self

    def __exit__(self, *_):
        for process in self.processes:
            process.stop()
        self.folder.cleanup()

    def addresses(self, kind, count):
        port = self.ports[kind]
        return [f"127.1.{n // 250}.{n % 250 + 1}:{port}" for n in range(count)]
