"""The page over HTTP: what it serves, and every request that it refuses. The server is real, and so is a process to ask."""

from __future__ import annotations

import http.client
import json
import re
import socket
import struct
import threading
from collections.abc import Iterator
from email.message import Message
from typing import Any

import pytest

from grpc_breaker._commands.targets import Targets
from grpc_breaker._web.calls import Calls
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.requests import LONGEST_BODY, RefusedError, check_origin
from grpc_breaker._web.server import PageServer
from grpc_breaker._web.watchers import Watchers
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.support.server import PATIENCE
from tests.web.standin import GET_PRICE, StandIn, breaker

TOKEN = "a-token"
ORDER = {"name": GET_PRICE, "ttl": 300, "reason": "INC-1"}


class Page:
    """The page, and one process that it watches."""

    def __init__(self, process: StandIn, **settings: Any) -> None:
        self.process = process
        self.fleet = Fleet()
        self.watchers = Watchers(self.fleet, Targets([process.target]).now)
        self.server = PageServer(0, self.fleet, Calls(self.fleet, self.watchers.stub), TOKEN, **settings)
        self.port = self.server.server_port
        self.origin = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, args=[0.01])
        self.thread.start()

    def watch(self) -> None:
        """Watch the process, until its breakers are there."""
        self.watchers.start()
        version, text = 0, "{}"
        while not json.loads(text).get("rows"):
            answer = self.fleet.news(version, PATIENCE)
            assert answer is not None
            version, text = answer

    def ask(
        self, verb: str, path: str, body: str | bytes | None = None, **headers: str | None
    ) -> tuple[int, str, http.client.HTTPMessage]:
        """Send a request as the page does; a header of `None` is left out."""
        sent: dict[str, str | None] = {"Host": f"127.0.0.1:{self.port}", "X-Breaker-Token": TOKEN}
        if body is not None:
            sent |= {"Origin": self.origin, "Content-Type": "application/json", "Content-Length": str(len(body))}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.putrequest(verb, path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value)
        connection.endheaders(body.encode() if isinstance(body, str) else body)
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        return response.status, text, response.headers

    def order(self, what: str = "force-open", order: Any = ORDER, **headers: str | None) -> tuple[int, Any]:
        status, text, _ = self.ask("POST", f"/{what}", json.dumps(order), **headers)
        return status, json.loads(text)

    def events(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/events", headers={"X-Breaker-Token": TOKEN})
        return connection, connection.getresponse()

    def close(self) -> None:
        self.watchers.close() if self.watchers._watchers else self.fleet.close()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def page() -> Iterator[Page]:
    """A page that watches nothing yet."""
    with StandIn(breaker()) as process:
        page = Page(process)
        yield page
        page.close()


@pytest.fixture
def watching(page: Page) -> Page:
    """A page that has seen the breakers of its process."""
    page.watch()
    return page


# What is refused


def test_it_listens_on_loopback_alone(page: Page) -> None:
    """No other machine can connect: the socket is bound to 127.0.0.1."""
    assert page.server.socket.getsockname()[0] == "127.0.0.1"
    with socket.socket() as other, pytest.raises(OSError, match="refused"):
        other.connect(("127.0.0.2", page.port))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "", None])
@pytest.mark.parametrize("path", ["/", "/events", "/breaker?name=x"])
def test_another_host_is_refused(page: Page, host: str | None, path: str) -> None:
    """A request for another host is that of a site whose name was bound anew to 127.0.0.1: refused, the page itself, too."""
    status, text, _ = page.ask("GET", path, Host=host and host.format(port=page.port))
    assert (status, "the request was for" in text) == (403, True)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_the_names_of_this_machine_are_accepted(page: Page, host: str) -> None:
    """The page may be opened by each name that loopback has, also through a tunnel to the same port."""
    assert page.ask("GET", "/", Host=f"{host}:{page.port}")[0] == 200


def test_port_80_need_not_be_named() -> None:
    """Browsers leave out port 80, and no other one."""
    at_80, elsewhere = Message(), Message()
    at_80["Host"], at_80["Origin"] = "127.0.0.1", "http://127.0.0.1"
    check_origin(at_80, 80, changes=True)
    elsewhere["Host"] = "evil.example"
    for headers, port in ((at_80, 8080), (elsewhere, 80)):
        with pytest.raises(RefusedError, match="the request was for"):
            check_origin(headers, port, changes=True)


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1", "https://127.0.0.1:{port}", "http://localhost:{port}"]
)
@pytest.mark.parametrize("path", ["/force-open", "/disable", "/reset"])
def test_an_order_from_another_origin_is_refused(page: Page, origin: str, path: str) -> None:
    """A page of another origin can give no order, even one that has the token."""
    status, _ = page.order(path[1:], Origin=origin.format(port=page.port))
    assert status == 403
    assert page.process.asked == []


def test_an_order_without_an_origin_is_refused(page: Page) -> None:
    """Browsers say where an order comes from; what does not is refused."""
    assert page.order(Origin=None)[0] == 403


def test_events_for_another_origin_are_refused(page: Page) -> None:
    """A page of another origin may read nothing either."""
    assert page.ask("GET", "/events", Origin="http://evil.example")[0] == 403


@pytest.mark.parametrize("token", [None, "", "wrong", TOKEN[:-1], "é"])
@pytest.mark.parametrize(
    ("verb", "path"), [("GET", "/events"), ("GET", "/breaker?name=x"), ("POST", "/force-open"), ("POST", "/nothing")]
)
def test_without_the_token_nothing_is_shown_or_done(page: Page, token: str | None, verb: str, path: str) -> None:
    """Another user of this machine can connect, but does not know the token of this run."""
    body = json.dumps(ORDER) if verb == "POST" else None
    status, text, _ = page.ask(verb, path, body, X_Breaker_Token=token)
    assert (status, "X-Breaker-Token" in text) == (403, True)
    assert page.process.asked == []


def test_the_page_itself_has_no_secret(page: Page) -> None:
    """What needs no token has none in it."""
    for path in page.server.files:
        status, text, _ = page.ask("GET", path, X_Breaker_Token=None)
        assert status == 200
        assert TOKEN not in text


@pytest.mark.parametrize("path", ["/force-open", "/disable", "/reset", f"/force-open?name={GET_PRICE}&ttl=9&reason=x"])
def test_no_get_changes_anything(watching: Page, path: str) -> None:
    """GET gives no orders."""
    assert watching.ask("GET", path)[0] == 404
    assert watching.process.asked == []


@pytest.mark.parametrize("verb", ["PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "BREW"])
def test_other_verbs_are_refused(page: Page, verb: str) -> None:
    """No other verb does anything, and a preflight is never allowed: the answer says so in plain text."""
    status, _, headers = page.ask(verb, "/force-open")
    assert status == 501
    assert headers["Content-Type"].startswith("text/plain")
    assert headers["Access-Control-Allow-Origin"] is None


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", None, "application/jsonx"])
def test_an_order_must_be_json(page: Page, kind: str | None) -> None:
    """What a form of another site can send without a preflight is refused by its type."""
    status, answer = page.order(Content_Type=kind)
    assert (status, answer["error"].startswith("the body must be application/json")) == (415, True)


def test_a_charset_is_allowed(watching: Page) -> None:
    """A type may have parameters."""
    assert watching.order(Content_Type="application/json; charset=utf-8")[0] == 200


@pytest.mark.parametrize("length", [None, "", "-1", "1e3", "²"])
def test_the_length_of_an_order_must_be_said(page: Page, length: str | None) -> None:
    """A body of unknown length is not read."""
    status, text, _ = page.ask(
        "POST", "/force-open", b"", Content_Length=length and length.encode("latin-1").decode("latin-1")
    )
    assert (status, "Content-Length" in text) == (411, True)


@pytest.mark.parametrize("length", [str(LONGEST_BODY + 1), "9" * 40])
def test_a_long_order_is_not_read(page: Page, length: str) -> None:
    """A body that is too long is refused by its length alone."""
    assert page.ask("POST", "/force-open", b"", Content_Length=length)[0] == 413


@pytest.mark.parametrize(
    ("body", "wrong"),
    [
        ("{", "the body is no JSON"),
        ("[" * 4000, "the body is no JSON"),
        ('"x"', "the body must be a JSON object"),
        (
            "{}",
            "name must be a text of 1 to 1000 characters; reason must be a text of 1 to 200 characters; ttl must be a number",
        ),
    ],
)
def test_an_order_that_is_none_is_refused(page: Page, body: str, wrong: str) -> None:
    """A body that is no order is refused, and everything that is wrong with it is said at once."""
    status, text, _ = page.ask("POST", "/force-open", body)
    assert status == 400
    assert json.loads(text)["error"].startswith(wrong)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", 1),
        ("name", " "),
        ("name", "x" * 1001),
        ("name", "\ud800"),
        ("reason", ""),
        ("reason", "x" * 201),
        ("reason", None),
        ("ttl", 0),
        ("ttl", -1),
        ("ttl", True),
        ("ttl", "300"),
        ("ttl", float("nan")),
        ("ttl", float("inf")),
        ("ttl", 10**400),
        ("ttl", -(10**400)),
        ("ttl", 7 * 24 * 3600 + 1),
        ("more", 1),
    ],
)
def test_a_wrong_field_is_named(page: Page, field: str, value: Any) -> None:
    """Each field is checked before any process is asked: a hold has a reason and an end."""
    status, answer = page.order(order={**ORDER, field: value})
    assert status == 400
    assert field in answer["error"]
    assert ";" not in answer["error"]


def test_a_name_that_no_process_has_is_not_found(watching: Page) -> None:
    """An order for a breaker that is not there is refused, and nothing is asked."""
    assert watching.order(order={**ORDER, "name": "pricing.v1.Pricing/GetPrise"})[0] == 404
    assert watching.ask("GET", "/breaker?name=nothing")[0] == 404
    assert watching.ask("GET", "/breaker")[0] == 404
    assert watching.ask("GET", "/breaker?" + "&".join("abcdefghijk"))[0] == 400
    assert watching.process.asked == []


def test_what_is_not_there_is_not_found(page: Page) -> None:
    """A path that is none leads nowhere, also out of the folder of the page."""
    for path in ("/nothing", "/../row.py", "/static/page.js", "/index.html"):
        assert page.ask("GET", path)[0] == 404
    status, text, _ = page.ask("POST", "/nothing", "{}")
    assert (status, json.loads(text)["error"]) == (404, "the orders are force-open, disable, reset")


def test_an_address_that_is_none_is_refused(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    """A path that cannot be read is refused, and the terminal stays the operator's."""
    for verb, body in (("GET", None), ("POST", "{}")):
        status, text, _ = page.ask(verb, "http://[/", body)
        assert (status, json.loads(text)["error"]) == (400, "the address of the request cannot be read")
    assert capsys.readouterr().err == ""


def test_every_answer_has_the_headers_of_safety(page: Page) -> None:
    """The page may run its own files alone, may not be framed, and nothing guesses types; errors have the same headers."""
    answers = [
        page.ask("GET", "/"),
        page.ask("GET", "/", Host="evil"),
        page.ask("GET", "/nothing"),
        page.ask("PUT", "/"),
    ]
    for _, _, headers in answers:
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store"
        assert "Python" not in headers["Server"]


def test_the_page_has_nothing_inline_and_nothing_from_elsewhere(page: Page) -> None:
    """Its policy allows no inline script or style, and it names no other server."""
    _, text, _ = page.ask("GET", "/")
    assert "<style" not in text
    assert "style=" not in text
    assert re.findall(r"\son\w+=", text) == []
    assert all(tag.startswith(' type="module" src="/') for tag in text.split("<script")[1:])
    for path, (_, content) in page.server.files.items():
        addresses = set(re.findall(rb"\w*://[^\s\"']*|url\(", content))
        assert addresses <= {b"http://www.w3.org/2000/svg"}, path  # the name of a namespace, which nobody asks


def test_the_token_is_not_sent_with_the_address(page: Page) -> None:
    """The address that is printed has the token behind a #, which browsers keep to themselves."""
    assert page.server.address == f"{page.origin}/#{TOKEN}"


# What it serves


def test_events_are_everything_and_then_what_changes(watching: Page) -> None:
    """A reader gets the full state, and then an opening."""
    connection, stream = watching.events()
    assert stream.headers["Content-Type"].startswith("text/event-stream")
    first = json.loads(stream.readline().removeprefix(b"data: "))
    assert (first["full"], first["rows"][0]["state"]) == (True, "closed")
    watching.process.push(breaker(state=pb.STATE_OPEN, condition="failure_rate"), changed=True)
    states: list[str] = []
    while "open" not in states:
        line = stream.readline()
        if line.startswith(b"data: "):
            states += [it["state"] for it in json.loads(line.removeprefix(b"data: "))["rows"]]
    connection.close()


@pytest.fixture
def impatient() -> Iterator[Page]:
    """A page that watches, for one browser, which has a fifth of a second to take what is sent."""
    with StandIn(breaker()) as process:
        page = Page(process, most_readers=1, patience=0.2)
        page.watch()
        yield page
        page.close()


def test_a_browser_that_goes_away_gives_back_its_place(impatient: Page) -> None:
    """So many pages may be open, the next one is refused; one that is closed makes place."""
    connection, stream = impatient.events()
    stream.readline()
    assert impatient.ask("GET", "/events")[0] == 503
    stream.fp.raw._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # reset, not FIN
    stream.close()
    connection.close()
    pushed = 0
    while not impatient.server.places.acquire(timeout=0.05):
        pushed += 1
        impatient.process.push(breaker(in_flight=pushed), changed=True)
        assert pushed < 20 * PATIENCE


def test_a_slow_browser_costs_no_memory_and_is_not_waited_for(impatient: Page) -> None:
    """A browser that takes nothing is given up after a while; the page's own state grows by nothing meanwhile."""
    impatient.process.push(*(breaker(f"{number}/{'x' * 900}") for number in range(2000)))
    with socket.create_connection(("127.0.0.1", impatient.port)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.sendall(
            f"GET /events HTTP/1.0\r\nHost: 127.0.0.1:{impatient.port}\r\nX-Breaker-Token: {TOKEN}\r\n\r\n".encode()
        )
        slow.recv(1)
        pushed = 0
        while not impatient.server.places.acquire(timeout=0.05):
            pushed += 1
            impatient.process.push(
                *(breaker(f"{number}/{'x' * 900}", in_flight=pushed) for number in range(2000)), changed=True
            )
            assert pushed < 20 * PATIENCE
    assert len(impatient.fleet._rows) == 2001


def test_details_are_asked_of_the_process(watching: Page) -> None:
    """The details of a breaker are what its process says, as plain data."""
    watching.process.snapshot = {
        "last_failures": [{"status": "UNAVAILABLE", "details": "<b>gone</b>"}],
        "policy": {"failure_rate": 0.5},
    }
    status, text, headers = watching.ask("GET", f"/breaker?name={GET_PRICE}")
    (details,) = json.loads(text)["processes"]
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert details["last_failures"] == [{"status": "UNAVAILABLE", "details": "<b>gone</b>"}]
    assert details["policy"] == {"failure_rate": 0.5}


@pytest.mark.parametrize("what", ["force-open", "disable", "reset"])
def test_an_order_reaches_the_process(watching: Page, what: str) -> None:
    """Each order is given to the process with the name, the reason and the time, and what it did is told."""
    status, answers = watching.order(what, {"name": GET_PRICE} if what == "reset" else ORDER)
    assert (status, answers) == (200, [{"process": 1, "breakers": [GET_PRICE], "error": ""}])
    (asked,) = watching.process.asked
    kinds = {"force-open": pb.ForceOpenRequest, "disable": pb.DisableRequest, "reset": pb.ResetRequest}
    assert type(asked) is kinds[what]
    if what != "reset":
        assert (asked.name, asked.reason, asked.ttl.seconds) == (GET_PRICE, "INC-1", 300)


def test_a_read_only_process_refuses_and_is_said_to(watching: Page) -> None:
    """A process that allows no changes refuses, and the answer says why."""
    watching.process.about.allow_changes = False
    status, answers = watching.order()
    assert (status, answers[0]["error"]) == (200, "PERMISSION_DENIED: changes are not allowed")


def test_a_bug_of_ours_is_not_hidden(
    page: Page, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What goes wrong in the server is printed; a browser that went away is not."""

    def broken(name: str) -> Any:
        raise RuntimeError("a bug")

    monkeypatch.setattr(page.server.calls, "details", broken)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        page.ask("GET", "/breaker?name=x")
    text = ""
    while "a bug" not in text:  # by the thread of the request
        text += capsys.readouterr().err


def test_a_port_that_is_taken_is_an_error(page: Page) -> None:
    """Two pages have two ports."""
    with pytest.raises(OSError, match="in use"):
        PageServer(page.port, page.fleet, page.server.calls, TOKEN)
