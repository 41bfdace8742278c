"""The admin panel: the last orders, and what Pointsman says of the shop's pools."""
import html
import json
import urllib.request

import psycopg

from service import application
from stores import log, reading

app = application("admin-panel")


def last_orders():
    try:
        with reading() as connection:
            return connection.execute(
                "SELECT id, customer, status FROM orders ORDER BY id DESC LIMIT 20"
            ).fetchall()
    except psycopg.OperationalError as error:
        log.warning("no database: %s", str(error).strip())
        return []


def pools():
    try:
        with urllib.request.urlopen("http://pointsman:9900/api/v1/status", timeout=2) as answer:
            return json.load(answer)["pools"]
    except OSError as error:
        log.warning("Pointsman's admin server: %s", error)
        return []


def table(heads, rows):
    def row(tag, cells):
        return "<tr>" + "".join(f"<{tag}>{html.escape(str(cell))}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{row('th', heads)}{''.join(row('td', cells) for cells in rows)}</table>"


@app.get("/admin")
def panel():
    orders = table(["Order", "Customer", "Status"], [(one["id"], one["customer"], one["status"]) for one in last_orders()])
    up = table(
        ["Pool", "Up", "Backends", "Connections"],
        [(one["name"], one["up"], len(one["backends"]), one["connections"]) for one in pools()],
    )
    return (
        '<!doctype html><meta charset="utf-8"><title>Admin panel</title>'
        "<style>body{font:1rem/1.5 system-ui,sans-serif;margin:2rem}td,th{text-align:left;padding:.2rem 1rem .2rem 0}</style>"
        f"<h1>Admin panel</h1><h2>Pools</h2>{up}<h2>Last orders</h2>{orders}"
    )
