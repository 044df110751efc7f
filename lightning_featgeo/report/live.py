"""The report as a page that follows its runs: served to this machine only, and nothing but the page."""

from __future__ import annotations

import contextlib
import hashlib
import html
import itertools
import sys
import threading
from collections.abc import Callable, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from lightning_featgeo.errors import printable
from lightning_featgeo.report.page import file_of_page
from lightning_featgeo.report.runs import ReportError, find

ADDRESS = "127.0.0.1"
WAITING = "<!doctype html><html><head><meta charset='utf-8'><title>waiting</title></head><body><p>{}</p></body></html>"


class LiveReport:
    """What is served: the page of the newest state, made when somebody asks for it.

    Args:
        paths: histories, or folders that hold some, now or later.
        make: the page's text, from these paths.
    """

    def __init__(self, paths: Sequence[str], make: Callable[[Sequence[str]], str]) -> None:
        self.paths, self._make = paths, make
        self._lock = threading.Lock()
        self._made: tuple[str, str] = ("", "")  # version and page
        self._stale = ""  # why the page is not of this version

    def version(self) -> str:
        """Changes whenever a history grows, comes or goes."""
        seen = []
        for file in itertools.chain.from_iterable(self._found().values()):
            try:
                state = file.stat()
            except OSError:
                continue  # deleted a moment ago
            seen.append(f"{file}|{state.st_size}|{state.st_mtime_ns}")
        return hashlib.sha256("\n".join(seen).encode("utf-8", "replace")).hexdigest()[:16]

    def _found(self) -> dict[str, list[Path]]:
        """The histories at or below each path that has some now."""
        found = {}
        for path in self.paths:
            try:
                found[path] = find([path])
            except (ReportError, OSError):
                continue  # none yet
        return found

    def page(self) -> str:
        """The page as of now; where none can be made, the last one that could and why, or what is missing."""
        with self._lock:
            version = self.version()
            if self._made[0] != version:
                try:
                    self._made, self._stale = (version, self._make([*self._found()] or self.paths)), ""
                except Exception as error:  # whatever it is: the browser must have a page that looks again
                    stale = printable(str(error) or type(error).__name__)
                    if stale != self._stale:
                        print(f"featgeo: {stale}", file=sys.stderr, flush=True)
                    self._stale = stale
            page = self._made[1] or WAITING.format(html.escape(self._stale))
            return self._live(page, version, self._stale if self._made[1] else "")

    def _live(self, page: str, version: str, stale: str) -> str:
        page = page.replace("default-src 'none';", "default-src 'none'; connect-src 'self';", 1)
        page = page.replace("<html", f"<html data-version='{version}'", 1)
        old = html.escape(f"This is the last page that could be made: {stale}", quote=True) if stale else ""
        script = f'<p id="live" class="soft" role="status" data-stale="{old}">{old}</p>'
        script += f"<script>{file_of_page('live.js')}</script>"
        head, end, tail = page.rpartition("</body>")
        return f"{head}{script}{end}{tail}"


def server(report: LiveReport, port: int = 0) -> ThreadingHTTPServer:
    """A server on this machine's own address.

    Args:
        report: what it serves.
        port: 0: one that is free.

    Raises:
        ReportError: if the port is taken.
    """

    own: set[str] = set()

    class Handler(BaseHTTPRequestHandler):
        timeout = 60  # seconds for a request to come
        server_version, sys_version = "featgeo", ""

        def do_GET(self) -> None:
            """The page at /, its version at /version; to nobody who came under another name."""
            if self.headers.get("Host") not in own:  # another site's page that has itself resolved to this machine
                self.send_error(
                    HTTPStatus.FORBIDDEN, f"open http://{ADDRESS}:{made.server_port}/ (a tunnel: the same port)"
                )
            elif self.path == "/":
                self._send(report.page(), "text/html")
            elif self.path == "/version":
                self._send(report.version(), "text/plain")
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _send(self, text: str, kind: str) -> None:
            body = text.encode("utf-8", "replace")
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("X-Content-Type-Options", "nosniff")
            self.end_headers()
            with contextlib.suppress(ConnectionError):  # the browser went on
                self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing: requests are the page's own."""

    try:
        made = ThreadingHTTPServer((ADDRESS, port), Handler)
    except (OSError, OverflowError) as error:
        why = getattr(error, "strerror", None) or error
        hint = f"port {port} can't be used ({why}): choose another with --port, or leave it out"
        raise ReportError(hint) from None
    made.daemon_threads = True
    names = (ADDRESS, "localhost")
    own.update(f"{name}:{made.server_port}" for name in names)
    if made.server_port == 80:
        own.update(names)  # browsers leave it out
    return made
