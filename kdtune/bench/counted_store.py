"""An S3 server on loopback that counts its requests by kind, and the bytes that are given to it."""

import json
import multiprocessing
import os
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any
from unittest import mock

from kdtune.base import UserError

KINDS = ("GET", "HEAD", "LIST", "PUT", "DELETE")
BUCKET, COUNTS = "growth", "/-/counts"
STATES = "/checkpoints/"  # in the key of a state or of weights
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "none",
    "AWS_SECRET_ACCESS_KEY": "none",
    "AWS_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass(frozen=True)
class Store:
    """The server, which runs."""

    port: int

    def counts(self) -> Counter[str]:
        """Requests by kind since this was last asked, with ``bytes`` of objects that are no checkpoints."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{COUNTS}", timeout=60) as answer:
            return Counter(json.load(answer))


@contextmanager
def counted_store() -> Iterator[Store]:
    """The server with an empty bucket, for as long as the block runs; the environment names it as the endpoint.

    Raises:
        UserError: moto, which plays S3, is not installed.
    """
    try:
        import moto.server  # noqa: F401
    except ImportError:
        raise UserError(
            "S3 is played by moto, which is not installed: pip install 'moto[server]', or leave S3 out"
        ) from None
    spawn = multiprocessing.get_context("spawn")
    mine, its = spawn.Pipe()
    process = spawn.Process(target=_serve, args=(its,), daemon=True)
    process.start()
    try:
        store = Store(mine.recv())
        address = f"http://127.0.0.1:{store.port}"
        urllib.request.urlopen(urllib.request.Request(f"{address}/{BUCKET}", method="PUT"), timeout=60).close()
        store.counts()
        with mock.patch.dict(os.environ, ENVIRONMENT | {"AWS_ENDPOINT_URL": address}):
            yield store
    finally:
        process.terminate()
        process.join()


def _serve(told: Connection) -> None:
    """Moto behind a counter, until it is ended."""
    import logging

    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs every request
    moto, counts = DomainDispatcherApplication(create_backend_app), Counter[str]()

    def counting(environ: dict[str, Any], start: Any) -> Any:
        if environ["PATH_INFO"] == COUNTS:
            start("200 OK", [("Content-Type", "application/json")])
            found = json.dumps(counts).encode()
            counts.clear()
            return [found]
        kind = "LIST" if "list-type=" in environ["QUERY_STRING"] else environ["REQUEST_METHOD"]
        counts[kind if kind in KINDS else "PUT"] += 1  # POST: parts of a large object
        if STATES not in environ["PATH_INFO"]:
            counts["bytes"] += int(
                environ.get("HTTP_X_AMZ_DECODED_CONTENT_LENGTH") or environ.get("CONTENT_LENGTH") or 0
            )
        return moto(environ, start)

    server = make_server("127.0.0.1", 0, counting, threaded=True)
    told.send(server.server_port)
    server.serve_forever()
