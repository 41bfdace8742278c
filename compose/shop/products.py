"""The product service of microservices.yaml."""
from flask import jsonify

from service import SERVER, application, error
from stores import Cache, database

app = application("product-service")
cache = Cache()


@app.get("/products")
def products():
    def stored():
        with database() as connection:
            return connection.execute("SELECT id, name, cents FROM products ORDER BY id").fetchall()

    found, cached = cache.get("products", 5, stored)
    return jsonify(products=found, cached=cached, server=SERVER)


@app.get("/products/<int:number>")
def product(number):
    def stored():
        with database() as connection:
            return connection.execute("SELECT id, name, cents FROM products WHERE id = %s", [number]).fetchone()

    found, cached = cache.get(f"product {number}", 5, stored)
    return jsonify(found | {"cached": cached, "server": SERVER}) if found else error(404, f"There is no product {number}.")
