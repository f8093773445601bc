"""A price page's backend in FastAPI: `uvicorn --factory examples.pricing.web_fastapi:from_environment`.

The server's address is read from PRICING_TARGET, and `resilience.json` again whenever it changes. The channel belongs
to the event loop, so it is opened when the app starts up; the breakers do not, so they are made with the app and
outlive a restart of its lifespan.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncGenerator
from typing import Any

import grpc
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from examples.pricing import checkout_aio, shop, web
from examples.pricing.v1.pricing_pb2 import GetPriceRequest
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry


def create_app(target: str, breakers: BreakerRegistry) -> FastAPI:
    """An app that gets prices from the server at `target`, with these breakers."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        async with checkout_aio.connect(target, breakers) as channel:
            app.state.pricing = PricingStub(channel)
            yield

    app = FastAPI(title="Prices", lifespan=lifespan)

    @app.get("/price/{product_id}")
    async def price(product_id: str) -> JSONResponse:
        """The price of one product, with `stale: true` when it is the last known one."""
        call = app.state.pricing.GetPrice(GetPriceRequest(product_id=product_id))
        try:
            response = await call
        except grpc.RpcError as error:  # CallRefusedError is one
            answer = web.failed(error)
        else:
            answer = web.priced(response.price, shop.fallback_of(await call.trailing_metadata()))
        return JSONResponse(answer.body, answer.status, answer.headers)

    @app.get("/breakers")
    async def states() -> dict[str, dict[str, Any]]:
        """The state of every breaker."""
        return web.states(breakers)

    return app


def from_environment() -> FastAPI:
    """The app for the pricing server at PRICING_TARGET."""
    breakers = shop.breakers()
    breakers.watch(shop.DOCUMENT)
    return create_app(os.environ.get("PRICING_TARGET", "127.0.0.1:50051"), breakers)
