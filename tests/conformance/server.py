"""
A small payment server, which treats keys as the kit demands; or with one planted mistake.

It pays at `POST /payments/`, for the callers in `CALLERS`, and counts at `GET /payments/`.
"""

from __future__ import annotations

import json
import re
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

CALLERS = {"Token ann-0001": "ann", "Token bob-0002": "bob"}
LINK = '<https://pay.example/keys>; rel="describedby"'
PATIENCE = 10  # seconds, for what a test is going to do

# Each mistake, and the checks that find it.
MISTAKES = {
    "no quotes": {"key-string"},
    "quotes count": {"key-bare"},
    "folds case": {"key-case"},
    "cuts long keys": {"key-long"},
    "missing key is 422": {"key-missing"},
    "missing key without link": {"key-missing-link"},
    "all without a key are one": {"key-optional"},
    "takes empty keys": {"key-empty"},
    "takes open quotes": {"key-unterminated"},
    "takes the first of two": {"key-twice"},
    "takes control characters": {"key-control"},
    "takes other characters": {"key-non-ascii"},
    "pays for replays": {  # whatever retries, finds it
        *("retry-runs-nothing", "retry-error", "key-bare", "race-runs-once", "reuse-keeps-first", "hang-up"),
        "late-duplicate",
    },
    "replays another status": {"retry-status"},
    "replays another body": {"retry-body"},
    "replays no headers": {"retry-headers"},
    "replays cookies": {"retry-cookies"},
    "forgets errors": {"retry-error"},
    "replays a GET": {"get-untouched"},
    "pays for another payload": {"reuse-refused"},
    "ignores the payload": {"reuse-refused"},
    "reuse is 409": {"reuse-422"},
    "reuse without link": {"reuse-link"},
    "forgets when reused": {"reuse-keeps-first"},
    "ignores the query": {"other-query"},
    "ignores the type": {"other-type"},
    "claims too late": {"race-runs-once"},
    "answers in flight": {"race-one-answer"},
    "in flight is 423": {"race-409"},
    "in flight without a word": {"race-problem"},
    "in flight without Retry-After": {"race-retry-after"},
    "never ends what was raced for": {"race-settles"},
    "keeps claims of the gone": {"hang-up"},
    "pays for a half": {"half-body"},
    "looks before the body": {"late-duplicate"},
    "one scope": {"other-caller"},
    "one scope, compared": {"other-callers-key"},
    "replays to strangers": {"wrong-credential"},
    "replays to nobody": {"no-credential"},
    "publishes nothing": {"specification"},
    "publishes no expiry": {"expiry"},
}

# A retry after a hang-up may meet the first request in flight, and then it is a race of two: `hang-up` may find these.
OF_RACES = {"claims too late", "never ends what was raced for", "looks before the body"}


class State:
    """What the server knows. Connections are `open` while they neither wait for a body nor have an answer."""

    def __init__(self, mistake: str) -> None:
        self.mistake = mistake
        self.payments = 0
        self.records: dict[Any, Any] = {}  # (caller, key): fingerprint, answer or None in flight
        self.gets: dict[str, bytes] = {}
        self.open = 0
        self.paying = 0
        self.raced: set[Any] = set()
        self.readers: set[int] = set()  # ports of clients that wait for their answer
        self.claimers: set[int] = set()  # and of those that have claimed a key, or have been told that they cannot
        self.changed = threading.Condition()


class Handler(BaseHTTPRequestHandler):
    """One request on a connection of its own."""

    server: Any
    counted = 1  # as an open connection
    is_paying = False

    def log_message(self, *args: object) -> None:
        """Be quiet."""

    @property
    def state(self) -> State:
        return self.server.state

    def has(self, *mistakes: str) -> bool:
        return self.state.mistake in mistakes

    def count(self, counted: int) -> None:
        with self.state.changed:
            self.state.open += counted - self.counted
            self.counted = counted
            if not counted:
                self.state.paying -= self.is_paying
                self.is_paying = False
            self.state.changed.notify_all()

    def finish(self) -> None:
        self.count(0)
        try:
            super().finish()
        except OSError:
            pass  # the client has gone

    def answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        try:
            self.end_headers()
            self.wfile.write(body)
        except OSError:
            pass  # the client has gone
        self.count(0)

    def refuse(self, status: int, title: str, *, link: bool = True, **headers: str) -> None:
        self.answer(status, json.dumps({"title": title}).encode(), **({"Link": LINK} if link else {}), **headers)

    def do_GET(self) -> None:
        now = json.dumps({"count": self.state.payments}).encode()
        if self.path == "/docs":
            now = b"Payments." if self.has("publishes nothing") else b"Send an Idempotency-Key."
            now += b"" if self.has("publishes no expiry") else b" It expires after 24 hours."
        elif self.has("replays a GET") and (key := self.headers["Idempotency-Key"]):
            now = self.state.gets.setdefault(key, now)
        self.answer(200, now)

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        identity = (self.caller, self.headers.get("Idempotency-Key", "").strip('"'))
        was_new = self.state.records.get(identity, (None, None))[1] is None
        body = self.rfile.read1(length)
        if len(body) < length:  # nobody waits for the rest
            self.count(0)
            body += self.rfile.read(length - len(body))
            self.count(1)
        if len(body) < length and not self.has("pays for a half"):
            return
        try:
            key = self.key()
        except ValueError as error:
            return self.refuse(400, str(error), link=not self.has("publishes nothing"))
        if self.caller is None and not self.is_let_through(key):
            return self.refuse(401, "Who are you?")
        if key is None:
            if not self.has("all without a key are one"):
                link = not self.has("missing key without link")
                return self.refuse(422 if self.has("missing key is 422") else 400, "No key.", link=link)
            key = "none"
        self.once(key, body, was_new=was_new and self.has("looks before the body"))

    @property
    def caller(self) -> str | None:
        return CALLERS.get(self.headers["Authorization"])

    def is_let_through(self, key: str | None) -> bool:
        """Whether a mistake lets somebody without a valid credential have a replay."""
        is_mistake = self.has("replays to nobody" if self.headers["Authorization"] is None else "replays to strangers")
        return is_mistake and ("ann", key) in self.state.records

    def key(self) -> str | None:
        """Raises `ValueError` for a malformed one."""
        lines = self.headers.get_all("Idempotency-Key") or []
        if len(lines) > 1 and not self.has("takes the first of two"):
            raise ValueError("Two keys.")
        if not lines:
            return None
        value = lines[0]
        if self.has("takes empty keys") and value in ("", '""'):
            return "empty"
        characters = {
            "takes control characters": r"[\x01-\x21\x23-\x7e]",
            "takes other characters": r"[\x20\x21\x23-\xff]",
        }
        inside = characters.get(self.state.mistake, r"[\x20\x21\x23-\x7e]")
        quotes = '"?' if self.has("takes open quotes") else '"'
        found = re.fullmatch(f'"({inside}+?){quotes}', value)
        is_bare = re.fullmatch(r"[\x21\x23-\x7e][\x21-\x7e]*", value)
        if (found and self.has("no quotes")) or not (found or is_bare):
            raise ValueError("This is no key.")
        name = found[1] if found and not self.has("quotes count") else value
        if self.has("cuts long keys"):
            return name[:255]
        return name.lower() if self.has("folds case") else name

    def once(self, key: str, body: bytes, *, was_new: bool) -> None:
        identity = ("any" if self.has("one scope", "one scope, compared") else self.caller or "ann", key)
        fingerprint = (
            self.has("ignores the query") or self.path,
            self.has("ignores the type") or self.headers["Content-Type"],
            self.has("ignores the payload") or body,
            not self.has("one scope, compared") or self.caller,
        )
        with self.state.changed:
            known, record = self.state.records.get(identity, (None, None))
            claimed = known is None or (was_new and record is not None)
            if claimed and not self.has("claims too late"):
                self.state.records[identity] = (fingerprint, None)
            self.state.claimers.add(self.client_address[1])
            self.state.changed.notify_all()
        if not claimed:
            return self.again(identity, known == fingerprint or self.caller is None, record, body)
        self.wait_for_the_others()
        answer = self.pay(body)
        if self.has("keeps claims of the gone") and self.has_gone():
            return
        with self.state.changed:
            if self.has("forgets errors") and answer[0] >= 400:
                del self.state.records[identity]
            elif identity not in self.state.raced:
                self.state.records[identity] = (fingerprint, answer)
        self.answer(answer[0], answer[1], **answer[2])

    def again(self, identity: Any, is_same: bool, record: Any, body: bytes) -> None:
        """A request whose key is known."""
        if not is_same:
            if self.has("pays for another payload"):
                return self.answer(*self.pay(body)[:2])
            if self.has("forgets when reused"):
                del self.state.records[identity]
            status = 409 if self.has("reuse is 409") else 422
            return self.refuse(status, "Another request.", link=not self.has("reuse without link"))
        if record is None:
            if self.has("never ends what was raced for"):
                self.state.raced.add(identity)
            if self.has("answers in flight"):
                return self.answer(202, b"{}")
            if self.has("in flight without a word"):
                return self.answer(409, b"", Retry_After="1")
            retry_after = {} if self.has("in flight without Retry-After") else {"Retry_After": "1"}
            return self.refuse(423 if self.has("in flight is 423") else 409, "In flight.", **retry_after)
        status, content, headers = record
        if self.has("pays for replays"):
            self.pay(body)
        if self.has("replays another status") and status == 201:
            status = 200
        if self.has("replays another body") and status == 201:
            content = content.replace(b" ", b"")
        if not self.has("replays cookies"):
            headers = {name: value for name, value in headers.items() if name != "Set_Cookie"}
        return self.answer(status, content, **({} if self.has("replays no headers") else headers))

    def wait_for_the_others(self) -> None:
        """Pay when all that came with this request have been answered, or pay too: so a race is one."""
        with self.state.changed:
            self.state.paying += 1
            self.is_paying = True
            self.state.changed.notify_all()
            self.state.changed.wait_for(self.server.has_no_others, timeout=PATIENCE)

    def pay(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
        try:
            amount = json.loads(body)["amount"]
        except ValueError:
            amount = 1
        with self.state.changed:
            self.state.payments += 1
            number = self.state.payments
        content = json.dumps({"id": number, "amount": amount}).encode()
        return (
            402 if amount > 1_000 else 201,
            content,
            {"Location": f"/payments/{number}/", "Set_Cookie": f"session={number}"},
        )

    def has_gone(self) -> bool:
        """Whether the client has hung up; a test tells of those that wait for their answer."""
        port = self.client_address[1]
        while port not in self.state.readers:
            if select.select([self.connection], [], [], 0.01)[0]:
                return not self.connection.recv(1, socket.MSG_PEEK)
        return False


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, mistake: str) -> None:
        self.state = State(mistake)
        super().__init__(("127.0.0.1", 0), Handler)

    def get_request(self) -> Any:
        with self.state.changed:
            self.state.open += 1
            return super().get_request()

    def has_no_others(self) -> bool:
        """Whether all connections, those in the queue included, are of requests that are about to pay."""
        return self.state.open <= self.state.paying and not select.select([self], [], [], 0)[0]


@contextmanager
def serving(mistake: str = "") -> Iterator[tuple[str, State]]:
    """A running server: its URL, and what it knows."""
    server = Server(mistake)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server.state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
