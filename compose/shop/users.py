"""The user service of microservices.yaml."""
from flask import jsonify

from service import SERVER, application, error
from stores import Cache, database

app = application("user-service")
cache = Cache()


@app.get("/users/<int:number>")
def user(number):
    def stored():
        with database() as connection:
            return connection.execute("SELECT id, name FROM users WHERE id = %s", [number]).fetchone()

    found, cached = cache.get(f"user {number}", 5, stored)
    return jsonify(found | {"cached": cached, "server": SERVER}) if found else error(404, f"There is no user {number}.")
