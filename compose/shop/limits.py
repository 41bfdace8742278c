"""Opens connections and sends requests faster than `per_client` allows, and prints what became of them.

    limits.py URL"""
import collections
import http.client
import json
import sys
import time
import urllib.parse

REQUESTS = 40


def on_own_connections(url):
    """What became of requests with a connection each."""
    outcomes = collections.Counter()
    sent = []
    for _ in range(REQUESTS):
        connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
        try:
            connection.request("GET", url.path)
            sent.append(connection)
        except OSError:
            outcomes["reset"] += 1
    for connection in sent:
        try:
            outcomes[str(connection.getresponse().status)] += 1
        except (OSError, http.client.HTTPException):
            outcomes["reset"] += 1
        finally:
            connection.close()
    return outcomes


def on_one_connection(url):
    """What became of requests on one connection, which is kept open."""
    connection = http.client.HTTPConnection(url.hostname, url.port, timeout=10)
    outcomes = collections.Counter()
    for _ in range(REQUESTS):
        connection.request("GET", url.path)
        answer = connection.getresponse()
        answer.read()
        outcomes[str(answer.status)] += 1
    connection.close()
    return outcomes


if __name__ == "__main__":
    url = urllib.parse.urlsplit(sys.argv[1])
    own = on_own_connections(url)
    time.sleep(1)  # the limit allows ten more connections
    one = on_one_connection(url)
    print(json.dumps({"a connection each": own, "one connection": one}))
