"""Takes the documentation's pictures from a server that runs, with Playwright's Python and pyte:

headrace serve MODEL --port 8000
python tests/integrations/take_pictures.py http://127.0.0.1:8000 /usr/bin/chromium docs/images [HEADRACE]
"""

import json
import sys
import threading
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright
from terminal_picture import as_html, converse

_SIZE = {"width": 1280, "height": 800}
_TALL = {"width": 1280, "height": 850}  # down to what happened
_ANSWER_TIMEOUT_MS = 180_000
_QUESTIONS = (
    "What is the difference between a list and a tuple in Python? Answer in three sentences.",
    "Write a Python function that counts how often each word occurs in a text, and show it in use.",
)
_TERMINAL_QUESTIONS = (
    "What is the capital of France? Answer in one sentence.",
    "Write a Python function that counts the words of a text.",
)
_SYSTEM = "You are the assistant of a public library. You answer questions about books and opening hours. " * 6
_NUM_CLIENTS = 5


def main(address: str, browser_path: str, folder: str, headrace: str = "headrace") -> None:
    """headrace: the command, for the picture of the terminal."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context(viewport=_SIZE, color_scheme="light").new_page()
        _chat(page, address, Path(folder) / "chat.png")
        _request(page, Path(folder) / "request.png")
        page = browser.new_context(viewport=_TALL, color_scheme="dark").new_page()
        _dashboard(page, address, Path(folder) / "dashboard.png")
        page = browser.new_context(viewport=_SIZE, device_scale_factor=1.5).new_page()
        screen = converse([headrace, "chat", address], _TERMINAL_QUESTIONS)
        page.set_content(as_html(screen))
        page.locator("pre").screenshot(path=Path(folder) / "terminal.png")
        browser.close()


def _chat(page: Page, address: str, picture: Path) -> None:
    page.goto(address)
    expect(page.locator("#model option")).not_to_have_count(0)
    for number, question in enumerate(_QUESTIONS, 1):
        page.locator("#input").fill(question)
        page.keyboard.press("Enter")
        expect(page.locator(".message.assistant .stats")).to_have_count(number, timeout=_ANSWER_TIMEOUT_MS)
    page.locator("#scroll").evaluate("element => element.scrollTop = element.scrollHeight")
    page.mouse.move(640, 780)
    page.wait_for_timeout(500)
    page.screenshot(path=picture)


def _request(page: Page, picture: Path) -> None:
    """The page of the chat's last answer."""
    page.get_by_text("What happened?").last.click()
    expect(page.locator("h1.request-title")).to_be_visible()
    page.mouse.move(5, 5)
    page.wait_for_timeout(500)
    page.screenshot(path=picture)


def _dashboard(page: Page, address: str, picture: Path) -> None:
    """Under a load of a few clients with one system prompt."""
    ended = threading.Event()
    clients = [threading.Thread(target=_ask, args=(address, number, ended)) for number in range(_NUM_CLIENTS)]
    for client in clients:
        client.start()
    page.goto(f"{address}/dashboard")
    page.wait_for_timeout(30_000)
    page.screenshot(path=picture)
    ended.set()
    for client in clients:
        client.join()


def _ask(address: str, number: int, ended: threading.Event) -> None:
    for turn in range(1000):
        if ended.wait(0.3 * number):
            return
        question = (
            f"Client {number}, question {turn}: which book would you recommend, and why?" + " Go on." * number * 8
        )
        messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
        body = json.dumps({"messages": messages, "max_tokens": 40 + 25 * number}).encode()
        request = urllib.request.Request(f"{address}/v1/chat/completions", body, {"content-type": "application/json"})
        urllib.request.urlopen(request, timeout=300).read()


if __name__ == "__main__":
    main(*sys.argv[1:])
