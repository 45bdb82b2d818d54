"""A model hub on this machine: what huggingface_hub asks of one, with ranges, and with faults on request."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class FakeHub:
    """One repository. large: the names of files that it stores apart, with their SHA-256."""

    repo: str = "owner/repo"
    files: dict[str, bytes] = field(default_factory=dict)
    large: set[str] = field(default_factory=set)
    token: str | None = None  # asked for
    cuts: list[int] = field(default_factory=list)  # bytes after which the next answers with a large file break off
    stalls: list[int] = field(default_factory=list)  # the same: bytes after which nothing more comes until the end
    statuses: list[int] = field(default_factory=list)  # of the next answers with a large file, in place of it
    api_status: int = 200
    served: dict[str, bytes] = field(default_factory=dict)  # what comes in place of a file's content
    hashes: dict[str, str] = field(default_factory=dict)  # what is listed in place of a large file's SHA-256
    redirects: dict[str, str] = field(default_factory=dict)  # where a file's address leads
    has_ranges: bool = True
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    url: str = ""
    is_over: threading.Event = field(default_factory=threading.Event)

    def ranges_of(self, name: str) -> list[str]:
        """Of the requests for a file's content."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith(f"/{name}")]


@contextlib.contextmanager
def running(hub: FakeHub) -> Iterator[FakeHub]:
    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield hub
    finally:
        hub.is_over.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer(has_body=False)

    def do_GET(self) -> None:
        self._answer(has_body=True)

    def _answer(self, *, has_body: bool) -> None:
        hub, path = self.hub, unquote(urlsplit(self.path).path)
        hub.requests.append((self.command, path, self.headers.get("range", "")))
        if hub.token is not None and self.headers.get("authorization") != f"Bearer {hub.token}":
            return self._send(401, b"{}", {"x-error-code": "GatedRepo"}, has_body)
        if path.startswith("/api/models/"):
            return self._answer_api(path.removeprefix("/api/models/"), has_body)
        name = path.partition(f"/{hub.repo}/resolve/{COMMIT}/")[2] or path.partition(f"/{hub.repo}/resolve/main/")[2]
        if name not in hub.files:
            return self._send(404, b"{}", {"x-error-code": "EntryNotFound"}, has_body)
        return self._answer_file(name, has_body)

    def _answer_api(self, path: str, has_body: bool) -> None:
        hub = self.hub
        if hub.api_status != 200:
            return self._send(hub.api_status, b"{}", {}, has_body)
        if not path.startswith(hub.repo):
            return self._send(404, b"{}", {"x-error-code": "RepoNotFound"}, has_body)
        rest = path.removeprefix(hub.repo)
        if rest.startswith("/tree/"):
            return self._send(200, json.dumps([self._entry(name) for name in hub.files]).encode(), {}, has_body)
        if rest not in ("", "/revision/main", f"/revision/{COMMIT}"):
            return self._send(404, b"{}", {"x-error-code": "RevisionNotFound"}, has_body)
        siblings = [{"rfilename": name} for name in hub.files]
        body = {"id": hub.repo, "modelId": hub.repo, "sha": COMMIT, "siblings": siblings, "private": False}
        return self._send(200, json.dumps(body).encode(), {}, has_body)

    def _entry(self, name: str) -> dict[str, object]:
        content = self.hub.files[name]
        entry: dict[str, object] = {"type": "file", "path": name, "size": len(content), "oid": _git_hash(content)}
        if name in self.hub.large:
            oid = self.hub.hashes.get(name) or hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
        return entry

    def _answer_file(self, name: str, has_body: bool) -> None:
        hub, is_large = self.hub, name in self.hub.large
        content = hub.files[name]
        etag = hashlib.sha256(content).hexdigest() if is_large else _git_hash(content)
        headers = {"x-repo-commit": COMMIT, "etag": f'"{etag}"', "x-linked-size": str(len(content))}
        headers["x-linked-etag"] = f'"{etag}"'
        if has_body and name in hub.redirects:
            return self._send(302, b"", {"location": hub.redirects[name]}, has_body)
        if is_large and has_body and hub.statuses:
            return self._send(hub.statuses.pop(0), b"", {"retry-after": "0"}, has_body)
        body = hub.served.get(name, content)
        start = 0
        if hub.has_ranges and (asked := self.headers.get("range")):
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["content-range"] = f"bytes {start}-{len(body) - 1}/{len(body)}"
        cut = hub.cuts.pop(0) if is_large and has_body and hub.cuts else None
        stall = hub.stalls.pop(0) if is_large and has_body and hub.stalls else None
        if stall is not None:
            self._send(200, body, headers, has_body=True, cut=stall)
            self.wfile.flush()
            hub.is_over.wait(60)
            return None
        return self._send(206 if "content-range" in headers else 200, body[start:], headers, has_body, cut)

    def _send(self, status: int, body: bytes, headers: dict[str, str], has_body: bool, cut: int | None = None) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if has_body:
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
