"""What may answer in a ComfyUI's place: each entry takes a request handler of `fake_comfy` and answers a request."""

import json
import os
import time

LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body><form></form></body></html>"
WRONG = {"prompt_id": 5, "queue_running": {"a": 1}, "queue_pending": 7, "name": [], "system": 3}
BODIES = {
    "{}": b"{}",
    "[]": b"[]",
    "null": b"null",
    "number": b"12",
    "string": b'"x"',
    "deep JSON": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "wrong types": json.dumps(WRONG).encode(),
    "garbage": bytes(range(256)) * 4,
    "invalid UTF-8": b'{"prompt_id": "\xff\xfe", "name": "\xff"}',
    "login page": LOGIN,
}
STATUSES = (401, 403, 404, 413, 500, 502, 503, 504)


def send(handler, status, body=b"{}", length=None, **headers):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    handler.close_connection = True


def drip(handler, head, piece, seconds):
    """`head`, then `piece` again and again until the other side has had enough."""
    handler.close_connection = True
    try:
        handler.wfile.write(head)
        while not handler.server.fake.stopped:
            handler.wfile.write(piece)
            time.sleep(seconds)
    except OSError:
        pass


START = b"HTTP/1.1 200 OK\r\n"
MISSING = {"type": "missing_node_type", "message": "Node 'Export Dataset' not found.", "details": "Node ID '#9'"}
ANSWERS = {
    **{name: lambda handler, body=body: send(handler, 200, body) for name, body in BODIES.items()},
    **{str(status): lambda handler, status=status: send(handler, status) for status in STATUSES},
    "429": lambda handler: send(handler, 429, Retry_After="1"),
    "308": lambda handler: send(handler, 308, Location="https://me:secret@elsewhere.example/comfy?token=secret"),
    "redirect to file": lambda handler: send(handler, 302, Location="file:///etc/passwd"),
    "half body": lambda handler: send(handler, 200, b'{"pro', length=1000),
    "half header": lambda handler: drip_once(handler, START + b"Content-Le"),
    "slow body": lambda handler: drip(handler, START + b"Content-Length: 100000\r\n\r\n", b" ", 0.05),
    "slow header": lambda handler: drip(handler, START + b"X: ", b"x", 0.05),
    "endless body": lambda handler: drip(handler, START + b"\r\n", os.urandom(1 << 16), 0),
    "endless headers": lambda handler: drip(handler, START, b"X: y\r\n" * 100, 0),
    "continue for ever": lambda handler: drip(handler, b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.001),
    "wrong node set": lambda handler: send(handler, 400, json.dumps({"error": MISSING, "node_errors": {}}).encode()),
}
LATE = ("slow body", "slow header", "continue for ever")  # nothing but a deadline ends these


def drip_once(handler, data):
    handler.wfile.write(data)
    handler.close_connection = True


# What a server's manifest may say of an image; `row` as it should be.
ROWS = {
    "mask absolute": lambda row: row | {"mask": "/tmp/higfa-was-here.png"},
    "mask above": lambda row: row | {"mask": "../../higfa-was-here.png"},
    "mask on a drive": lambda row: row | {"mask": "masks/C:/x.png"},
    "mask with backslashes": lambda row: row | {"mask": "masks\\..\\..\\x.png"},
    "file above": lambda row: row | {"file": "../../higfa-was-here.png"},
    "file is the plan": lambda row: row | {"file": "plan.json"},
    "file of another job": lambda row: row | {"file": row["file"].replace(row["key"][:16], "0" * 16)},
    "file of another class": lambda row: row | {"file": "train/another/" + row["file"].rpartition("/")[2]},
    "file is a program": lambda row: row | {"file": row["file"].replace(".png", ".py")},
    "class of another": lambda row: row | {"class_name": "another"},
    "label of another": lambda row: row | {"label": row["label"] + 1},
    "huge batch": lambda row: row | {"batch": 10**9},
    "no batch": lambda row: row | {"batch": 0},
    "negative index": lambda row: row | {"index": -1},
    "wrong types": lambda row: row | {"scores": ["high"], "bytes": "many"},
    "not a picture": lambda row: row,  # `FakeComfy.content` is a program
}
