"""The product service of microservices.yaml."""
from flask import jsonify

from service import SERVER, application, one_cached
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
    return one_cached(cache, "product", "SELECT id, name, cents FROM products WHERE id = %s", number)
