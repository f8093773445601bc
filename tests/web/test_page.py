"""The page in a real Chromium: what an operator sees and does, with real processes where it is about them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from grpc_breaker._commands.targets import Targets
from grpc_breaker._web.calls import Calls
from grpc_breaker._web.fleet import Fleet
from grpc_breaker._web.server import PageServer
from grpc_breaker._web.watchers import Watchers
from grpc_breaker.admin.v1 import admin_pb2 as pb
from tests.support.chromium import Chromium
from tests.support.programs import required
from tests.web.conftest import Clock
from tests.web.shop import Shop
from tests.web.standin import StandIn, breaker

pytestmark = pytest.mark.once

EVIL = '<img src=x onerror="window.hit=1">'
LONG = "very.long.package.name.of.a.company.v1.AnInterminableServiceName/GetEverythingThatThereIsAtOnce@a-region-far-away-1"


@pytest.fixture(scope="module")
def _browser() -> Iterator[Chromium]:
    required("chromium", "chromium")
    required("chromedriver", "chromium-driver")
    with Chromium() as browser:
        browser.requested()
        yield browser


@pytest.fixture
def browser(_browser: Chromium) -> Iterator[Chromium]:
    """A browser, in which a test must leave no error on the console."""
    _browser.look()
    _browser.log()
    yield _browser
    assert _browser.log() == []


@contextmanager
def page(targets: Targets, browser: Chromium | None, clock: Callable[[], float] = time.time) -> Iterator[str]:
    """The page that watches these; its address. A browser leaves it before it ends, and so logs no error."""
    fleet = Fleet(clock)
    watchers = Watchers(fleet, targets.now)
    server = PageServer(0, fleet, Calls(fleet, watchers.stub), "a-token")
    thread = threading.Thread(target=server.serve_forever, args=[0.01])
    thread.start()
    watchers.start()
    try:
        yield server.address
        if browser is not None:
            browser.leave()
    finally:
        watchers.close()
        server.shutdown()
        thread.join()
        server.server_close()


def rows(number: int) -> str:
    """The condition that so many rows are shown."""
    return f"document.querySelectorAll('#rows .row:not([hidden])').length === {number}"


def text_of(browser: Chromium, selector: str) -> str:
    return browser.run("return document.querySelector(arguments[0]).innerText", selector)


def names(browser: Chromium) -> list[str]:
    """The breakers that are shown, from top to bottom."""
    script = "return [...document.querySelectorAll('#rows .row:not([hidden])')].map((row) => row.dataset.name)"
    return browser.run(script)


FOCUSED = "document.activeElement.dataset.name || document.activeElement.id"


def test_an_opening_is_shown_within_two_seconds(browser: Chromium, tmp_path: Path) -> None:
    """A breaker that opens in a process of this host is shown as open within two seconds, and is told to screen readers."""
    tmp_path.chmod(0o700)
    with Shop(tmp_path) as shop, page(Targets(directory=tmp_path), browser) as address:
        browser.open(address)
        browser.wait("document.querySelector('#rows .row.closed')")
        assert [shop.call("error UNAVAILABLE no") for _ in range(5)] == ["UNAVAILABLE"] * 5
        browser.wait("document.querySelector('#rows .row.open')", 2)
        assert shop.call() == "refused"
        assert "consecutive_failures" in text_of(browser, "#rows .row .c-why")
        assert "UNAVAILABLE: no" in text_of(browser, "#rows .row .c-why")
        browser.wait("document.getElementById('news').textContent.startsWith('open: pricing.v1.Pricing/UnaryUnary')")
        assert browser.run("return document.title") == "(1 open) Circuit breakers"


def test_a_hold_set_by_keyboard_holds(browser: Chromium, tmp_path: Path) -> None:
    """Force open, and then reset, with keys alone: the real process refuses, and then does not; another one is read-only."""
    tmp_path.chmod(0o700)
    other = Shop(tmp_path, "read-only")
    with Shop(tmp_path) as shop, other, page(Targets(directory=tmp_path), browser) as address:
        browser.open(address)
        browser.wait("document.querySelector('#rows .of').textContent === 'in 2'")
        browser.press("/", "Unary", "Enter")
        assert browser.run(f"return {FOCUSED}") == "pricing.v1.Pricing/UnaryUnary"
        browser.press("o", "Enter")  # a reason is required
        assert shop.call() == "OK"
        browser.press("INC-2291", "Tab", "Down", "Enter")
        browser.wait("document.querySelectorAll('#order-answers li').length === 2")
        assert shop.call() == "refused"
        assert other.call() == "OK"
        assert "1 of 2 processes refused" in text_of(browser, "#order-error")
        assert f"{other.pid}" in text_of(browser, "#order-answers li:first-child")
        assert "PERMISSION_DENIED" in text_of(browser, "#order-answers li:first-child")
        browser.press("Enter")
        browser.wait("!document.getElementById('order').open")
        assert browser.run(f"return {FOCUSED}") == "pricing.v1.Pricing/UnaryUnary"
        browser.wait("document.querySelector('#rows .row.forced_open')")
        assert "held, 15 min left: INC-2291" in text_of(browser, "#rows .c-why")
        assert "in 1 of 2" in text_of(browser, "#rows .c-state")
        browser.press("r", "Enter")
        browser.wait("document.querySelectorAll('#order-answers li').length === 2")
        assert shop.call() == "OK"
        browser.press("Escape")
        browser.wait("document.querySelector('#rows .row.closed')")


def test_what_processes_say_is_text(browser: Chromium) -> None:
    """No name, reason or error of a process becomes HTML, in the table, in the details, and in the lists of processes."""
    failure = pb.Failure(status=EVIL, details=EVIL)
    hold = pb.Hold(reason=EVIL)
    evil = breaker(f"{EVIL}/{EVIL}@{EVIL}", pb.STATE_FORCED_OPEN, condition=EVIL, last_failure=failure, hold=hold)
    with (
        StandIn(evil, program=EVIL, host=EVIL, version=EVIL) as process,
        page(Targets([process.target]), browser) as address,
    ):
        process.snapshot = {"last_failures": [{"status": EVIL, "details": EVIL}], "policy": {EVIL: EVIL}}
        process.changes = [pb.StateChange(reason=EVIL, status=EVIL, details=EVIL, state=pb.STATE_FORCED_OPEN)]
        browser.open(address)
        browser.wait(rows(1))
        browser.press("Down", "Enter")
        browser.wait("document.querySelectorAll('#pane dd').length === 1")
        browser.run("document.getElementById('fleet').open = true")
        browser.press("r")
        assert text_of(browser, "#pane").count(EVIL) > 5
        assert browser.run("return [document.images.length, window.hit ?? null]") == [0, None]
        process.stop()
        browser.wait("document.querySelector('#trouble').innerText.includes('onerror')")
        assert browser.run("return [document.images.length, window.hit ?? null]") == [0, None]
        browser.press("Escape")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_everything_can_be_read(browser: Chromium, dark: bool) -> None:
    """In light and in dark each text has a contrast of 4.5 to what is behind it, whatever the state; states have words."""
    states = {it: pb.State.Name(it).removeprefix("STATE_").lower() for it in pb.State.values()}
    each = [
        breaker(f"a.v1.B/{word}", state, failures=3, hung=1, condition="a_condition", hold=pb.Hold(reason="INC-1"))
        for state, word in states.items()
    ]
    browser.look(dark=dark)
    with StandIn(*each, breaker("calm")) as process, page(Targets([process.target, "127.0.0.1:1"]), browser) as address:
        browser.open(address)
        browser.wait(rows(len(states) + 1))
        browser.wait("document.querySelector('#trouble li')")
        browser.press("Down", "Enter")
        browser.wait("document.querySelector('#pane table')")
        words = browser.run(
            "return [...document.querySelectorAll('#rows .badge')].map((it) => it.lastChild.textContent)"
        )
        assert words == ["open", "forced open", "half-open", "not known", "disabled", "closed", "closed"]
        assert browser.run(CONTRAST) == []


CONTRAST = """
  const pen = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
  const rgba = (colours) => {
    pen.clearRect(0, 0, 1, 1);
    for (const colour of colours) { pen.fillStyle = colour; pen.fillRect(0, 0, 1, 1); }
    return [...pen.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [r, g, b] = colour.map((it) => it / 255).map((it) => it <= 0.04045 ? it / 12.92 : ((it + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const pale = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some((it) => it.nodeType === 3 && it.textContent.trim());
    if (!own || !element.checkVisibility() || element.closest('.hidden, noscript')) continue;
    const behind = [];
    for (let it = element; it; it = it.parentElement) behind.unshift(getComputedStyle(it).backgroundColor);
    const [one, other] = [light(rgba(behind)), light(rgba([...behind, getComputedStyle(element).color]))];
    const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
    if (contrast < 4.5) pale.push([element.className, element.textContent.slice(0, 40), contrast]);
  }
  return pale;
"""


def test_five_hundred_breakers_are_shown_and_found(browser: Chromium) -> None:
    """Hundreds of breakers: the unhealthy ones are on top, the filter and the toggle find them, and each is counted once."""
    many = [breaker(f"pkg.Service{number // 10}/Method{number}") for number in range(498)]
    ill = [
        breaker("z.v1.Z/Open", pb.STATE_OPEN),
        breaker("y.v1.Y/Held", pb.STATE_FORCED_OPEN, hold=pb.Hold(reason="INC-7")),
    ]
    with StandIn(*many, *ill) as process, page(Targets([process.target]), browser) as address:
        browser.open(address)
        browser.wait(rows(500))
        browser.wait("document.querySelector('#rows .row').classList.contains('open')")
        assert names(browser)[:2] == ["z.v1.Z/Open", "y.v1.Y/Held"]
        browser.press("/", "inc-7 forced")
        browser.wait(rows(1))
        browser.press("Escape")
        browser.wait(rows(500))
        browser.press("Enter", "u")
        browser.wait(rows(2))
        browser.open(address)  # the choice outlives a reload
        browser.wait(rows(2))
        browser.run("document.getElementById('unhealthy').click()")
        browser.wait(rows(500))
        process.push(breaker(f"{many[250].name}", pb.STATE_OPEN), changed=True)
        browser.wait(f"document.querySelector('#rows .row').dataset.name === '{many[250].name}'")
        process.push(breaker(many[3].name, failures=5))
        tiles = "[...document.querySelectorAll('#summary .badge')].map((it) => it.lastChild.textContent).join()"
        browser.wait(f"{tiles} === '2 open,1 forced open,1 closed with failures,496 closed'")


def test_the_page_asks_nobody_but_its_server(browser: Chromium) -> None:
    """Whatever is opened on it, the page makes no request to another server."""
    browser.requested()
    with StandIn(breaker()) as process, page(Targets([process.target]), browser) as address:
        browser.open(address)
        browser.wait(rows(1))
        browser.press("Down", "Enter")
        browser.wait("document.querySelector('#pane table')")
        asked = {urlsplit(it) for it in browser.requested()}
        assert {(it.scheme, it.netloc) for it in asked} == {("http", urlsplit(address).netloc)}
        assert not any("a-token" in f"{it.path}{it.query}" for it in asked)


def test_the_focus_stays_where_it_is(browser: Chromium) -> None:
    """A row that moves keeps the focus; the arrow keys go through the rows; Escape closes the details and goes back."""
    with (
        StandIn(breaker("a"), breaker("b"), breaker("c")) as process,
        page(Targets([process.target]), browser) as address,
    ):
        browser.open(address)
        browser.wait(rows(3))
        browser.press("Down", "Down", "Down")
        assert browser.run(f"return {FOCUSED}") == "c"
        process.push(breaker("c", pb.STATE_OPEN), changed=True)
        browser.wait("document.querySelector('#rows .row').dataset.name === 'c'")
        assert browser.run(f"return {FOCUSED}") == "c"
        assert browser.run("return document.activeElement.matches(':focus-visible')")
        browser.press("Enter")
        browser.wait("document.querySelector('#pane table')")
        assert browser.run(f"return {FOCUSED}") == "pane"
        browser.press("Escape")
        browser.wait("document.getElementById('pane').hidden")
        assert browser.run(f"return {FOCUSED}") == "c"
        browser.press("Up", "Down")
        assert browser.run(f"return {FOCUSED}") == names(browser)[1]


def test_a_reload_keeps_the_last_minutes(browser: Chromium) -> None:
    """The strip is kept by the server: after a reload it still says that the breaker was open."""
    with StandIn(breaker()) as process, page(Targets([process.target]), browser) as address:
        browser.open(address)
        browser.wait(rows(1))
        process.push(breaker(state=pb.STATE_OPEN), changed=True)
        browser.wait("document.querySelector('#rows .row.open')")
        process.push(breaker(), changed=True)
        browser.wait("document.querySelector('#rows .row.closed')")
        browser.open(address)
        browser.wait("document.querySelector('#rows canvas').getAttribute('aria-label').startsWith('open ')")


def test_a_strip_goes_on_when_the_clock_is_set_back(browser: Chromium, clock: Clock) -> None:
    """What happens by an earlier time than the last is shown in the strip at once, not when that time comes again."""
    with StandIn(breaker()) as process, page(Targets([process.target]), browser, clock) as address:
        browser.open(address)
        browser.wait(rows(1))
        clock.now -= 3600
        process.push(breaker(state=pb.STATE_OPEN), changed=True)
        browser.wait("document.querySelector('#rows canvas').getAttribute('aria-label').startsWith('open ')")


def test_it_fits_a_telephone(browser: Chromium) -> None:
    """At 400 pixels nothing is cut off, with long names and with the details open."""
    browser.look(width=400, height=800)
    broken = breaker(LONG, pb.STATE_OPEN, last_failure=pb.Failure(status="UNAVAILABLE", details="x" * 200))
    with StandIn(broken, breaker(LONG + "2")) as process, page(Targets([process.target]), browser) as address:
        browser.open(address)
        browser.wait(rows(2))
        wide = "return Math.max(document.documentElement.scrollWidth, document.getElementById('pane').scrollWidth)"
        assert browser.run(wide) <= 400
        browser.press("Down", "Enter")
        browser.wait("document.querySelector('#pane table')")
        assert browser.run(wide) <= 400


@pytest.mark.parametrize("reduced", [False, True])
def test_motion_can_be_reduced(browser: Chromium, reduced: bool) -> None:
    """A row whose state has changed is marked by a motion, unless the user prefers none."""
    browser.look(reduced_motion=reduced)
    with StandIn(breaker()) as process, page(Targets([process.target]), browser) as address:
        browser.open(address)
        browser.wait(rows(1))
        process.push(breaker(state=pb.STATE_OPEN), changed=True)
        browser.wait("document.querySelector('#rows .row.fresh')")
        moves = browser.run(
            "return getComputedStyle(document.querySelector('#rows .row.fresh')).animationName !== 'none'"
        )
        assert moves is not reduced


def test_a_page_without_its_server_says_so(_browser: Chromium) -> None:
    """A page whose command has ended does not look live, and says since when what it shows is old."""
    with StandIn(breaker()) as process:
        with page(Targets([process.target]), None) as address:
            _browser.open(address)
            _browser.wait(rows(1))
        _browser.wait("document.querySelector('#contact.lost')")
        assert "What is shown is from" in text_of(_browser, "#contact")
    _browser.leave()
    _browser.log()


def test_a_page_without_the_token_says_so(browser: Chromium) -> None:
    """Who opens the address without what is after the # sees no breakers, and reads what to do."""
    with StandIn(breaker()) as process, page(Targets([process.target]), browser) as address:
        browser.open(address.partition("#")[0])
        browser.wait("document.querySelector('#contact.lost')")
        assert "open the address that grpc-breaker web printed" in text_of(browser, "#contact")
        assert names(browser) == []
