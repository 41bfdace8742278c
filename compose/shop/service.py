"""What the services have in common: an application with a health check, and orders with an outbox.

An order and the fact that its message is still to be sent are stored in one transaction (the table outbox), so that
neither the loss of RabbitMQ nor that of a server loses a message."""
import json
import socket
import threading
import time
import uuid
from datetime import datetime, timezone

import psycopg
from flask import Flask, jsonify, request
from werkzeug.exceptions import BadRequest

from stores import PERSISTENT, QUEUE, database, forever, log, queue

SERVER = socket.gethostname()


def error(status, text):
    return jsonify(error=text, server=SERVER), status


def application(name):
    """An application whose health check names it `name`, and that answers 503 while its database is gone."""
    app = Flask(name)
    app.json.sort_keys = False

    @app.get("/health")
    def health():
        now = datetime.now(timezone.utc).isoformat()
        return jsonify(status="healthy", timestamp=now, service=name)

    @app.errorhandler(BadRequest)
    def bad_request(problem):
        return error(400, problem.description)

    @app.errorhandler(psycopg.OperationalError)
    def no_database(problem):
        log.warning("no database: %s", str(problem).strip())
        return error(503, "The database does not answer.")

    return app


def one_cached(cache, thing, query, number):
    """The row that a query finds for a number, from the cache if it is there."""

    def stored():
        with database() as connection:
            return connection.execute(query, [number]).fetchone()

    found, cached = cache.get(f"{thing} {number}", 5, stored)
    return jsonify(found | {"cached": cached, "server": SERVER}) if found else error(404, f"There is no {thing} {number}.")


def ordered():
    """The customer and the quantity of each product in the body of this request."""
    body = request.get_json(silent=True)
    try:
        wanted = {}
        for item in body["items"]:
            product, quantity = int(item["product"]), int(item["quantity"])
            if not 1 <= quantity <= 1000:
                raise ValueError("quantity")
            wanted[product] = wanted.get(product, 0) + quantity
        if not wanted:
            raise ValueError("items")
        return str(body.get("customer", "")), wanted
    except (KeyError, TypeError, ValueError) as problem:
        raise BadRequest(
            'The body must be like {"customer": 1, "items": [{"product": 1, "quantity": 1}]}, '
            "with quantities from 1 to 1000."
        ) from problem


def insert_order(connection, customer):
    """Stores the order of this request; returns it, and whether it was known. The same Idempotency-Key is the same order:
    a client or a proxy may repeat a request that broke."""
    key = request.headers.get("Idempotency-Key") or str(uuid.uuid4())
    placed = connection.execute(
        "INSERT INTO orders (key, customer) VALUES (%s, %s) ON CONFLICT (key) DO NOTHING RETURNING id, status",
        [key, customer[:100]],
    ).fetchone()
    if placed is None:
        known = connection.execute("SELECT id, status FROM orders WHERE key = %s", [key]).fetchone()
        return known, True
    connection.execute("INSERT INTO outbox (order_id) VALUES (%s)", [placed["id"]])
    return placed, False


def one_order(number):
    with database() as connection:
        found = connection.execute("SELECT id, customer, status FROM orders WHERE id = %s", [number]).fetchone()
    return jsonify(found | {"server": SERVER}) if found else error(404, f"There is no order {number}.")


def send_messages():
    """Sends the messages of new orders. Every server does; each row is locked by one of them."""
    with database() as connection:
        waiting = connection.execute(
            "SELECT order_id FROM outbox ORDER BY order_id LIMIT 50 FOR UPDATE SKIP LOCKED"
        ).fetchall()
        if waiting:
            broker, channel = queue()
            try:
                for row in waiting:
                    channel.basic_publish("", QUEUE, json.dumps({"order": row["order_id"]}), PERSISTENT, mandatory=True)
            finally:
                broker.close()
            sent = [row["order_id"] for row in waiting]
            connection.execute("DELETE FROM outbox WHERE order_id = ANY(%s)", [sent])
    time.sleep(0.5)


def send_messages_in_background():
    threading.Thread(target=forever, args=("messages wait", send_messages), daemon=True).start()
