"""The two web apps, FastAPI and Flask: the same responses, with a server that works, fails and dies."""

from __future__ import annotations

import asyncio
import importlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from examples.pricing import checkout, shop, web
from examples.pricing.switchboard import PricingServer
from grpc_breaker import BreakerRegistry, State

GET_PRICE = "pricing.v1.Pricing/GetPrice"


@dataclass(frozen=True, slots=True)
class Page:
    """An HTTP response, whichever framework sent it."""

    status: int
    headers: Mapping[str, str]
    """By lower-case name."""
    body: Any


Get = Callable[[str], Page]


@pytest.fixture
def breakers(config: Path) -> BreakerRegistry:
    """The shop's own breakers, with long deadlines."""
    return shop.breakers(config)


@pytest.fixture(params=["fastapi", "flask"])
def get(request: pytest.FixtureRequest, server: PricingServer, breakers: BreakerRegistry) -> Iterator[Get]:
    """Gets a page of either app."""
    yield from (fastapi_pages if request.param == "fastapi" else flask_pages)(server.address, breakers)


def fastapi_pages(target: str, breakers: BreakerRegistry) -> Iterator[Get]:
    """Pages of the FastAPI app, between its start-up and its shutdown."""
    pytest.importorskip("fastapi")
    httpx = pytest.importorskip("httpx")
    from examples.pricing import web_fastapi

    app = web_fastapi.create_app(target, breakers)
    client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop")
    lifespan = app.router.lifespan_context(app)
    with asyncio.Runner() as runner:

        def get(path: str) -> Page:
            response = runner.run(client.get(path))
            return Page(response.status_code, headers(response.headers.items()), response.json())

        runner.run(lifespan.__aenter__())
        yield get
        runner.run(lifespan.__aexit__(None, None, None))
        runner.run(client.aclose())


def flask_pages(target: str, breakers: BreakerRegistry) -> Iterator[Get]:
    """Pages of the Flask app."""
    pytest.importorskip("flask")
    from examples.pricing import web_flask

    with checkout.connect(target, breakers) as channel:
        client = web_flask.create_app(channel, breakers).test_client()

        def get(path: str) -> Page:
            response = client.get(path)
            return Page(response.status_code, headers(response.headers.items()), response.get_json())

        yield get


def headers(items: Iterable[tuple[str, str]]) -> dict[str, str]:
    """A response's headers, by lower-case name."""
    return {name.lower(): value for name, value in items}


def trip(server: PricingServer, get: Get) -> None:
    """Make the server fail until the breaker opens."""
    server.switchboard.suffer(error_rate=1.0)
    while get("/price/grinder").status != 503:  # failures that may be one incident take a second
        pass


def test_a_price(get: Get) -> None:
    """A price is a 200 with exact text, and not stale."""
    page = get("/price/grinder")
    assert page.status == 200
    assert page.body == {"product_id": "grinder", "price": "89.00", "currency": "EUR", "stale": False}


def test_an_unknown_product(get: Get) -> None:
    """A product the shop does not sell is a 404."""
    page = get("/price/yacht")
    assert (page.status, page.body) == (404, {"detail": "the shop does not sell 'yacht'"})


@pytest.mark.parametrize(("status", "expected"), [("INTERNAL", 502), ("UNAVAILABLE", 502), ("DEADLINE_EXCEEDED", 504)])
def test_a_failure(server: PricingServer, get: Get, status: str, expected: int) -> None:
    """A failed call without a last known price is a 502, an expired deadline a 504; neither says when to retry, nor why."""
    server.switchboard.suffer(error_rate=1.0, error_status=status)
    page = get("/price/grinder")
    assert (page.status, page.body) == (expected, {"detail": web.DETAILS[expected]})
    assert "retry-after" not in page.headers


def test_a_hanging_server(server: PricingServer, get: Get, breakers: BreakerRegistry) -> None:
    """A server that never responds is a 504, after the deadline of the service config."""
    breakers.reload(shop.DOCUMENT)
    server.switchboard.suffer(hang=True)
    assert get("/price/grinder").status == 504


def test_a_refusal(server: PricingServer, get: Get, breakers: BreakerRegistry) -> None:
    """A refused call without a last known price is a 503 whose Retry-After is a whole number of seconds from 1."""
    trip(server, get)
    page = get("/price/grinder")
    assert breakers[GET_PRICE].state is State.OPEN
    assert page.status == 503
    assert 1 <= int(page.headers["retry-after"]) <= 60
    assert page.body["detail"].startswith(f"circuit breaker open for {GET_PRICE}; next probe in ")


def test_a_refusal_by_a_limit(get: Get, breakers: BreakerRegistry, config: Path) -> None:
    """A call that a rate limit refuses is a 503 with Retry-After, too, if there is no last known price."""
    document = json.loads(config.read_text("utf-8"))
    document["methodConfig"][0]["rateLimit"] = {"callsPerSecond": 0.001, "burst": 1}
    breakers.reload(document)
    pages = [get(f"/price/{product_id}") for product_id in ("grinder", "milk-jug", "grinder")]
    assert [page.status for page in pages] == [200, 503, 200]
    assert 900 < int(pages[1].headers["retry-after"]) <= 1000
    assert [page.body["stale"] for page in pages[::2]] == [False, True]


def test_a_refusal_by_an_operator(get: Get, breakers: BreakerRegistry) -> None:
    """While an operator holds the breaker open a page is a 503 with a fixed Retry-After."""
    breakers[GET_PRICE].force_open()
    page = get("/price/grinder")
    assert (page.status, page.headers["retry-after"]) == (503, str(web.RETRY_AFTER_OPERATOR))


def test_a_stale_price(server: PricingServer, get: Get, breakers: BreakerRegistry) -> None:
    """In an outage, while the breaker is closed and while it is open, a page is a 200 with the last known price marked stale."""
    get("/price/grinder")
    server.switchboard.suffer(error_rate=1.0)
    for force_open in (False, True):
        if force_open:
            breakers[GET_PRICE].force_open()
        page = get("/price/grinder")
        assert page.status == 200
        assert (page.body["price"], page.body["stale"]) == ("89.00", True)


def test_a_dead_server(server: PricingServer, get: Get) -> None:
    """Without a server pages are 502 until the breaker opens, and 503 from then on."""
    server.die()
    statuses = [get("/price/grinder").status]
    while 503 not in statuses:
        statuses.append(get("/price/grinder").status)
    assert set(statuses[:-1]) == {502}


def test_the_breakers_page(server: PricingServer, get: Get) -> None:
    """/breakers shows the state of every breaker that has been used."""
    trip(server, get)
    page = get("/breakers")
    assert page.status == 200
    assert {name: breaker["state"] for name, breaker in page.body.items()} == {GET_PRICE: "open"}


def test_the_breakers_page_names_no_host(server: PricingServer, get: Get, breakers: BreakerRegistry) -> None:
    """/breakers shows no address of the pricing server, although the failures that the breaker remembers name it."""
    server.die()
    get("/price/grinder")
    port = f":{server.port}"
    assert port in str(breakers.snapshot())
    assert port not in str(get("/breakers").body)


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_an_app_from_the_environment(framework: str, monkeypatch: pytest.MonkeyPatch, config: Path) -> None:
    """Either app is made with nothing but an address in the environment, and takes up a service config that changes."""
    pytest.importorskip(framework)
    monkeypatch.setenv("PRICING_TARGET", "127.0.0.1:1")
    monkeypatch.setattr(shop, "DOCUMENT", config)
    module = importlib.import_module(f"examples.pricing.web_{framework}")
    made: list[BreakerRegistry] = []
    ends: list[Callable[[], None]] = []
    reloaded = threading.Event()

    class Registry(BreakerRegistry):
        def watch(self, path: Any, *, every: float = 0.01) -> Callable[[], None]:
            made.append(self)
            ends.append(super().watch(path, every=every))
            return ends[-1]

        def reload(self, source: Any = None) -> Any:
            try:
                return super().reload(source)
            finally:
                reloaded.set()

    monkeypatch.setattr(shop, "BreakerRegistry", Registry)
    assert callable(module.from_environment())
    ((breakers,), (end,)) = made, ends
    config.write_text(
        config.read_text("utf-8").replace('"consecutiveFailures": 5', '"consecutiveFailures": 7'), "utf-8"
    )
    while breakers[GET_PRICE].policy.consecutive_failures != 7:
        assert reloaded.wait(10)
        reloaded.clear()
    end()
