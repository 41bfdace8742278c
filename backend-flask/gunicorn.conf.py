"""The gunicorn configuration of the demo backend, read from the working directory."""
import os
import socket

# One process, so that all requests share the rate and the health switch; threads, because each event stream and each
# slow request occupies one.
workers = 1
worker_class = "worker.Worker"  # worker.py
threads = int(os.environ.get("THREADS", "128"))
worker_connections = threads + 2000
keepalive = 75

# After SIGTERM, requests in progress finish and event streams end. Docker kills after ten seconds unless
# `stop_grace_period` (or `docker stop -t`) is longer.
graceful_timeout = int(os.environ.get("GRACEFUL_TIMEOUT", "30"))

# The worker's heartbeat file in memory, for a read-only root filesystem.
worker_tmp_dir = "/dev/shm"
control_socket_disable = True


def _address():
    """Both families if the kernel has IPv6, otherwise IPv4."""
    port = int(os.environ.get("PORT", "5000"))
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::", 0))
        return f"[::]:{port}"
    except OSError:
        return f"0.0.0.0:{port}"


bind = os.environ.get("BIND") or _address()
