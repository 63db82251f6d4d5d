"""A Flask service that nobody instrumented.

GET /call?id=ID  calls $DOWNSTREAM?id=ID and returns what it answered.
GET /leaf?id=ID  answers with the header lines it received.
GET /fan?to=URL&to=URL…  calls each and returns their statuses. A header
    X-Own-NAME of the request becomes the header NAME of each call.

KEEPALIVE=1 calls through a shared urllib3 pool, otherwise every call opens a
connection with requests. Runs by `python3 app.py` on werkzeug's threaded
server (PORT) or under gunicorn as `app:app`.
"""

import os

import requests
import urllib3
from flask import Flask, Response, jsonify, request

DOWNSTREAM = os.environ.get("DOWNSTREAM", "")
KEEPALIVE = os.environ.get("KEEPALIVE") == "1"

app = Flask(__name__)
pool = urllib3.PoolManager(maxsize=64)


@app.get("/ready")
def ready():
    return "ok"


@app.get("/call")
def call():
    fields = {"id": request.args["id"]}
    if KEEPALIVE:
        answer = pool.request("GET", DOWNSTREAM, fields=fields, timeout=30)
        return Response(answer.data, answer.status, mimetype="application/json")
    answer = requests.get(DOWNSTREAM, params=fields, timeout=30)
    return Response(answer.content, answer.status_code, mimetype="application/json")


@app.get("/fan")
def fan():
    own = {n[len("X-Own-") :]: v for n, v in request.headers.items() if n.startswith("X-Own-")}
    return jsonify([fetch(url, own) for url in request.args.getlist("to")])


def fetch(url, headers):
    if KEEPALIVE:
        return pool.request("GET", url, headers=headers, timeout=30).status
    return requests.get(url, headers=headers, timeout=30).status_code


@app.get("/leaf")
def leaf():
    # WSGI joins repeated lines with a comma, which no traceparent contains,
    # so a duplicate still shows.
    return jsonify(id=request.args["id"], headers=[list(h) for h in request.headers.items()])


if __name__ == "__main__":
    app.run(host="127.0.0.1", port=int(os.environ["PORT"]), threaded=True)
