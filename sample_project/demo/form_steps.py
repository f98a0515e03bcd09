"""The step in which a person sends a form, in a browser that keeps its cookies and runs no script."""

import re
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.cookies import SimpleCookie
from threading import Barrier
from urllib.parse import urlencode

from .client import TIMEOUT, Answer
from .report import Report
from .server import Server

HIDDEN = re.compile(r'<input type="hidden" name="([^"]+)" value="([^"]*)"')


@dataclass(frozen=True, slots=True)
class Browser:
    """Keeps the cookies of its answers, as one person's browser does."""

    address: tuple[str, int]
    cookies: SimpleCookie = field(default_factory=SimpleCookie)

    def get(self, path: str) -> Answer:
        return self._send("GET", path)

    def submit(self, path: str, fields: dict[str, str], *, together: Barrier | None = None) -> Answer:
        """Send the form. With *together*, all connect first and then send at once."""
        return self._send("POST", path, urlencode(fields), together)

    def log_in(self, username: str, password: str) -> None:
        path = "/api-auth/login/"
        self.submit(path, {**hidden_fields(self.get(path)), "username": username, "password": password})

    def _send(self, method: str, path: str, body: str | None = None, together: Barrier | None = None) -> Answer:
        headers = {"Accept": "text/html", "Host": f"{self.address[0]}:{self.address[1]}"}
        if self.cookies:
            headers["Cookie"] = "; ".join(f"{name}={cookie.value}" for name, cookie in self.cookies.items())
        if body is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        connection = HTTPConnection(*self.address, timeout=TIMEOUT)
        try:
            connection.connect()
            if together:
                together.wait(TIMEOUT)
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = Answer(status=response.status, headers=response.headers, body=response.read())
        finally:
            connection.close()
        for cookie in answer.headers.get_all("Set-Cookie", []):
            self.cookies.load(cookie)
        return answer


def hidden_fields(page: Answer) -> dict[str, str]:
    """The hidden fields of the only form on *page*: CSRF token and key."""
    return dict(HIDDEN.findall(page.body.decode()))


@dataclass(frozen=True, slots=True, kw_only=True)
class Forms:
    server: Server
    report: Report
    username: str
    password: str
    account: int
    charges: Callable[[str], int]  # in the database, with this reference

    def a_double_click(self) -> None:
        check = self.report.check
        self.report.step("A form sent twice at once by a double click, then from the back button")
        browser = Browser(self.server.address)
        browser.log_in(self.username, self.password)
        reference = f"form {uuid.uuid4().hex[:8]}"
        form = {"account": str(self.account), "amount": "100", "reference": reference}
        # Errors first: the form comes back with its key, and mending it is no reuse.
        page = browser.get("/pay/")
        shown = browser.submit("/pay/", {**hidden_fields(page), **form, "amount": "0"})
        kept = hidden_fields(shown).get("_idempotency_key") == hidden_fields(page).get("_idempotency_key")
        check("a form with an error", expected=200, seen=shown.status)
        check("it keeps its key", expected=True, seen=kept)
        form |= hidden_fields(shown)
        together = Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            clicks = [pool.submit(browser.submit, "/pay/", form, together=together) for _ in range(2)]
            answers = [click.result() for click in clicks]
        check("statuses", expected={302}, seen={answer.status for answer in answers})
        check("where they lead", expected={"/pay/"}, seen={answer.headers["Location"] for answer in answers})
        check("replayed", expected=1, seen=sum(answer.replayed == "true" for answer in answers))
        check("charges in the database", expected=1, seen=self.charges(reference))
        said = browser.get("/pay/").body.decode().count(f"{reference} is paid.")
        check("times the page says so", expected=1, seen=said)
        again = browser.submit("/pay/", form)
        check("from the back button", expected=(302, "true"), seen=(again.status, again.replayed))
        other = browser.submit("/pay/", {**form, "amount": "200"})
        check("with another amount", expected=422, seen=other.status)
        check("what it is told with", expected="text/html", seen=other.headers.get_content_type())
        check("charges in the database", expected=1, seen=self.charges(reference))
