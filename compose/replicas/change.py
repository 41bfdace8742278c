"""Lists, adds and removes Pointsman's replicas: `list`, `add N [NAME...]`, `remove N [NAME...]`.

Standard library only. See compose/replicas.yaml."""
import json
import sys
import time
import urllib.error
import urllib.request

ADMIN = "http://127.0.0.1:9900"
PATIENCE = 20  # seconds for Pointsman to be there: it may just be starting
REQUESTS = {"list": ("GET", "/rep"), "add": ("POST", "/add"), "remove": ("DELETE", "/rm")}


def ask(method, path, body):
    headers = {"Content-Type": "application/json"} if body else {}
    request = urllib.request.Request(ADMIN + path, data=body, headers=headers, method=method)
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(request, timeout=200) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as e:
            return e.code, json.load(e)
        except urllib.error.URLError as e:
            # Retry only if the connect failed: a change must not be made twice.
            if not isinstance(e.reason, ConnectionRefusedError) or time.monotonic() > until:
                raise SystemExit(f"Pointsman cannot be asked: {e.reason}")
            time.sleep(0.2)


def main(what="list", n=None, *names):
    if what not in REQUESTS or (n is None) != (what == "list") or not (n or "0").isdecimal():
        raise SystemExit(__doc__)
    method, path = REQUESTS[what]
    body = None if n is None else json.dumps({"n": int(n), "hostnames": names}).encode()
    status, answer = ask(method, path, body)
    print(json.dumps(answer, ensure_ascii=False))
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
