"""How gunicorn runs the demo backend; it reads this file by itself from the working directory."""
import os
import socket

# One process, so that the request rate and the health switch are one truth; threads, because each
# event stream and each slow request holds one while it lasts.
workers = 1
worker_class = "worker.Worker"  # worker.py
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
