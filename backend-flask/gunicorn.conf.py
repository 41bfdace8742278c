"""How gunicorn runs the demo backend; it reads this file by itself from the working directory."""
import os
import signal
import socket

from gunicorn import util
from gunicorn.workers import gthread

import app

# One process, so that the request rate and the health switch are one truth; threads, because each
# event stream and each slow request holds one while it lasts.
workers = 1
worker_class = "gthread"
threads = int(os.environ.get("THREADS", "128"))
worker_connections = threads + 2000
keepalive = 75

# After SIGTERM running requests may finish; event streams are told to end. Docker kills after ten
# seconds unless `stop_grace_period` (or `docker stop -t`) says more.
graceful_timeout = int(os.environ.get("GRACEFUL_TIMEOUT", "30"))

# The heartbeat file of the worker: in memory, so that a read-only root filesystem is enough.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True


def _address():
    """Both families where the kernel has IPv6, else IPv4."""
    port = int(os.environ.get("PORT", "5000"))
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
        return f"[::]:{port}"
    except OSError:
        return f"0.0.0.0:{port}"


bind = os.environ.get("BIND") or _address()


def post_worker_init(worker):
    """Three corrections of gunicorn 27.0, whose threads otherwise wait for clients that say nothing."""
    # A new connection gives its thread back when no request follows at once (it was five seconds).
    gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1
    util.close_graceful = close
    graceful = signal.getsignal(signal.SIGTERM)

    def stop(signum, frame):
        # Streams without an end, and connections without a request, must not outlast the requests.
        app.stopping.set()
        for connection in worker.pending_conns:
            connection.timeout = 0
        graceful(signum, frame)

    signal.signal(signal.SIGTERM, stop)


def close(connection, most=64 * 1024):
    """Close without waiting for the client to close too: gunicorn does that, for up to two seconds, in the
    loop that accepts, so that one client would hold up everyone, health checks first. What has arrived
    unread is thrown away, so that the close does not turn into a reset that overtakes the answer."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.setblocking(False)
        while most > 0 and (data := connection.recv(4096)):
            most -= len(data)
    except OSError:
        pass
    finally:
        connection.close()
