"""The registry as its users see it: the core's, with service configs, and with what waits: the core never does."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from os import PathLike
from random import random as uniform
from threading import Event
from typing import Any, Final, Self

from google.protobuf.descriptor_pb2 import MethodDescriptorProto

from grpc_breaker._core.holds import UNLIMITED, new_hold
from grpc_breaker._core.holds_by_name import name_of
from grpc_breaker._core.method_policy import MethodPolicy
from grpc_breaker._core.names import check_names, streams_of
from grpc_breaker._core.registry import Registry
from grpc_breaker._core.state import State
from grpc_breaker._service_config import ServiceConfig, channel_config, differences, read, write
from grpc_breaker._waiting import check_method, check_timeout, pauses
from grpc_breaker._watching import Watcher

Source = str | PathLike[str] | Mapping[str, Any]

_EVERY: Final = 5.0


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload has changed."""

    changed: tuple[str, ...]
    """The methods and services whose policy is another one now, sorted; "" stands for the default."""
    next_channel: tuple[str, ...]
    """Keys that have changed and that channels read only when they are made: a new channel takes them up."""


class BreakerRegistry(Registry):
    """The breakers of a process, or of a part of it: one for each RPC method, made on first use.

    One registry serves sync and asyncio interceptors, several channels, threads and event loops at once.
    """

    __module__ = "grpc_breaker"

    _service_config: ServiceConfig | None = None
    """What was read last; `None` for policies that were given in Python."""
    _source: Source | None = None
    _functions: Mapping[str, Callable[..., Any]] | None = None
    _streams: frozenset[str] = frozenset()
    """The methods that stream, as far as anyone has said."""

    @classmethod
    def from_service_config(
        cls,
        source: Source,
        *,
        functions: Mapping[str, Callable[..., Any]] | None = None,
        max_breakers: int = 1000,
        clock: Callable[[], float] = time.monotonic,
        random: Callable[[], float] = uniform,
    ) -> Self:
        """Make a registry of a gRPC service config with this package's keys in it.

        Methods that no entry of the document covers are left alone; an entry `{}` covers all others.

        Args:
            source: A path, JSON text that begins with "{", or the document as a dict.
            functions: The functions that the document may name, as a fallback or to classify calls, by these names.
            max_breakers: Above so many breakers, idle closed ones are evicted. Default 1000.
            clock: Returns seconds that never run backwards, counted from any moment.
            random: Returns a number in [0, 1), for everything that is left to chance.

        Raises:
            ServiceConfigError: The document cannot be read, or something in it is wrong; it says all that is.
            TypeError: An argument of the wrong kind.
            ValueError: `max_breakers` is below 1.
        """
        config = read(source, functions or {})
        registry = cls(
            config.policies,
            default=config.default,
            retry_throttling=config.retry_throttling,
            max_breakers=max_breakers,
            clock=clock,
            random=random,
        )
        registry._service_config, registry._source, registry._functions = config, source, functions
        return registry

    def reload(self, source: Source | None = None) -> Reloaded:
        """Put another service config in force: all of it or, where something in it is wrong, nothing.

        The states of breakers, what they counted and the calls in flight stay; see `reconfigure`. What a channel does
        itself, such as load balancing, does not change in one that is open: the answer says what waits for the next.

        Args:
            source: A path, JSON text that begins with "{", or the document as a dict. Default `None`: the same as
                before, if that was a path.

        Returns:
            What has changed.

        Raises:
            ServiceConfigError: The document cannot be read, or something in it is wrong; nothing has changed.
            TypeError: `source` is none of these, or there was none before.
        """
        if source is None:
            source = self._source
            if source is None:
                message = "reload needs a source: this registry was not made from a service config"
                raise TypeError(message)
        before, new = self._config_of_channels(), read(source, self._functions or {})
        changed = self.reconfigure(new.policies, default=new.default, retry_throttling=new.retry_throttling)
        self._service_config, self._source = new, source
        return Reloaded(changed, differences(before, self._config_of_channels()))

    def watch(self, path: str | PathLike[str], *, every: float = _EVERY) -> Callable[[], None]:
        """Reload a file whenever its content changes.

        A daemon thread reads the file and compares what is in it, which also sees what Kubernetes does: a mounted
        ConfigMap changes by a link, which neither times nor notifications of the file show. A file that is missing or
        wrong is logged, once for each content, and changes nothing; the next good one is taken. In a forked child the
        watch goes on. It ends with the registry.

        Args:
            path: The file.
            every: Seconds between two looks, from 0.01. Default 5.

        Returns:
            A function that ends it.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: `every` is out of range.
        """
        return Watcher(self, path, every).stop

    def force_open(self, name: str, *, ttl: float | None = None, reason: str = "") -> tuple[str, ...]:
        """Have breakers refuse every call, those there are and those made from now on.

        Args:
            name: A method, "pkg.Service/Method", a service or a group, at all targets or, with "@eu" after it, at one;
                "@eu" alone for everything at a target.
            ttl: For how many seconds, from 0.000001. Default `None`: until another order.
            reason: Why, at most 200 characters; the details of the events. Default: none.

        Returns:
            The names of the breakers there are, sorted.

        Raises:
            TypeError: An argument of the wrong kind.
            ValueError: No breaker and no policy has the name, `ttl` is out of range, or `reason` too long.
        """
        order = new_hold("force_open", ttl, reason, self._clock())
        return self._holds.give(name_of(name, self, self._configuration), State.FORCED_OPEN, order, self)

    def disable(self, name: str, *, ttl: float | None = None, reason: str = "") -> tuple[str, ...]:
        """Have breakers let every call pass, counted; arguments, result and errors are those of `force_open`."""
        order = new_hold("disable", ttl, reason, self._clock())
        return self._holds.give(name_of(name, self, self._configuration), State.DISABLED, order, self)

    def reset(self, name: str) -> tuple[str, ...]:
        """Close breakers and forget what they counted; see `force_open` for names, the result and errors."""
        return self._holds.give(name_of(name, self, self._configuration), State.CLOSED, UNLIMITED, self)

    def channel_options(self, *described: object) -> list[tuple[str, str]]:
        """The options of a channel that leave to gRPC what only a channel can do: load balancing and its like.

        ::

            options = breakers.channel_options(pricing_pb2)
            channel = grpc.intercept_channel(
                grpc.insecure_channel(address, options=options), CircuitBreakerInterceptor(breakers)
            )

        Retries of calls of one request and one answer are this package's: each asks the breaker. Those of streams only
        the channel can make; it needs to know which methods stream.

        Args:
            *described: What describes the services: modules that protoc generated, protobuf's descriptors of files or
                services, or stubs or their classes. Default: none, and no stream is retried.

        Returns:
            The option `grpc.service_config`; no option where there is nothing for the channel to do.

        Raises:
            TypeError: Something that describes no services.
        """
        self._streams |= streams_of(described, _is_stream)
        config = self._config_of_channels()
        return [("grpc.service_config", json.dumps(config))] if config else []

    def to_service_config(self, functions: Mapping[str, Callable[..., Any]] | None = None) -> dict[str, Any]:
        """The policies as a service config: reading it makes the same policies again.

        Args:
            functions: The names of the functions in the policies. Default `None`: those of `from_service_config`.

        Raises:
            ServiceConfigError: A policy has what a document cannot say: a function without a name, a target.
            TypeError: `functions` is no mapping of names to callables.
        """
        configuration = self._configuration
        rest = None if self._service_config is None else self._service_config.document
        functions = self._functions if functions is None else functions
        return write(configuration.policies, configuration.default, configuration.retry_throttling, functions, rest)

    def _config_of_channels(self) -> dict[str, Any]:
        """What a channel would get that was made now."""
        config = self._service_config
        if config is None:
            configuration = self._configuration
            only_retries = {
                name: MethodPolicy(breaker=None, retry=policy.retry)
                for name, policy in {**configuration.policies, "": configuration.default}.items()
                if policy is not None and "@" not in name
            }
            default = only_retries.pop("", None)
            document = write(only_retries, default, configuration.retry_throttling)
            config = ServiceConfig(policies=only_retries, default=default, document=document)
        return channel_config(config, self._streams)

    def check(self, *described: object) -> None:
        """Check that services have the methods that the policies are for.

        For a test of your own::

            breakers.check(pricing_pb2, health_pb2)

        Args:
            *described: All services that the policies name: modules that protoc generated, protobuf's descriptors of
                files or services, or stubs or their classes.

        Raises:
            TypeError: Something that describes no services.
            ValueError: Names that no service and no method has, each with the nearest one that there is.
        """
        check_names(self._configuration.policies, described)

    def wait_until_admitted(self, method: str | bytes, timeout: float, *, target: str | None = None) -> bool:
        """Wait until a call of a method would be admitted: for a batch job that has nothing better to do.

        Blocks the calling thread; in asyncio use `aio.wait_until_admitted`. Nothing is reserved: another call may come
        first, so a loop of its own makes the call, and waits again if it is refused::

            while breakers.wait_until_admitted("pricing.v1.Pricing/GetPrice", timeout=60):
                try:
                    return stub.GetPrice(request, timeout=1)
                except CallRefusedError:
                    continue

        Args:
            method: The method, "pricing.v1.Pricing/GetPrice".
            timeout: Seconds to wait at most, 0 or more; at 0 it only looks.
            target: The target, where the interceptor has one.

        Returns:
            True when a call of one request and one answer would be admitted now; a throttle, which refuses by chance,
            is not asked. False when the time is over.

        Raises:
            TypeError: `method` is neither a string nor bytes, `timeout` no number, or `target` no string.
            ValueError: `method` is the name of no method, `timeout` is negative or not a number, or `target` is none.
        """
        check_method(method)
        seconds = check_timeout(timeout)
        breaker = self.breaker_for(method, target)
        if breaker is None or breaker.refusal_now() is None:
            return True
        changed = Event()
        end = breaker.on_state_change(lambda _: changed.set())
        try:
            deadline = time.monotonic() + seconds
            for pause in pauses(self, method, target):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                changed.wait(min(pause, left))
                changed.clear()
        finally:
            end()
        return True


# Python's own errors about arguments name a function by its class, and users know this one.
Registry.__init__.__qualname__ = f"{BreakerRegistry.__qualname__}.__init__"


def _is_stream(method: Any) -> bool:
    """Whether a descriptor is that of a method that streams. Older versions of protobuf do not say it themselves."""
    proto = MethodDescriptorProto()
    method.CopyToProto(proto)
    return proto.client_streaming or proto.server_streaming
