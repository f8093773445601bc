"""Which processes a command asks, and how it connects to them.

They are those that `--target` names, or all processes of this user on this host that serve their breakers on a unix
socket. What is asked for the latter is looked for anew each time, because processes come and go.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import grpc

from grpc_breaker._core.log import printable
from grpc_breaker.admin._sockets import address_of, folders, found_in
from grpc_breaker.admin.v1.admin_pb2_grpc import BreakerAdminStub

TIMEOUT: Final = 2.0
"""Seconds that a process has for an answer. One that is stopped gives none."""

_CHANNEL: Final = (
    ("grpc.max_receive_message_length", 64 << 20),  # ten thousand breakers with the details of a failure each
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 10_000),  # how long connecting may take: the deadline of a call says what to do
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.use_local_subchannel_pool", 1),  # the back-off of a process that is gone is no other one's
)


@dataclass(frozen=True, slots=True)
class Target:
    """A process to ask."""

    address: str
    """As gRPC wants it: "unix:/run/user/1000/grpc_breaker/4711.sock", "checkout:50051"."""
    credentials: grpc.ChannelCredentials | None = None
    """For TLS; `None` without."""
    server_name: str | None = None
    """Whose certificate the server must have, where it is not that of the address."""

    def channel(self) -> grpc.Channel:
        """Connect, with nothing between: no breaker, no retries. The caller closes it."""
        if self.credentials is None:
            return grpc.insecure_channel(self.address, _CHANNEL)
        named = () if self.server_name is None else (("grpc.ssl_target_name_override", self.server_name),)
        return grpc.secure_channel(self.address, self.credentials, (*_CHANNEL, *named))

    def __str__(self) -> str:
        return printable(self.address)


def stub_of(channel: grpc.Channel) -> Any:
    """The client of the admin service; grpcio gives the generated one no types."""
    return BreakerAdminStub(channel)


class Targets:
    """The processes that a command was told to ask."""

    def __init__(
        self,
        addresses: Sequence[str] = (),
        *,
        directory: Path | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        server_name: str | None = None,
    ) -> None:
        """Say which.

        Args:
            addresses: Those to ask, each once. Default: none, and the processes of this host are asked.
            directory: Where the sockets of this host's processes are. Default `None`: where they are by default.
            credentials: For TLS with `addresses` that are no unix sockets. Default `None`: no TLS.
            server_name: Whose certificate the servers must have. Default `None`: that of the address.
        """
        self._given = [
            Target(it) if it.startswith("unix:") else Target(it, credentials, server_name)
            for it in dict.fromkeys(addresses)
        ]
        self.directories = folders() if directory is None else [directory]
        """Where sockets are looked for."""

    @classmethod
    def of(cls, options: argparse.Namespace) -> Self:
        """What the options of `add_options` say.

        Raises:
            OSError: A file with a certificate or key cannot be read.
            ValueError: One is no PEM: with an empty file of authorities grpcio would trust the well-known ones. Or a
                certificate without its key, or the reverse, with which grpcio would abort the process.
        """
        if (options.cert_file is None) is not (options.key_file is None):
            message = "--cert-file and --key-file belong together: one is missing"
            raise ValueError(message)
        files = (options.ca_file, options.key_file, options.cert_file)
        credentials = None
        if options.tls or any(it is not None for it in (*files, options.server_name)):
            credentials = grpc.ssl_channel_credentials(*[None if it is None else _pem(Path(it)) for it in files])
        return cls(
            options.target,
            directory=options.directory,
            credentials=credentials,
            server_name=options.server_name,
        )

    def now(self) -> list[Target]:
        """The processes to ask now.

        A directory that is not to be trusted is left out where another has sockets: anyone can make one in the temp
        folder, and must not keep an operator from looking.

        Raises:
            PermissionError: A directory is not to be trusted, and no other has sockets.
        """
        if self._given:
            return self._given
        found: list[Target] = []
        wrong: PermissionError | None = None
        for folder in self.directories:
            try:
                found += [Target(address_of(path)) for path in found_in(folder)]
            except PermissionError as error:
                wrong = error
        if wrong is not None and not found:
            raise wrong
        return found

    @property
    def none_found(self) -> str:
        """What to say where there is none."""
        places = " and ".join(str(it) for it in self.directories)
        return f"no process of this user serves its breakers here: looked in {places}; else name one with --target"


def _pem(path: Path) -> bytes:
    content = path.read_bytes()
    if b"-----BEGIN " not in content:
        message = f"{path} is no PEM file"
        raise ValueError(message)
    return content


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which processes are asked."""
    group = parser.add_argument_group("which processes", "Default: all of this user that serve them on a unix socket.")
    group.add_argument(
        "--target",
        action="append",
        default=[],
        type=_address,
        metavar="HOST:PORT",
        help="ask this process, also unix:/PATH; may be given several times",
    )
    group.add_argument("--directory", type=Path, metavar="DIR", help="where the sockets of this host's processes are")
    group.add_argument(
        "--timeout",
        type=seconds(0.1, 600),
        default=TIMEOUT,
        metavar="SECONDS",
        help=f"how long a process may take to answer (default: {TIMEOUT:g})",
    )
    group.add_argument("--tls", action="store_true", help="TLS, checked against well-known authorities")
    group.add_argument("--ca-file", metavar="FILE", help="TLS, checked against these authorities (PEM)")
    group.add_argument("--cert-file", metavar="FILE", help="the client's certificate (PEM), with --key-file")
    group.add_argument("--key-file", metavar="FILE", help="the client's key (PEM)")
    group.add_argument(
        "--server-name",
        type=unicode_text,
        metavar="NAME",
        help="TLS; the name in the server's certificate, if not HOST",
    )


def unicode_text(text: str) -> str:
    """Reads an argument that is sent to processes, or is part of an address. Neither takes other bytes than UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        message = f"a text in the encoding of the terminal, not {text!r}"
        raise argparse.ArgumentTypeError(message) from None
    return text


def _address(text: str) -> str:
    text = unicode_text(text)
    if text.startswith("/"):
        return address_of(Path(text))
    if ":" not in text:
        message = f"a target is HOST:PORT or unix:/PATH, not {text!r}"
        raise argparse.ArgumentTypeError(message)
    return text


def seconds(least: float, most: float) -> Callable[[str], float]:
    """Reads an argument that is a number of seconds."""

    def read(text: str) -> float:
        message = f"a number of seconds from {least:g} to {most:g}, not {text!r}"
        try:
            given = float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(message) from None
        if not least <= given <= most:
            raise argparse.ArgumentTypeError(message)
        return given

    return read


def trouble_of(error: grpc.RpcError) -> str:
    """Why a process gave no answer, in words for an operator."""
    code, details = error.code(), printable(error.details() or "")  # type: ignore[attr-defined, unused-ignore]
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer in time: stopped, or too busy"
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return "it has no admin service for breakers"
    return f"{code.name}: {details}" if details else code.name
