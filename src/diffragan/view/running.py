"""The server's life: a free port of this machine, the address in words, an end by Ctrl-C."""

from __future__ import annotations

import socket
from collections.abc import Callable
from secrets import token_urlsafe
from urllib.parse import quote

import uvicorn

from diffragan.errors import DiffraganError
from diffragan.view.opened import Opened
from diffragan.view.server import application

HOST = "127.0.0.1"


def serve(
    opened: Opened, port: int = 0, *, ready: Callable[[str], None], fragment: str = ""
) -> None:
    """Serves what was opened on this machine alone, until Ctrl-C.

    Args:
        port: 0 for any that is free.
        ready: told the address, with its token, once it answers.
        fragment: what follows the address's "#", the view to open with.

    Raises:
        DiffraganError: the port is taken.
    """
    with bound(port) as listener:
        if opened.items is not None:
            opened.items.read_on()
        try:
            server_on(listener, opened, ready, fragment).run([listener])
        except KeyboardInterrupt:
            return


def server_on(
    listener: socket.socket, opened: Opened, ready: Callable[[str], None], fragment: str = ""
) -> uvicorn.Server:
    """The server of one opened path, to be run on a bound socket, with a token of its own."""
    port, token = listener.getsockname()[1], token_urlsafe(24)
    view = "#" + quote(fragment, safe="/?=&") if fragment else ""
    address = f"http://{HOST}:{port}/{token}/{view}"
    config = uvicorn.Config(
        application(opened, token, port),
        log_level="warning",
        access_log=False,  # it would tell the token
        timeout_graceful_shutdown=1,
        server_header=False,
    )
    return _Told(config, lambda: ready(address))


class _Told(uvicorn.Server):
    """A server that says when it answers."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()


def bound(port: int) -> socket.socket:
    """A socket of this machine alone; errors as `serve`."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError:
        listener.close()
        raise DiffraganError(
            f"Port {port} is taken; give another with --port, or none for any that is free."
        ) from None
    return listener
