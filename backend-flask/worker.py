"""gunicorn's threaded worker with what a backend behind a balancer needs besides (gunicorn 27.0).

Its own threads wait up to five seconds for a client that has not sent its request yet, the loop that accepts waits
up to two for each client that does not close, and on SIGTERM it resets everyone who connected while its last
requests were running."""
import select
import socket
import time

from gunicorn import util
from gunicorn.workers import gthread

import app

# A thread waits so long for a request; after that the event loop does, and the thread serves others.
gthread.DEFAULT_WORKER_DATA_TIMEOUT = 0.1
# Who has connected before SIGTERM may take so long to send its request.
LINGER = 1


class Worker(gthread.ThreadWorker):
    def handle_exit(self, sig, frame):
        app.stopping.set()  # streams without an end must not outlast the requests
        super().handle_exit(sig, frame)

    def set_accept_enabled(self, enabled):
        super().set_accept_enabled(enabled)
        if not self.alive:  # its loop is over; gunicorn would close after the last running request
            gthread.DEFAULT_WORKER_DATA_TIMEOUT = LINGER
            for listener in self.sockets:
                self.close_listener(listener)
            for connection in self.pending_conns:
                connection.timeout = min(connection.timeout, time.monotonic() + LINGER)

    def close_listener(self, listener):
        """Serve whom the kernel has let in already, and close at once, so that others are refused and can go
        elsewhere. Closing resets whoever has connected and was not accepted, so newcomers are ignored first."""
        least_ttl(listener, 255)
        while select.select([listener], [], [], 0.05)[0]:  # handshakes under way come in
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
    """Ignore packets of a lesser time to live; 255 ignores newcomers (IP_MINTTL in ip(7), RFC 5082). Python's
    socket module has no names for the two options."""
    connection.setsockopt(socket.IPPROTO_IP, 21, ttl)
    if connection.family == socket.AF_INET6:
        connection.setsockopt(socket.IPPROTO_IPV6, 73, ttl)  # IPV6_MINHOPCOUNT


def close(connection, most=64 * 1024):
    """Close without waiting for the client to close too. What has arrived unread is thrown away, so that the
    close does not turn into a reset that overtakes the answer."""
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
