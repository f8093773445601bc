"""A price page's backend in Flask: `flask --app "examples.pricing.web_flask:from_environment" run`.

The server's address is read from PRICING_TARGET. One channel and one set of breakers serve all threads of the process.
A server that forks its workers must create the app after the fork: gRPC's channels do not survive one.
"""

from __future__ import annotations

import os

import grpc
from flask import Flask, Response, jsonify

from examples.pricing import shop, web
from examples.pricing.v1.pricing_pb2 import GetPriceRequest
from examples.pricing.v1.pricing_pb2_grpc import PricingStub
from grpc_breaker import BreakerRegistry, CircuitBreakerInterceptor


def create_app(channel: grpc.Channel, breakers: BreakerRegistry) -> Flask:
    """An app that gets prices over `channel`, with these breakers."""
    pricing = PricingStub(grpc.intercept_channel(channel, CircuitBreakerInterceptor(breakers)))
    known = shop.LastKnownPrices()
    app = Flask(__name__)

    @app.get("/price/<product_id>")
    def price(product_id: str) -> tuple[Response, int, dict[str, str]]:
        """The price of one product, with `stale: true` when it is the last known one."""
        try:
            response = pricing.GetPrice(GetPriceRequest(product_id=product_id), timeout=shop.PATIENCE)
        except grpc.RpcError as error:  # CircuitOpenError is one
            answer = web.failed(product_id, error, known)
        else:
            answer = web.fresh(response.price, known)
        return jsonify(answer.body), answer.status, answer.headers

    @app.get("/breakers")
    def states() -> Response:
        """The state of every breaker."""
        return jsonify(web.states(breakers))

    return app


def from_environment() -> Flask:
    """The app for the pricing server at PRICING_TARGET."""
    channel = grpc.insecure_channel(os.environ.get("PRICING_TARGET", "127.0.0.1:50051"))
    return create_app(channel, shop.breakers())
