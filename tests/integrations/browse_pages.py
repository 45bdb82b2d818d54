"""Uses the pages in a real browser: run by test_pages.py with Playwright's Python.

Arguments: the page's address, the browser's path, the path of axe-core's script, a folder for screenshots, and the
address of a server that asks for a key: "secret-ann", or an operator's, "secret-root"; "secret-old" has expired.
"""

import contextlib
import json
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_SIZES = {"phone": (390, 844), "laptop": (1280, 800), "desk": (1920, 1080)}
_FAULTS = {"serious", "critical"}
_EXPECT_TIMEOUT_MS = 30_000  # for busy machines


def main(address: str, browser_path: str, axe: str, folder: str, locked_address: str) -> None:
    expect.set_options(timeout=_EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*_QUIET])
        with _page(browser, address) as page:
            _markdown_is_shown_and_harmless(page)
            _versions_and_branches(page)
            _stop_keeps_what_is_there(page)
            _an_error_is_told_and_tried_again(page)
            _a_lost_server_is_told(page)
            _conversations_are_kept(page)
        with _page(browser, address) as page:
            _tools_and_schemas(page)
        with _page(browser, address, _SIZES["phone"]) as page:
            _a_pause_of_the_engine_is_told(page)
            _two_hundred_conversations_and_a_long_answer(page)
        with _page(browser, locked_address) as page:
            _a_key_is_asked_for(page)
            _the_dashboard_asks_for_an_operators_key(page)
        for name, size in _SIZES.items():
            for scheme in ("light", "dark"):
                with _page(browser, address, size, scheme) as page:
                    _looks_right(page, axe, Path(folder) / f"{name}-{scheme}")
                    _dashboard_looks_right(page, axe, Path(folder) / f"{name}-{scheme}")
        browser.close()


@contextlib.contextmanager
def _page(browser: Browser, address: str, size: tuple[int, int] = (1280, 800), scheme: str = "light") -> Iterator[Page]:
    """A new page with a memory of its own, on which no script fails and nothing breaks the page's policy."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme)
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda message: faults.append(message.text) if _is_violation(message.text) else None)
    page.on(
        "request", lambda request: None if request.url.startswith((address, "data:")) else faults.append(request.url)
    )
    page.goto(address)
    yield page
    assert faults == [], faults
    context.close()


def _is_violation(text: str) -> bool:
    """A style or a handler that a hostile answer brings is told, and refused, while the answer is cleaned of it."""
    return "Content Security Policy" in text and not re.search("Applying inline style|Executing inline event", text)


def _ask(page: Page, text: str) -> None:
    page.locator("#input").fill(text)
    page.keyboard.press("Enter")


def _answer(page: Page, text: str) -> None:
    expect(page.locator(".message.assistant").last).to_contain_text(text)
    expect(page.locator("#send")).to_be_visible()


def _choose_file(page: Page, field: str, name: str, content: bytes) -> None:
    page.locator(field).set_input_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})


def _markdown_is_shown_and_harmless(page: Page) -> None:
    _ask(page, "markdown")
    _answer(page, "The end.")
    answer = page.locator(".message.assistant").last
    expect(answer.locator(".text h2")).to_have_text("A title")
    expect(answer.locator("code .hljs-keyword").first).to_have_text("def")
    expect(answer.locator("math")).to_have_count(2)
    expect(answer.locator("table td").first).to_have_text("1")
    expect(answer.get_by_text("$5 or $6")).to_have_count(1)
    assert answer.locator("script, img, iframe, dialog, [onerror], b[style], [href^=javascript]").count() == 0
    assert page.evaluate("window.wasHacked") is None
    expect(answer.locator(".stats")).to_contain_text("prompt tokens")


def _versions_and_branches(page: Page) -> None:
    page.get_by_role("button", name="New chat").click()
    _ask(page, "first question")
    _answer(page, "echo: first question")
    page.get_by_role("button", name="Regenerate").click()
    expect(page.get_by_text("2 / 2")).to_be_visible()
    _answer(page, "echo: first question")
    page.locator(".message.user").get_by_role("button", name="Edit").click()
    page.get_by_label("Edit the message").fill("second question")
    page.keyboard.press("Enter")
    _answer(page, "echo: second question")
    page.get_by_label("Previous version").first.click()
    _answer(page, "echo: first question")
    expect(page.get_by_text("2 / 2")).to_be_visible()  # the other answer to it is still there


def _stop_keeps_what_is_there(page: Page) -> None:
    _ask(page, "half and wait")
    expect(page.locator(".message.assistant").last).to_contain_text("This is half")
    page.keyboard.press("Escape")
    expect(page.locator(".message.assistant").last).to_contain_text("Stopped.")
    expect(page.locator(".message.assistant").last).to_contain_text("This is half")


def _an_error_is_told_and_tried_again(page: Page) -> None:
    _ask(page, "break once")
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("The engine ended.")
    alert.get_by_role("button", name="Try again").click()
    _answer(page, "echo: break once")
    expect(page.get_by_role("alert")).to_have_count(0)


def _a_lost_server_is_told(page: Page) -> None:
    page.context.set_offline(True)
    _ask(page, "anyone there?")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    expect(page.locator("#server-state")).to_contain_text("cannot be reached")
    page.context.set_offline(False)
    expect(page.locator("#server-state")).to_have_text("", timeout=10_000)
    page.get_by_role("button", name="Try again").click()
    _answer(page, "echo: anyone there?")


def _conversations_are_kept(page: Page) -> None:
    page.reload()
    page.locator(".conversations").get_by_role("link", name="first question", exact=True).click()
    _answer(page, "echo: anyone there?")
    with page.expect_download() as download:
        page.get_by_role("button", name="Export all").click()
    file = download.value.path()
    assert len(json.loads(file.read_text())["conversations"]) == 2
    page.locator("#import-file").set_input_files(
        {"name": "c.json", "mimeType": "application/json", "buffer": file.read_bytes()}
    )
    expect(page.locator(".conversations li")).to_have_count(4)
    page.get_by_label("Delete “first question”").first.click(force=True)
    expect(page.locator(".conversations li")).to_have_count(3)
    page.locator(".conversations li").filter(has_text="first question").first.hover()
    page.get_by_label("Rename “first question”").first.click()
    page.get_by_role("button", name="OK").click()
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.locator(".conversations li").filter(has_text="first question").first.hover()
    page.get_by_label("Rename “first question”").first.click()
    page.get_by_role("textbox", name="Name of the conversation").fill("not this")
    page.keyboard.press("Escape")  # no answer, though the last one was OK
    expect(page.get_by_role("dialog")).to_have_count(0)
    expect(page.locator(".conversations").get_by_text("not this")).to_have_count(0)
    page.reload()
    expect(page.locator(".conversations li")).to_have_count(3)
    _choose_file(page, "#import-file", "c.json", b"{}")
    expect(page.get_by_role("dialog")).to_contain_text("holds no headrace conversations")
    page.keyboard.press("Escape")
    for fault in ({"system": None}, {"schema": 5}, {"tools": []}, {"rootIds": []}):
        exported = json.loads(file.read_text())
        exported["conversations"][0] |= fault
        _choose_file(page, "#import-file", "c.json", json.dumps(exported).encode())
        expect(page.get_by_role("dialog")).to_contain_text("A conversation in the file is damaged")
        page.keyboard.press("Escape")
    expect(page.locator(".conversations li")).to_have_count(3)


def _tools_and_schemas(page: Page) -> None:
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("Tools").fill('[{"name": "get_weather", "parameters": {"type": "object"}}]')
    page.get_by_label("Close the settings").click()
    _ask(page, "call the tool")
    expect(page.locator(".call-name")).to_have_text("get_weather")
    page.get_by_placeholder("What the tool answers").fill("17 degrees")
    page.get_by_role("button", name="Send results").click()
    _answer(page, "echo: 17 degrees")
    page.get_by_label("Remove: Tools").click()
    page.get_by_role("button", name="Settings").click()
    page.get_by_label("JSON schema").fill('{"type": ')
    expect(page.get_by_text("It cannot be read as JSON")).to_be_visible()
    page.get_by_label("Close the settings").click()
    _ask(page, "with a broken schema")
    expect(page.get_by_role("dialog")).to_contain_text("cannot be read as JSON")
    page.get_by_role("button", name="Close", exact=True).click()
    expect(page.locator("#input")).to_have_value("with a broken schema")  # nothing that was typed is lost
    page.get_by_label("Remove: JSON schema").click()
    page.locator("#attach-file").set_input_files(
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a line of notes"}
    )
    page.get_by_role("button", name="Send").click()
    _answer(page, "a line of notes")
    page.locator(".message.assistant").last.get_by_role("button", name="API").click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("a line of notes")
    page.get_by_role("button", name="Close", exact=True).click()
    page.get_by_role("button", name="API").first.click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("curl -N")
    page.get_by_role("tab", name="Python").click()
    expect(page.get_by_role("dialog").locator("pre")).to_contain_text("client.chat.completions.create(")


def _a_pause_of_the_engine_is_told(page: Page) -> None:
    """Where the server says that its engine starts again under an answer."""
    body = {"status": "loading", "reason": "the engine ended unexpectedly and is being started again"}
    page.route("**/health", lambda route: route.fulfill(status=503, json=body))
    _ask(page, "half and wait")
    expect(page.locator("#server-state")).to_contain_text("The engine ended unexpectedly", timeout=20_000)
    page.unroute("**/health")
    expect(page.locator("#server-state")).to_have_text("", timeout=20_000)
    page.get_by_role("button", name="Stop").click()
    expect(page.locator(".message.assistant").last).to_contain_text("Stopped.")


def _two_hundred_conversations_and_a_long_answer(page: Page) -> None:
    conversations = [_conversation(number) for number in range(199)]
    file = json.dumps({"format": "headrace.conversations.v1", "conversations": conversations})
    _choose_file(page, "#import-file", "c.json", file.encode())
    expect(page.locator(".conversations li")).to_have_count(200)
    page.get_by_label("Show or hide the list").click()
    page.get_by_label("Search conversations").fill("question 77")
    expect(page.locator(".conversations li")).to_have_count(1)
    page.locator(".conversations .title").click()
    _answer(page, "answer 77")
    _ask(page, "something long")
    expect(page.locator(".message.assistant").last).to_contain_text("The end.", timeout=60_000)
    answer = page.locator(".message.assistant").last
    expect(answer.locator("li")).to_have_count(600)
    expect(answer.locator("li").last).to_have_text("item 599 of many")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a long word makes the page too wide"


def _conversation(number: int) -> dict[str, object]:
    """As an export has it."""
    now_ms = int(time.time() * 1000) - number * 3_600_000
    question = {"id": "q", "parentId": None, "childIds": ["a"], "role": "user", "content": f"question {number}"}
    answer = {
        "id": "a", "parentId": "q", "childIds": [], "role": "assistant", "content": f"answer {number}", "reasoning": "",
        "toolCalls": [], "tokens": None, "stats": None, "finishReason": "stop", "error": None,
    }  # fmt: skip
    return {
        "id": f"c{number}", "title": "", "system": "", "schema": "", "tools": "", "createdMs": now_ms,
        "updatedMs": now_ms, "nodes": {"q": question, "a": answer}, "rootIds": ["q"], "leafId": "a",
    }  # fmt: skip


def _a_key_is_asked_for(page: Page) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Use this key").click()
    expect(dialog).to_contain_text("does not accept this key")
    dialog.get_by_label("Key", exact=True).fill("secret-old")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("#server-state")).to_contain_text("A key is needed")
    expect(dialog).to_contain_text("it may be mistyped, expired or removed")
    dialog.get_by_label("Key", exact=True).fill("secret-ann")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("#model option")).not_to_have_count(0)
    _ask(page, "hello")
    _answer(page, "echo: hello")


def _the_dashboard_asks_for_an_operators_key(page: Page) -> None:
    """And leaves the chat page's alone until there is one."""
    dialog = page.get_by_role("dialog")
    page.get_by_role("link", name="Dashboard", exact=True).click()
    expect(dialog.get_by_label("Key", exact=True)).to_be_visible()
    dialog.get_by_role("button", name="Cancel").click()
    expect(page.locator("#locked")).to_contain_text("Enter an operator’s key")
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(page.locator("#model option")).not_to_have_count(0)
    page.get_by_role("link", name="Dashboard", exact=True).click()
    dialog.get_by_label("Key", exact=True).fill("secret-root")
    dialog.get_by_role("button", name="Use this key").click()
    expect(page.locator("#state")).to_have_text("Ready")


def _dashboard_looks_right(page: Page, axe: str, name: Path) -> None:
    """It tells what became of a request, and is as sound as the chat page."""
    page.get_by_label("Close the settings").click()
    page.get_by_role("link", name="What happened?").last.click()
    story = page.locator("#request-page")
    expect(story).to_contain_text("Waited: all slots were taken")
    expect(story).to_contain_text("Started, with 2 tokens from the cache.")
    _check(page, axe, f"{name}-request")
    answer_id = page.locator(".request-title code").inner_text()
    page.get_by_role("link", name="All requests").click()
    expect(page.locator("#state")).to_have_text("Ready")
    _check(page, axe, f"{name}-dashboard")
    page.locator(".request").first.click(delay=600)  # as long as two frames
    expect(story).to_contain_text(answer_id)  # among its facts
    request_id = page.locator(".request-title code").inner_text()
    assert request_id != answer_id
    page.get_by_label("Find a request").fill("no such request")
    page.keyboard.press("Enter")
    expect(story).to_contain_text("has no record of this request")
    page.get_by_label("Find a request").fill(request_id)
    page.keyboard.press("Enter")
    expect(story).to_contain_text("were in the KV cache")
    page.go_back()
    expect(story).to_contain_text("has no record of this request")


def _looks_right(page: Page, axe: str, name: Path) -> None:
    """Nothing sticks out and no accessibility fault is serious: at first, after an answer, with the settings open."""
    for step, act in {
        "empty": lambda: None,
        "answer": lambda: (_ask(page, "markdown"), _answer(page, "The end."), time.sleep(0.3)),
        "settings": lambda: page.get_by_role("button", name="Settings").click(),
    }.items():
        act()
        _check(page, axe, f"{name}-{step}")


def _check(page: Page, axe: str, name: str) -> None:
    page.screenshot(path=f"{name}.png")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{name} is too wide"
    # Playwright's own way past the page's policy, which refuses scripts from elsewhere.
    page.evaluate(Path(axe).read_text())
    faults = [each for each in page.evaluate("axe.run()")["violations"] if each["impact"] in _FAULTS]
    assert not faults, [(each["id"], [node["html"] for node in each["nodes"]]) for each in faults]


if __name__ == "__main__":
    main(*sys.argv[1:])
