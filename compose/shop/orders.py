"""The order service of microservices.yaml: asks the user service and the product service, stores the order, and puts a
message on the queue."""
import http.client
import json
import os
import urllib.error
import urllib.request

from flask import jsonify

from service import SERVER, application, error, insert_order, one_order, ordered, send_messages_in_background
from stores import database

ATTEMPTS = 3

app = application("order-service")
app.start_background_work = send_messages_in_background


class ServiceGone(Exception):
    """Another service does not answer."""


@app.errorhandler(ServiceGone)
def gone(problem):
    return error(503, str(problem))


def ask(service, path):
    """The answer of another service, through Pointsman; None: it has no such thing. A server that is killed amid a request
    breaks it, so it is repeated, on another server."""
    problem = None
    for _ in range(ATTEMPTS):
        try:
            with urllib.request.urlopen(os.environ[service] + path, timeout=5) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as refused:
            if refused.code == 404:
                return None
            problem = refused
        except (OSError, http.client.HTTPException) as broken:
            problem = broken
    raise ServiceGone(f"{service} does not answer: {problem}")


@app.post("/orders")
def place():
    customer, wanted = ordered()
    if not customer.isdigit() or ask("USERS", f"/users/{customer}") is None:
        return error(400, f"There is no user {customer}.")
    cents = 0
    for product, quantity in wanted.items():
        found = ask("PRODUCTS", f"/products/{product}")
        if found is None:
            return error(400, f"There is no product {product}.")
        cents += found["cents"] * quantity
    with database() as connection:
        placed, known = insert_order(connection, customer)
        if not known:
            connection.execute("UPDATE orders SET cents = %s WHERE id = %s", [cents, placed["id"]])
    return jsonify(placed | {"cents": cents, "server": SERVER, "repeated": known}), 200 if known else 201


@app.get("/orders/<int:number>")
def order(number):
    return one_order(number)
