"""Uses the dashboard's overview in a real browser: run by test_dashboard.py with Playwright's Python.

Arguments: the command of a server as JSON, its address and key, the address of a server without keys, the browser's
path, the path of axe-core's script, and a folder for screenshots. This script starts the first server, kills its engine
and then the server itself, and starts it again.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from dashboard_browser import browser_at, check, page_at
from playwright.sync_api import Browser, Page, expect

_START_TIMEOUT_S = 200.0  # of a server, on a machine that has other work
_START_TIMEOUT_MS = 1000 * _START_TIMEOUT_S
_ROOM = "(one more user fits|no room for one more user)"  # on a machine that has other work, there may be none
_ELSEWHERE = {"x-forwarded-for": "203.0.113.9"}  # as a proxy tells of a client from another machine


def main(command: str, address: str, key: str, open_address: str, browser_path: str, axe: str, folder: str) -> None:
    arguments, pictures = json.loads(command), Path(folder)
    with browser_at(browser_path) as browser:
        with page_at(browser, f"{open_address}/dashboard", headers=_ELSEWHERE) as page:
            _says_what_to_do_elsewhere(page)
            check(page, axe, pictures / "locked.png")
            _may_use_the_jobs_elsewhere(page)
        with (
            _running(arguments, pictures / "log-1", address) as server,
            page_at(browser, f"{address}/dashboard", key=key) as page,
        ):
            _answers_the_operators_questions(page)
            _tells_who_used_it(page, address, key)
            _shows_settings_and_log_by_keyboard(page, key)
            _tells_of_a_restarted_engine(page, server)
            check(page, axe, pictures / "overview-laptop.png")
            _tells_of_a_server_that_hangs(page, server)
            server.kill()
            expect(page.locator("#state")).to_contain_text("cannot be reached")
            expect(page.locator("#verdict")).to_contain_text("Cannot be reached since")
            expect(page.locator("main.lost")).to_be_visible()
            page.screenshot(path=pictures / "overview-lost.png", full_page=True)
            with _running(arguments, pictures / "log-2", address):
                _goes_on_with_the_next_server(page)
                _fits_a_phone(browser, address, key, axe, pictures)


@contextlib.contextmanager
def _running(command: list[str], log: Path, address: str) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as file, subprocess.Popen(command, stderr=file, stdin=subprocess.DEVNULL) as server:
        try:
            _wait_ready(address, server)
            yield server
        finally:
            server.kill()


def _wait_ready(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline_s = time.monotonic() + _START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline_s:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{address}/ready").close()
            return
        time.sleep(0.2)
    raise AssertionError("the server is not ready")


def _says_what_to_do_elsewhere(page: Page) -> None:
    locked = page.locator("#locked")
    expect(locked).to_contain_text("Open it on the server’s own machine, or start the server with --api-key KEY")
    expect(locked).to_contain_text("ssh -L")
    expect(page.locator("#overview")).to_be_hidden()


def _may_use_the_jobs_elsewhere(page: Page) -> None:
    page.get_by_role("link", name="the jobs").click()
    expect(page.locator("#jobs-open")).to_contain_text("No job yet.")
    expect(page.locator("#locked")).to_be_hidden()


def _answers_the_operators_questions(page: Page) -> None:
    expect(page.locator("#verdict")).to_contain_text(re.compile(rf"Idle; {_ROOM}"))
    machine = page.locator("#machine")
    for name in ("Processors", "Memory", "Disk", "this server", "other programs"):
        expect(machine).to_contain_text(name)
    expect(page.locator("#fit")).to_contain_text(re.compile("Yes.256 of 256 slots are free|No.with one more"))
    expect(page.locator("#up-since")).to_contain_text("up for")
    expect(page.locator("#happenings")).to_contain_text("The server started.")
    expect(page.locator("#queue-part")).to_be_hidden()  # nothing waits
    expect(page.locator("#errors-part")).to_be_hidden()


def _tells_who_used_it(page: Page, address: str, key: str) -> None:
    expect(page.locator("#no-uses")).to_be_visible()
    expect(page.locator("#errors-part")).to_be_hidden()
    body = json.dumps({"prompt": "Once upon a time", "max_tokens": 16, "ignore_eos": True}).encode()
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", body, headers)).close()
    expect(page.locator("#uses")).to_contain_text("keys without a name")
    expect(page.locator("#uses")).to_contain_text("100 %")
    with contextlib.suppress(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(f"{address}/v1/completions", b"{}", headers))
    expect(page.locator("#errors-title")).to_have_text("Refused or failed, last hour: 1 request")
    expect(page.locator("#errors .refusal")).to_have_count(1)
    expect(page.locator("#history-rows")).to_contain_text("last 10 min")
    day = page.get_by_role("button", name="Last day")
    day.focus()
    page.keyboard.press("Enter")
    expect(day).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#history-rows")).to_contain_text("last 2 h")


def _shows_settings_and_log_by_keyboard(page: Page, key: str) -> None:
    for panel in ("#settings-panel", "#log-panel", "#engine-panel"):
        page.locator(f"{panel} > summary").focus()
        page.keyboard.press("Enter")
    settings = page.locator("#settings")
    expect(settings).to_contain_text("--api-key")
    expect(settings).to_contain_text("1 hidden")
    assert key not in settings.inner_text()
    expect(page.locator("#log")).to_contain_text("POST /v1/completions 200")
    page.locator("#log-warnings").check()
    expect(page.locator("#log")).not_to_contain_text("POST /v1/completions 200")
    page.locator("#log-warnings").uncheck()
    expect(page.locator("#steps")).to_be_visible()
    expect(page.locator("#phases")).to_contain_text("computing the model")


def _tells_of_a_restarted_engine(page: Page, server: "subprocess.Popen[bytes]") -> None:
    os.kill(_engine_pid(server.pid), signal.SIGKILL)
    expect(page.locator("#happenings")).to_contain_text("The engine process ended with signal 9 (SIGKILL")
    expect(page.locator("#state")).to_have_text("Ready, restarted 1 time", timeout=_START_TIMEOUT_MS)
    expect(page.locator("#verdict")).to_contain_text(re.compile(_ROOM))


def _tells_of_a_server_that_hangs(page: Page, server: "subprocess.Popen[bytes]") -> None:
    server.send_signal(signal.SIGSTOP)
    expect(page.locator("#verdict")).to_contain_text("Nothing has come from the server since")
    expect(page.locator("#state")).to_contain_text("Nothing has come from the server since")
    server.send_signal(signal.SIGCONT)
    expect(page.locator("#verdict")).to_contain_text(re.compile(_ROOM))
    expect(page.locator("#state")).to_have_text("Ready, restarted 1 time")


def _engine_pid(pid: int) -> int:
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            if b"engine.process" in Path(f"/proc/{child}/cmdline").read_bytes():
                return int(child)
    raise AssertionError("there is no engine process")


def _goes_on_with_the_next_server(page: Page) -> None:
    expect(page.locator("#state")).to_have_text("Ready", timeout=_START_TIMEOUT_MS)
    expect(page.locator("#verdict")).to_contain_text(re.compile(_ROOM))
    expect(page.locator("main.lost")).to_have_count(0)
    happenings = page.locator("#happenings li")
    expect(happenings.nth(0)).to_contain_text("The server started.")
    expect(happenings.nth(1)).to_contain_text("The server ended without being stopped, at about this time.")
    expect(happenings.last).to_contain_text("The server started.")
    expect(page.locator("#known-since")).to_contain_text("Nothing is known from before")
    expect(page.locator("#log")).to_contain_text("GET /v1/models 200")
    expect(page.locator("#log")).not_to_contain_text("POST /v1/completions")  # which the last server wrote


def _fits_a_phone(browser: Browser, address: str, key: str, axe: str, pictures: Path) -> None:
    with page_at(browser, f"{address}/dashboard", key=key, size="phone", scheme="dark") as page:
        expect(page.locator("#verdict")).to_contain_text(re.compile(_ROOM))
        expect(page.locator("#history .chart-area").first).to_be_visible()
        check(page, axe, pictures / "overview-phone-dark.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
