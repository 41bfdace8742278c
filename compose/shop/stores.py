"""Connections to the stores: PostgreSQL, Redis, RabbitMQ."""
import json
import logging
import os
import time
from pathlib import Path

import pika
import psycopg
import redis
from pika.adapters.utils.connection_workflow import AMQPConnectorException
from psycopg.rows import dict_row

log = logging.getLogger("shop")
logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
logging.getLogger("pika").setLevel(logging.CRITICAL)
log.info("environment=%s", os.environ.get("ENVIRONMENT", "development"))

QUEUE = "orders"
# The last: a broker that accepts a connection and does not answer, as one that starts.
EXPECTED = (psycopg.Error, OSError, pika.exceptions.AMQPError, AMQPConnectorException)
PERSISTENT = pika.BasicProperties(delivery_mode=2, content_type="application/json")


def secret(variable):
    """The content of the file that the variable names."""
    return Path(os.environ[variable]).read_text().strip()


def database(url=None):
    """A new connection to the database of the URL, by default that of DATABASE."""
    password = secret("DATABASE_PASSWORD_FILE")
    # A server that is gone refuses at once; one that answers late is busy, and its customer rather waits than fails. The
    # encoding, as texts are bytes without one (SQL_ASCII, the server's default in the locale C).
    return psycopg.connect(
        url or os.environ["DATABASE"], password=password, connect_timeout=10, client_encoding="utf8", row_factory=dict_row
    )


def reading():
    """A connection for reading: to the standby of DATABASE_STANDBY, or without one to the primary."""
    try:
        return database(os.environ.get("DATABASE_STANDBY"))
    except psycopg.OperationalError:
        return database()


class Cache:
    """A cache in Redis. Without Redis there is no cache, and no error."""

    def __init__(self):
        timeout = 0.5
        self.redis = redis.Redis.from_url(os.environ["REDIS"], socket_timeout=timeout, socket_connect_timeout=timeout)

    def get(self, key, seconds, compute):
        """The value of a key, kept for so many seconds, and whether it was in the cache."""
        try:
            value = self.redis.get(key)
            if value is not None:
                return json.loads(value), True
        except redis.RedisError as error:
            log.warning("no cache: %s", error)
        value = compute()
        try:
            self.redis.set(key, json.dumps(value), ex=seconds)
        except redis.RedisError as error:
            log.warning("no cache: %s", error)
        return value, False

    def forget(self, key):
        try:
            self.redis.delete(key)
        except redis.RedisError as error:
            log.warning("no cache: %s", error)


def queue():
    """A connection to RabbitMQ, and a channel that confirms, with the queue of orders."""
    parameters = pika.URLParameters(os.environ["AMQP"] + "?heartbeat=10&connection_attempts=1")
    parameters.credentials = pika.PlainCredentials(os.environ["AMQP_USER"], secret("AMQP_PASSWORD_FILE"))
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True)
    channel.confirm_delivery()
    return connection, channel


def forever(what, work, pause=1.0):
    """Repeats `work`, also after an error: a store may be gone for a while."""
    while True:
        try:
            work()
        except Exception as error:  # of any type: pika's AMQPConnectorException, for one, is no AMQPError
            expected = isinstance(error, EXPECTED)
            log.warning("%s: %s", what, str(error).strip() or type(error).__name__, exc_info=not expected)
            time.sleep(pause)
