"""Serving metrics over HTTP: one page, to whoever may reach the address."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from overlay.errors import NoPrivilege, OperationFailed, UsageError

__all__ = ["Endpoint", "parse_address"]

#: A scraper that is slower than this (s) does not keep a thread.
_PATIENCE = 10


def parse_address(text: str) -> tuple[str, int]:
    """``9435``, ``10.0.0.7:9435`` or ``[::1]:9435``; without a host only this machine.

    Raises :class:`UsageError`.
    """
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host or (colon and not host):
        port = ""
    if not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            f"no address to listen on: {text}",
            hint="give PORT, ADDRESS:PORT or [IPV6-ADDRESS]:PORT; port 0 is any that is free",
        )
    return host or "127.0.0.1", int(port)


class Endpoint:
    """An HTTP server for ``page`` (of ``content_type``) at ``/metrics``, until ``with`` ends.

    Raises :class:`UsageError` for an address that is not this machine's,
    :class:`NoPrivilege`, or :class:`OperationFailed` when it is in use.
    """

    def __init__(
        self, address: tuple[str, int], page: Callable[[], str], content_type: str
    ) -> None:
        class Handler(BaseHTTPRequestHandler):
            timeout = _PATIENCE
            server_version = "fallthru"
            sys_version = ""

            def do_GET(self) -> None:
                if self.path.partition("?")[0] not in ("/", "/metrics"):
                    self.send_error(404, "only /metrics is here")
                    return
                body = page().encode()
                self.send_response(200)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  (http.server's name)

            def log_message(self, format: str, *arguments: object) -> None:
                """Nothing: standard error is the recorder's."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET

            def handle_error(self, request: object, client_address: object) -> None:
                """Nothing: a scraper that hangs up is no event."""

        try:
            self._server = Server(address, Handler)
        except socket.gaierror as error:
            raise UsageError(
                f"no address to listen on: {address[0]}: {error.strerror}",
                hint="give a numeric address of this machine",
            ) from error
        except OSError as error:
            raise _refusal(address, error) from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="fallthru-metrics", daemon=True
        )

    @property
    def url(self) -> str:
        """Where the page is."""
        host, port = self._server.server_address[:2]
        name = str(host)
        return f"http://{f'[{name}]' if ':' in name else name}:{port}/metrics"

    def __enter__(self) -> Endpoint:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _refusal(address: tuple[str, int], error: OSError) -> Exception:
    message = f"cannot listen on {address[0]} port {address[1]}"
    number = error.errno or 0
    if isinstance(error, PermissionError):
        return NoPrivilege(message, hint="choose a port above 1023", errno=number)
    return OperationFailed(message, hint="choose another address or port", errno=number)
