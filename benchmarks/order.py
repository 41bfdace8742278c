#!/usr/bin/env python3
"""Counts how often a proxy swaps two connections on their way to the backend.

A client connects, sends a byte, connects again and sends another byte, with or without a pause between them; the
backend reports in which order it accepted them. Runs HAProxy and Pointsman alternately, with one thread and with two. Takes
half a minute; needs haproxy and the release build.

  python3 benchmarks/order.py [PAIRS]
"""
import queue
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

import proxies

GAPS_MS = [0, 0.2, 1]


def backend():
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    accepted = queue.Queue()

    def serve():
        while True:
            try:
                accepted.put(listener.accept()[0])
            except OSError:
                return

    threading.Thread(target=serve, daemon=True).start()
    return listener, accepted


def opened(address, byte):
    client = socket.create_connection(address, 5)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.send(byte)
    return client


def is_swapped(address, accepted, gap_ms):
    first = opened(address, b"1")
    until = time.perf_counter() + gap_ms / 1000
    while time.perf_counter() < until:
        pass  # a sleep would be longer
    second = opened(address, b"2")
    servers = [accepted.get(timeout=5) for _ in range(2)]
    servers[0].settimeout(5)
    swapped = servers[0].recv(1) == b"2"
    for end in (first, second, *servers):
        end.close()
    return swapped


def main():
    pairs = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    print(f"swapped of {pairs} pairs | " + " | ".join(f"{gap} ms between" for gap in GAPS_MS))
    for workers in (1, 2):
        for name in ("haproxy", "pointsman"):
            listener, accepted = backend()
            with listener, tempfile.TemporaryDirectory() as folder:
                host, port = listener.getsockname()
                address, process = proxies.start(name, [f"{host}:{port}"], workers, Path(folder))
                try:
                    # The backend may have received the probe that waited for the proxy.
                    time.sleep(0.5)
                    while not accepted.empty():
                        accepted.get().close()
                    counts = [sum(is_swapped(address, accepted, gap) for _ in range(pairs)) for gap in GAPS_MS]
                finally:
                    process.stop()
            print(f"{name}, {workers} {'thread' if workers == 1 else 'threads'} | " + " | ".join(map(str, counts)), flush=True)


if __name__ == "__main__":
    main()
