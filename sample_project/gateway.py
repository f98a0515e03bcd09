"""
A card gateway to try things against; it charges nobody: `python -m sample_project.gateway [port]`.

`POST /payments` charges a card, `GET /payments` lists what was charged, and how often each was asked for, and
`GET /v1/payment_intents` lists it as Stripe does, with the keys. Like a real one's it has cards for tests, in `CARDS`,
and takes an `Idempotency-Key`: a payment asked for again under its key is not made again, the answer tells of the
first. It keeps all that in memory.
"""

import json
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TextIO
from urllib.parse import parse_qsl

PORT = 8100
SLOW = 10.0  # seconds; longer than any client waits for an answer

# The result of a payment, by its card: the status of the answer, the status of the payment.
CARDS = {
    "tok_visa": (201, "succeeded"),
    "tok_declined": (402, "declined"),
    "tok_slow": (201, "succeeded"),  # charged at once like any other; the answer comes `SLOW` later
}


class Gateway(ThreadingHTTPServer):
    """Listens on *port* of this machine (0: any). Each request is a line of JSON in *log*, if it is given."""

    daemon_threads = True

    def __init__(self, port: int = 0, *, log: TextIO | None = None, slow: float = SLOW) -> None:
        super().__init__(("127.0.0.1", port), Conversation)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.slow = slow
        self.closing = threading.Event()
        self.payments: list[dict[str, Any]] = []
        self._log = log
        self._by_key: dict[str, dict[str, Any]] = {}
        self._times: dict[str, float] = {}  # of the payments, by id
        self._books = threading.Lock()

    def charge(self, order: dict[str, Any], key: str | None) -> tuple[dict[str, Any], bool]:
        """The payment of *order*, and whether it is new: a known *key* has its payment already."""
        with self._books:
            payment = self._by_key.get(key) if key else None
            is_new = payment is None
            if payment is None:
                _, status = CARDS[order["card"]]
                payment = {"id": f"pay_{len(self.payments) + 1}", **order, "status": status, "asked": 0}
                self.payments.append(payment)
                self._times[payment["id"]] = time.time()
                if key:
                    self._by_key[key] = payment
            payment["asked"] += 1
            if self._log:
                print(json.dumps({"asked": order, "key": key, "payment": payment["id"]}), file=self._log, flush=True)
            return dict(payment), is_new

    def intents(self, since: int, after: str, limit: int) -> dict[str, Any]:
        """The payments made *since* that time behind the payment *after*, in Stripe's form: at most *limit*."""
        with self._books:
            keys = {payment["id"]: key for key, payment in self._by_key.items()}
            found = [payment for payment in reversed(self.payments) if self._times[payment["id"]] >= since]
        ids = [payment["id"] for payment in found]
        found = found[ids.index(after) + 1 if after else 0 :]
        intents = [
            {name: payment[name] for name in ("id", "amount", "currency", "status")}
            | {"metadata": {"idempotency": keys.get(payment["id"], "")}}
            for payment in found[:limit]
        ]
        return {"object": "list", "data": intents, "has_more": len(found) > limit}

    def listed(self) -> list[dict[str, Any]]:
        with self._books:
            return [dict(payment) for payment in self.payments]


class Conversation(BaseHTTPRequestHandler):
    server: Gateway

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/payments":
            self._answer(200, {"payments": self.server.listed()})
        elif path == "/v1/payment_intents":
            asked = dict(parse_qsl(query))
            page = int(asked["created[gte]"]), asked.get("starting_after", ""), int(asked["limit"])
            self._answer(200, self.server.intents(*page))
        else:
            self._answer(404, {"detail": "There are only /payments."})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        try:
            sent = json.loads(body)
            order = {name: sent[name] for name in ("amount", "currency", "card", "reference")}
            status, _ = CARDS[order["card"]]
        except (ValueError, KeyError, TypeError):
            self._answer(400, {"detail": f"A payment has an amount, a currency, a reference and one of {[*CARDS]}."})
            return
        payment, is_new = self.server.charge(order, self.headers.get("Idempotency-Key"))
        if is_new and order["card"] == "tok_slow":
            self.server.closing.wait(self.server.slow)
        del payment["asked"]  # a repeated question gets the first answer
        self._answer(status, payment)

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        except ConnectionError:
            pass  # the client has gone; its payment was made all the same

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: `Gateway` has its own log."""


@contextmanager
def running(port: int = 0, *, log: TextIO | None = None, slow: float = SLOW) -> Iterator[Gateway]:
    """A gateway that answers inside the block, from threads of this process. Raises `OSError` if it cannot listen."""
    with Gateway(port, log=log, slow=slow) as gateway:
        thread = threading.Thread(target=gateway.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield gateway
        finally:
            gateway.closing.set()
            gateway.shutdown()
            thread.join()


if __name__ == "__main__":
    with running(int(sys.argv[1]) if sys.argv[1:] else PORT, log=sys.stdout) as gateway:
        print(f"The gateway is at {gateway.url}/payments; Ctrl-C ends it.", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            pass  # as requested
