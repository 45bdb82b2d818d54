"""A package index on this machine, with the hashes of its files, ranges, and faults on request."""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

_FIRST_BYTES = 1000


@dataclass
class FakeIndex:
    """files: name of a wheel -> content, all of one package."""

    files: dict[str, bytes] = field(default_factory=dict)
    is_json: bool = True  # else pages are HTML, with hashes in the links
    has_hashes: bool = True
    hashes: dict[str, str] = field(default_factory=dict)  # what is listed in place of a file's SHA-256
    pip_holds: int = 100  # so many times pip gets the beginning of a file and then nothing, until the end
    refused: int = 0  # status of answers with a file to any other client, if not 0
    refused_get: int = 0  # the same, but not of those without a body
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers to another client break off
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, name of the file, range; not pip's
    url: str = ""
    is_over: threading.Event = field(default_factory=threading.Event)


@contextlib.contextmanager
def running(index: FakeIndex) -> Iterator[FakeIndex]:
    class Handler(_Handler):
        pass

    Handler.index = index
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    index.url = f"http://127.0.0.1:{server.server_port}/simple"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield index
    finally:
        index.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    index: FakeIndex

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        name = self.path.rpartition("/")[2]
        if not name:
            self._send_page()
        elif name not in self.index.files:
            self._send(404, b"")
        elif self.headers.get("user-agent", "").startswith("pip/"):
            self._send_to_pip(self.index.files[name])
        else:
            self._send_file(name)

    def _send_page(self) -> None:
        index, files = self.index, []
        for name, content in index.files.items():
            sha256 = index.hashes.get(name, hashlib.sha256(content).hexdigest())
            files.append({"filename": name, "url": f"/files/{name}", "hashes": {"sha256": sha256}})
        if not index.has_hashes:
            files = [{**file, "hashes": {}} for file in files]
        if index.is_json:
            page = json.dumps({"meta": {"api-version": "1.0"}, "name": "tiny", "files": files}).encode()
            return self._send(200, page, {"content-type": "application/vnd.pypi.simple.v1+json"})
        links = "".join(
            f'<a href="{file["url"]}{"#sha256=" + file["hashes"]["sha256"] if file["hashes"] else ""}">x</a>'  # type: ignore[index]
            for file in files
        )
        return self._send(
            200, f"<!DOCTYPE html><html><body>{links}</body></html>".encode(), {"content-type": "text/html"}
        )

    def _send_to_pip(self, content: bytes) -> None:
        if self.index.pip_holds:
            self.index.pip_holds -= 1
            self._send(200, content, end=_FIRST_BYTES)
            self.index.is_over.wait()
        else:
            self._send(200, content)

    def _send_file(self, name: str) -> None:
        index, content = self.index, self.index.files[name]
        asked = self.headers.get("range", "")
        index.requests.append((self.command, name, asked))
        if refused := index.refused or (index.refused_get if self.command == "GET" else 0):
            return self._send(refused, b"")
        headers, status = {}, 200
        if found := re.fullmatch(r"bytes=(\d+)-", asked):
            first = int(found[1])
            headers["content-range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            content, status = content[first:], 206
        cut = index.cuts.pop(0) if index.cuts and self.command == "GET" else None
        self._send(status, content, headers, end=cut)
        if cut is not None:
            self.close_connection = True
        return None

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None, end: int | None = None) -> None:
        """end: after so many bytes of the body no more comes."""
        self.send_response(status)
        for name, value in {"content-length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:end])
            self.wfile.flush()
