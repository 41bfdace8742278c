"""What Pointsman's options cost while they are on: each beside the same without it, with a new connection for each request."""
import ipaddress
from typing import NamedTuple

import proxies
from workloads import Small

class Comparison(NamedTuple):
    """A workload, and the balancers that get it; the first of them is the one without the option."""

    workload: Small
    variants: dict


# A connection for each request.
EACH = Small(64, close=True)
EACH_TLS = Small(64, close=True, kind="https")

READS_HEADERS = ", proxy_protocol: {trust: 127.0.0.0/8}"

# A thousand networks that no client of the benchmark comes from.
UNMATCHED = ", ".join(str(ipaddress.IPv4Address(0x0B000000 + (n << 12))) + "/24" for n in range(1000))

SOURCES = UNMATCHED.replace("/24", "/24: other")


def one(**options):
    """A balancer with these options."""
    return lambda backends, folder: proxies.start("pointsman", backends, 1, folder, **options)


class Chain:
    """Two balancers of which one connects to the other, measured together."""

    def __init__(self, front, back):
        self.both = (front, back)

    def cpu_seconds(self):
        return sum(process.cpu_seconds() for process in self.both)

    def stop(self):
        for process in self.both:
            process.stop()


def two(front="", back="", unix=False):
    """Two in a row, with a Unix socket between them or TCP; `front` are settings of the first one's pool, `back` of the
    second one's listener."""

    def start(backends, folder):
        socket = f"'unix:{folder}/between.sock'"
        also = f", {socket}" if unix else ""
        (host, port), second = proxies.start("pointsman", backends, 1, folder, bind=also, listener=back)
        try:
            between = socket if unix else f"{host}:{port}"
            address, first = proxies.start("pointsman", [between], 1, folder, pool=front)
        except BaseException:
            second.stop()
            raise
        return address, Chain(first, second)

    return start


def overflowing(backends, folder):
    """The first backend is always full, and the others are backups."""
    first, *others = backends
    listed = [f"{{address: '{first}', connections: 1}}", *(f"{{address: '{b}', backup: true}}" for b in others)]
    return proxies.start("pointsman", listed, 1, folder)


OPTIONS = {
    "everything logged": Comparison(EACH, {"pointsman, silent": one(), "pointsman, logging": one(logged=True)}),
    "options": Comparison(EACH, {
        "pointsman": one(),
        "with deny, 1,000 networks": one(listener=f", deny: [{UNMATCHED}]"),
        "with per_client": one(listener=", per_client: {connections: 100000, rate: 1000000/s}"),
        "with a bandwidth limit": one(listener=", bandwidth: {per_connection: 100GB/s, total: 100GB/s}"),
        "with connect.source": one(pool=", connect: {source: 127.0.0.1}"),
        "with backups for the overflow": overflowing,
        "with sources, 1,000 networks": one(to=f"sources: {{{SOURCES}}}, default: web"),
        "with two pools by shares": one(to="pool: {web: 3, other: 1}"),
        "with sni, clients without TLS": one(to="sni: {www.example.com: other}, default: web"),
    }),
    "replay": Comparison(EACH, {
        "replay: never": one(pool=", replay: never"),
        "replay: harmless": one(),
        "replay: always": one(pool=", replay: always"),
    }),
    "TLS passed through": Comparison(EACH_TLS, {
        "one pool": one(),
        "with sni": one(to="sni: {localhost: web, www.example.com: other}"),
        "with alpn and sni": one(to="alpn: {acme-tls/1: other}, sni: {localhost: web, www.example.com: other}"),
        "with a hash of the name": one(pool=", balance: maglev, hash: {key: sni}"),
    }),
    "Unix sockets": Comparison(EACH, {
        "two pointsman in a row": two(),
        "with a Unix socket between them": two(unix=True),
    }),
    "PROXY headers": Comparison(EACH, {
        "two pointsman in a row": two(),
        "with headers between them": two(", send_proxy_protocol: v2", READS_HEADERS),
    }),
    "PROXY headers, TLS": Comparison(EACH_TLS, {
        "two pointsman in a row": two(),
        "with authority and unique_id": two(
            ", send_proxy_protocol: {version: v2, authority: true, unique_id: true}", READS_HEADERS
        ),
    }),
}
