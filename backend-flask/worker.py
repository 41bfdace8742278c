"""gunicorn's threaded worker, adapted for a backend behind a balancer (gunicorn 27.0).

The original blocks a thread up to five seconds for a client that has not sent its request, blocks the accept loop up to
two seconds for a client that does not close, and on SIGTERM resets connections that arrive during its last requests."""
import select
import socket
import time

from gunicorn import util
from gunicorn.workers import gthread

import app

# A thread waits this long for a request, in seconds; then the event loop waits, and the thread serves other clients.
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1
# A client that connected before SIGTERM has this long to send its request, in seconds.
LINGER = 1


class Worker(gthread.ThreadWorker):
    def handle_exit(self, sig, frame):
        app.stopping.set()  # endless streams must not outlast the requests
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled):
        super().set_accept_enabled(enabled)
        if not self.alive:  # stopping: gunicorn would close only after the last request
            gthread.DEFAULT_WORKER_DATA_TIMEOUT = LINGER
            for listener in self.sockets:
                self.close_listener(listener)
            for connection in self.pending_conns:
                connection.timeout = min(connection.timeout, time.monotonic() + LINGER)

    def close_listener(self, listener):
        """Serve the connections that the kernel has accepted, then close, so that later clients are refused and can be
        retried elsewhere. Closing resets connections in the backlog, so new SYNs are dropped first."""
        least_ttl(listener, 255)
        while select.select([listener], [], [], 0.05)[0]:  # handshakes in progress complete
            connection, client = listener.accept()
            least_ttl(connection, 0)
            connection.setblocking(True)
            self.nr_conns += 1
            self.enqueue_req(gthread.TConn(self.cfg, connection, client, listener.getsockname()))
        listener.close()

    def finish_request(self, conn, fs):
        waited = not fs.cancelled() and fs.exception() is None and fs.result() is gthread._DEFER
        if waited and not self.alive and not getattr(conn, "last_chance", False):
            conn.last_chance = True
            self.enqueue_req(conn)
        else:
            super().finish_request(conn, fs)


def least_ttl(connection, ttl):
    """Drop packets with a smaller time to live; 255 drops new SYNs (IP_MINTTL in ip(7), RFC 5082). Python's socket
    module has no names for the two options."""
    connection.setsockopt(socket.IPPROTO_IP, 21, ttl)
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, 73, ttl)  # IPV6_MINHOPCOUNT


def close(connection, most=64 * 1024):
    """Close without waiting for the client to close. Unread data is discarded first, so that the close does not
    become a reset that overtakes the response."""
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.setblocking(False)
        while most > 0 and (data := connection.recv(4096)):
            most -= len(data)
    except OSError:
        pass
    finally:
        connection.close()


util.close_graceful = close
