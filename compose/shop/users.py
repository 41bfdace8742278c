"""The user service of microservices.yaml."""
from service import application, one_cached
from stores import Cache

app = application("user-service")
cache = Cache()


@app.get("/users/<int:number>")
def user(number):
    return one_cached(cache, "user", "SELECT id, name FROM users WHERE id = %s", number)
