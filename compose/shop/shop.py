"""The API of the shop in ecommerce.yaml: products and orders in PostgreSQL, a cache of the products in Redis, a message for
each order. All of its stores are behind Pointsman."""
from flask import jsonify

from service import SERVER, application, error, insert_order, one_order, ordered, send_messages_in_background
from stores import Cache, database, reading

CACHED = 5  # seconds

app = application("ecommerce-backend")
app.start_background_work = send_messages_in_background
cache = Cache()


def stored_products():
    with reading() as connection:
        return connection.execute("SELECT id, name, cents, stock FROM products ORDER BY id").fetchall()


@app.get("/api/products")
def products():
    found, cached = cache.get("products", CACHED, stored_products)
    return jsonify(products=found, cached=cached, server=SERVER)


@app.get("/api/orders")
def orders():
    with reading() as connection:
        found = connection.execute(
            "SELECT id, customer, status, placed FROM orders ORDER BY id DESC LIMIT 50"
        ).fetchall()
    return jsonify(orders=[one | {"placed": one["placed"].isoformat()} for one in found], server=SERVER)


@app.get("/api/orders/<int:number>")
def order(number):
    return one_order(number)


@app.post("/api/orders")
def place():
    customer, wanted = ordered()
    with database() as connection:
        placed, known = insert_order(connection, customer)
        if known:
            return jsonify(placed | {"server": SERVER, "repeated": True})
        # In one order, so that two orders cannot wait for each other.
        for product, quantity in sorted(wanted.items()):
            taken = connection.execute(
                "UPDATE products SET stock = stock - %s WHERE id = %s AND stock >= %s", [quantity, product, quantity]
            )
            if taken.rowcount == 0:
                connection.rollback()
                return error(409, f"There are not {quantity} of product {product}.")
            connection.execute(
                "INSERT INTO items (order_id, product_id, quantity) VALUES (%s, %s, %s)",
                [placed["id"], product, quantity],
            )
    cache.forget("products")
    return jsonify(placed | {"server": SERVER}), 201
