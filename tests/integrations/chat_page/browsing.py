"""What the tests of the chat page share: a server that can be killed, browser contexts, and common steps."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect, sync_playwright

_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_EXPECT_TIMEOUT_MS = 30_000  # for busy machines
_START_TIMEOUT_S = 120.0
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}


class Server:
    """A process of chat_server.py, always at the same address."""

    def __init__(self, python: str) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self._port}"
        self._command = [python, str(Path(__file__).with_name("chat_server.py")), str(self._port)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, grace_s: float = 60.0) -> None:
        """grace_s: how long streams outlive their connection."""
        self._process = subprocess.Popen([*self._command, str(grace_s)], env=os.environ)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.url}/health").close()
                return
            assert self._process.poll() is None, "the server ended"
            assert time.monotonic() < deadline_s, "the server does not answer"
            time.sleep(0.05)

    def kill(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def restart(self, grace_s: float = 60.0) -> None:
        self.kill()
        self.start(grace_s)

    def release(self) -> None:
        """Let the answers that wait go on."""
        urllib.request.urlopen(f"{self.url}/test/release").close()

    def wait_for(self, num_requests: int, *, num_open: int) -> None:
        """Wait until the engine has got so many requests since the start, and computes so many."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while (found := self._requests()) != [num_requests, num_open]:
            assert time.monotonic() < deadline_s, f"there are {found} requests and open ones"
            time.sleep(0.05)

    def _requests(self) -> list[int]:
        with urllib.request.urlopen(f"{self.url}/test/requests") as response:
            return json.load(response)


@contextlib.contextmanager
def session() -> Iterator[tuple[Server, Browser, Path]]:
    """A running server, a browser, and a folder for pictures. Arguments of the program: the server's Python, the
    browser's path, and the folder."""
    python, browser_path, folder = sys.argv[1:4]
    expect.set_options(timeout=_EXPECT_TIMEOUT_MS)
    server = Server(python)
    with sync_playwright() as playwright, contextlib.ExitStack() as stack:
        server.start()
        stack.callback(server.kill)
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*_QUIET])
        stack.callback(browser.close)
        yield server, browser, Path(folder)


@contextlib.contextmanager
def context_of(browser: Browser, size: dict[str, int] | None = None, *, script: str = "") -> Iterator[BrowserContext]:
    """A browser context with a storage of its own, in whose pages no script fails. script: runs before each page's."""
    context = browser.new_context(viewport=size or DESK)
    if script:
        context.add_init_script(script)
    faults: list[str] = []
    context.on("weberror", lambda error: faults.append(str(error.error)))
    context.on("console", lambda message: faults.append(message.text) if "Content Security" in message.text else None)
    yield context
    assert faults == [], faults
    context.close()


class Cards:
    """The answer of /v1/models, in which the server's names are models and adapters of their own."""

    def __init__(self, context: BrowserContext) -> None:
        self.hidden: set[str] = set()
        context.route("**/v1/models", self._answer)

    def _answer(self, route: Route) -> None:
        response = route.fetch(max_retries=3)  # of connections that the server closes, idle
        body = response.json()
        body["data"] = [card for card in body["data"] if card["id"] not in self.hidden]
        for card in body["data"]:
            own = card["headrace"]
            own["capabilities"] = ["completion"]
            own["default_sampling_params"]["temperature"] = 0.7
            if card["id"] == "other":
                own["name"], card["max_model_len"] = "other", 2 << 20
            elif card["id"].startswith("ft:"):
                card["parent"] = own["name"]
            else:
                card["max_model_len"] = 400
        route.fulfill(response=response, json=body)


def open_page(context: BrowserContext, address: str) -> Page:
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#model option")).not_to_have_count(0)
    return page


def ask(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.locator("#input").press("Enter")


def answers(page: Page) -> Locator:
    return page.locator(".message.assistant")


def texts(page: Page) -> list[str]:
    """The shown messages."""
    return [each.strip() for each in page.locator(".message .plain, .message > .body > .text").all_inner_texts()]


def expect_done(page: Page, text: str) -> None:
    """The last answer has this text, and is complete."""
    expect(answers(page).last).to_contain_text(text)
    expect(page.locator("#send")).to_be_visible()


def stored_texts(page: Page) -> list[str]:
    """All messages of all conversations, as they are stored."""
    script = """() => new Promise((resolve) => {
      const request = indexedDB.open("headrace");
      request.onsuccess = () => {
        const all = request.result.transaction("messages").objectStore("messages").getAll();
        all.onsuccess = () => (request.result.close(), resolve(all.result.map((record) => record.content)));
      };
    })"""
    return page.evaluate(script)


def wait_stored(page: Page, text: str) -> None:
    """Wait until a message that begins with this text is stored."""
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while not any(stored.startswith(text) for stored in stored_texts(page)):
        assert time.monotonic() < deadline_s, f"{text!r} is not stored"
        time.sleep(0.05)
