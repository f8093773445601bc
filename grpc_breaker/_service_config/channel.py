"""What a channel of gRPC gets of the document: what only gRPC can do, and nothing that is done here.

- Never `timeout`: C-core ends every such call early, by a second and a part (grpc #34547, #40633).
- `retryPolicy` for streams alone, because only the channel can send a stream again. Calls of one request and one answer
  are retried here; where both did it, the attempts would multiply.
- None of our keys. gRPC lets unknown keys pass, but no version has promised to.
- Everything else as it is: load balancing, `waitForReady`, sizes of messages.

A channel reads its service config when it is made; `differences` says what an open one does not take up.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, cast

from grpc_breaker._service_config.keys import OURS
from grpc_breaker._service_config.reader import DEFAULT, ServiceConfig
from grpc_breaker._service_config.writer import as_name, names_of

_NOT_FOR_CHANNELS: Final = OURS | {"timeout"}


def channel_config(config: ServiceConfig, described_streams: Iterable[str] = ()) -> dict[str, Any]:
    """The service config of a channel; empty where gRPC has nothing to do.

    Args:
        config: What was read.
        described_streams: The methods known to have a stream of requests or answers, "pkg.Service/Method": those whose
            `retryPolicy` the channel is to follow.
    """
    document = config.document
    made = {key: it for key, it in document.items() if key not in {"methodConfig", "retryThrottling"}}
    entries = _entries(_read_entries(document), sorted(set(described_streams)))
    if any(entry.keys() != {"name"} for entry in entries):
        made["methodConfig"] = entries
    if any("retryPolicy" in entry for entry in entries) and document.get("retryThrottling") is not None:
        made["retryThrottling"] = document["retryThrottling"]
    return made


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    """The keys, of the document or of a `methodConfig`, whose change only a new channel takes up.

    Args:
        old: A document that was read, or what `channel_config` made of it, which has no `retryPolicy` but of streams.
        new: The other, of the same kind.
    """
    apart = {"methodConfig"}
    found = {key for key in (old.keys() | new.keys()) - apart if old.get(key) != new.get(key)}
    before, after = _by_name(old), _by_name(new)
    for name in before.keys() | after.keys():
        was, is_now = _covering(before, name), _covering(after, name)
        found |= {key for key in was.keys() | is_now.keys() if was.get(key) != is_now.get(key)}
    return tuple(sorted(found))


def _read_entries(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return cast("list[dict[str, Any]]", document.get("methodConfig", []))


def _entries(given: list[dict[str, Any]], streams: list[str]) -> list[dict[str, Any]]:
    """The entries of a channel: `retryPolicy` in those of streams, which have entries of their own where need be.

    An entry that has nothing left stays: it keeps its methods from the entries for their service and for `{}`.
    """
    by_name = {name: entry for entry in given for name in names_of(entry)}
    retried: dict[int, list[str]] = {}
    for stream in streams:
        entry = _covering(by_name, stream)
        if entry.get("retryPolicy") is not None:
            retried.setdefault(id(entry), []).append(stream)
    entries: list[dict[str, Any]] = []
    for entry in given:
        body = {key: it for key, it in entry.items() if key not in _NOT_FOR_CHANNELS and key != "name"}
        policy = body.pop("retryPolicy", None)
        here = retried.get(id(entry), [])
        others = [name for name in names_of(entry) if name not in here]
        if others:
            entries.append({"name": [as_name(name) for name in others], **body})
        if here:
            entries.append({"name": [as_name(name) for name in here], **body, "retryPolicy": policy})
    return entries


def _by_name(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: it for key, it in entry.items() if key not in _NOT_FOR_CHANNELS and key != "name"}
        for entry in _read_entries(document)
        for name in names_of(entry)
    }


def _covering(by_name: Mapping[str, dict[str, Any]], name: str) -> dict[str, Any]:
    """The entry that matches a name best; empty where none does."""
    for it in (name, name.partition("/")[0], DEFAULT):
        if it in by_name:
            return by_name[it]
    return {}
