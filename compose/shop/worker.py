"""Takes the messages of new orders from RabbitMQ and confirms the orders."""
import json
import signal
import sys

from stores import QUEUE, database, forever, log, queue


def confirm(channel, method, _properties, body):
    number = json.loads(body)["order"]
    with database() as connection:
        connection.execute("UPDATE orders SET status = 'confirmed' WHERE id = %s", [number])
    # A message that is not acknowledged comes again: confirming twice does no harm.
    channel.basic_ack(method.delivery_tag)
    log.info("order %s confirmed", number)


def work():
    connection, channel = queue()
    try:
        channel.basic_qos(prefetch_count=10)
        channel.basic_consume(QUEUE, confirm)
        channel.start_consuming()
    finally:
        if connection.is_open:
            connection.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    forever("no messages", work)
