"""A price page's backend in Flask: `flask --app "examples.pricing.web_flask:from_environment" run`.

The server's address is read from PRICING_TARGET, and `resilience.json` again whenever it changes. One channel and one
set of breakers serve all threads of the process. A server that forks its workers must create the app after the fork:
gRPC's channels do not survive one.
"""

from __future__ import annotations

import os

import grpc
from flask import Flask, Response, jsonify

from examples.pricing import checkout, shop, web
from examples.pricing.v1.pricing_pb2 import GetPriceRequest
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry


def create_app(channel: grpc.Channel, breakers: BreakerRegistry) -> Flask:
    """An app that gets prices over a guarded channel, and shows the state of its breakers."""
    pricing = PricingStub(channel)
    app = Flask(__name__)

    @app.get("/price/<product_id>")
    def price(product_id: str) -> tuple[Response, int, dict[str, str]]:
        """The price of one product, with `stale: true` when it is the last known one."""
        try:
            response, call = pricing.GetPrice.with_call(GetPriceRequest(product_id=product_id))
        except grpc.RpcError as error:  # CallRefusedError is one
            answer = web.failed(error)
        else:
            answer = web.priced(response.price, shop.fallback_of(call.trailing_metadata()))
        return jsonify(answer.body), answer.status, answer.headers

    @app.get("/breakers")
    def states() -> Response:
        """The state of every breaker."""
        return jsonify(web.states(breakers))

    return app


def from_environment() -> Flask:
    """The app for the pricing server at PRICING_TARGET."""
    breakers = shop.breakers()
    breakers.watch(shop.DOCUMENT)
    channel = checkout.connect(os.environ.get("PRICING_TARGET", "127.0.0.1:50051"), breakers)
    return create_app(channel, breakers)
