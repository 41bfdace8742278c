"""Places orders, one after the other, and counts what a customer sees.

    customer.py URL [--orders N] [--pause SECONDS] [--confirmed-within SECONDS]

Orders are placed at URL/orders, each on a new connection, as by a new customer, and with an Idempotency-Key. If a connection
breaks before the answer, the order is repeated once with the same key (counted as repeated); what fails twice, or is
answered with an error, is counted as failed. SIGTERM ends it before the last order. The last line is the account as JSON;
the exit code is 0 if nothing failed and workers have confirmed all orders."""
import argparse
import http.client
import json
import signal
import sys
import threading
import time
import urllib.parse
import uuid


def request(url, method, path, body=None, key=None):
    """The status and the answer to one request on a connection of its own."""
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=20)
    headers = {"Content-Type": "application/json"} | ({"Idempotency-Key": key} if key else {})
    try:
        connection.request(method, url.path + path, body and json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class Account:
    def __init__(self):
        self.placed, self.repeated, self.failed = [], [], []
        self.last, self.longest_gap = time.monotonic(), 0.0

    def succeeded(self, order):
        self.placed.append(order)
        now = time.monotonic()
        self.longest_gap = max(self.longest_gap, now - self.last)
        self.last = now

    def place(self, url):
        """Places an order."""
        order = {"customer": 1, "items": [{"product": 1, "quantity": 1}, {"product": 2, "quantity": 2}]}
        key, problem = str(uuid.uuid4()), None
        for attempt in range(2):
            try:
                status, answer = request(url, "POST", "/orders", order, key)
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
                if attempt == 0:
                    self.repeated.append(f"{time.strftime('%H:%M:%S')} {problem}")
                continue
            if status in (200, 201):
                self.succeeded(json.loads(answer)["id"])
                return
            problem = f"status {status}: {answer[:200].decode(errors='replace')}"
            break
        self.failed.append(problem)


def status_of(connection, url, number):
    """The status of an order, or None without an answer."""
    try:
        connection.request("GET", f"{url.path}/orders/{number}")
        answer = connection.getresponse()
        body = answer.read()
    except (OSError, http.client.HTTPException):
        connection.close()  # the next request opens it again
        return None
    return json.loads(body)["status"] if answer.status == 200 else None


def unconfirmed(url, orders, deadline):
    """Those of the orders that no worker has confirmed, all asked for on one connection. If there is no answer after the
    deadline, none of the rest is."""
    connection = http.client.HTTPConnection(url.hostname, url.port or 80, timeout=20)
    left = []
    for position, number in enumerate(orders):
        status = status_of(connection, url, number)
        if status is None and time.monotonic() > deadline:
            left += orders[position:]
            break
        if status != "confirmed":
            left.append(number)
    connection.close()
    return left


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--orders", type=int, default=100)
    parser.add_argument("--pause", type=float, default=0.05, help="seconds between two orders")
    parser.add_argument("--confirmed-within", type=float, default=60, help="seconds in which all must be confirmed")
    options = parser.parse_args()
    url = urllib.parse.urlsplit(options.url)
    account = Account()
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    for _ in range(options.orders):
        account.place(url)
        if ended.wait(options.pause):
            break
    deadline, left = time.monotonic() + options.confirmed_within, account.placed
    while (left := unconfirmed(url, left, deadline)) and time.monotonic() < deadline:
        time.sleep(0.5)
    for problem in account.repeated[:5]:
        print("repeated:", problem, file=sys.stderr)
    for problem in account.failed[:5]:
        print("failed:", problem, file=sys.stderr)
    print(json.dumps({
        "placed": len(account.placed), "repeated": len(account.repeated), "failed": len(account.failed),
        "unconfirmed": len(left), "longest_gap_seconds": round(account.longest_gap, 2),
    }))
    return 1 if account.failed or left else 0


if __name__ == "__main__":
    sys.exit(main())
