"""gunicorn's configuration for the API and the admin panel, read from the working directory."""
import os

bind = os.environ.get("BIND", "0.0.0.0:5000")
workers = 1
threads = 16
worker_class = "gthread"
worker_tmp_dir = "/dev/shm"
control_socket_disable = True
graceful_timeout = 30


def post_worker_init(worker):
    """Starts the background work of the application, in the process that serves it."""
    start = getattr(worker.wsgi, "start_background_work", None)
    if start:
        start()
