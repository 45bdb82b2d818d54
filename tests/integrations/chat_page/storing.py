"""What the browser stores, where it stores nothing or has no room, and what older pages have stored."""

import json
from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.integrations.chat_page.browsing import (
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
    stored_texts,
    texts,
)

_OLD = Path(__file__).with_name("stored_by_version_1.json")
_NO_STORAGE = (
    "Object.defineProperty(window, 'indexedDB', { get() { throw new DOMException('denied', 'SecurityError'); } });"
)
_NO_SITE_DATA = (
    _NO_STORAGE
    + """
for (const name of ['localStorage', 'sessionStorage']) {
  Object.defineProperty(window, name, { get() { throw new DOMException('denied', 'SecurityError'); } });
}"""
)
_STORE_OLD = """
(conversations) => new Promise((resolve, reject) => {
  const request = indexedDB.open("headrace", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("conversations", { keyPath: "id" });
  request.onsuccess = () => {
    const transaction = request.result.transaction("conversations", "readwrite");
    for (const conversation of conversations) transaction.objectStore("conversations").put(conversation);
    transaction.oncomplete = () => resolve(CLOSE);
    transaction.onabort = reject;
  };
})
"""


def main() -> None:
    with session() as (server, browser, folder):
        _a_full_browser_is_said(server, browser, folder)
        _what_was_deleted_is_not_stored_when_there_is_room(server, browser)
        _a_browser_without_storage_is_said(server, browser, folder)
        _what_version_1_stored_is_carried_over(server, browser)
        _a_tab_with_version_1_is_waited_for(server, browser)


def _a_full_browser_is_said(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = context.new_page()
        devtools = context.new_cdp_session(page)
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 1})
        page.goto(server.url)
        ask(page, "too much")
        expect(page.locator("#storage-notice")).to_contain_text("no room to store more")
        expect_done(page, "echo: too much")
        expect(page.locator("#storage-notice")).to_contain_text("2 messages would be lost now.")
        page.screenshot(path=str(folder / "full.png"))
        with page.expect_download() as download:
            page.locator("#storage-notice").get_by_role("button", name="Export all").click()
        assert "echo: too much" in download.value.path().read_text()
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
        expect(page.locator("#storage-notice")).to_be_hidden()  # storing is tried again
        page.reload()
        expect_done(page, "echo: too much")


def _what_was_deleted_is_not_stored_when_there_is_room(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = context.new_page()
        devtools = context.new_cdp_session(page)
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": server.url, "quotaSize": 1})
        page.goto(server.url)
        for text in ("kept", "deleted"):
            ask(page, text)
            expect_done(page, f"echo: {text}")
        expect(page.locator("#storage-notice")).to_contain_text("4 messages would be lost now.")
        page.locator(".message.user").last.get_by_role("button", name="Delete 2").click()
        expect(page.locator("#storage-notice")).to_contain_text("2 messages would be lost now.")
        devtools.send("Storage.overrideQuotaForOrigin", {"origin": server.url})
        expect(page.locator("#storage-notice")).to_be_hidden()
        assert sorted(stored_texts(page)) == ["echo: kept", "kept"]


def _a_browser_without_storage_is_said(server: Server, browser: Browser, folder: Path) -> None:
    for script in (_NO_STORAGE, _NO_SITE_DATA):
        with context_of(browser, script=script) as context:
            page = open_page(context, server.url)
            expect(page.locator("#storage-notice")).to_contain_text("stores nothing")
            ask(page, "first")
            expect_done(page, "echo: first")
            page.get_by_role("button", name="New chat").click()
            ask(page, "second")
            expect_done(page, "echo: second")
            page.locator(".conversations").get_by_role("link", name="first").click()
            expect_done(page, "echo: first")
            expect(page.locator("#storage-notice")).to_contain_text("4 messages would be lost now.")
            page.screenshot(path=str(folder / "no-storage.png"))
            page.once("dialog", lambda dialog: dialog.dismiss())
            page.evaluate("setTimeout(() => location.reload())")  # the browser asks, and the user stays
            expect_done(page, "echo: first")
            page.on("dialog", lambda dialog: dialog.accept())


def _what_version_1_stored_is_carried_over(server: Server, browser: Browser) -> None:
    conversations = json.loads(_OLD.read_text())["conversations"]
    with context_of(browser) as context:
        page = context.new_page()
        page.goto(f"{server.url}/health")  # the same origin, without the page
        page.evaluate(_STORE_OLD.replace("CLOSE", "request.result.close()"), conversations)
        page.goto(server.url)
        _expect_old(page)
        page.reload()
        _expect_old(page)
        assert len(stored_texts(page)) == sum(len(each["nodes"]) for each in conversations)
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.locator("#import-file").set_input_files(_OLD)
        _expect_old(page)
        page.reload()
        _expect_old(page)


def _expect_old(page: Page) -> None:
    expect(page.locator(".conversations li")).to_have_count(2)
    page.locator(".conversations").get_by_role("link", name="first question").click()
    expect(page.locator(".message")).to_have_count(6)
    assert texts(page)[:4] == ["first question", "echo: first question", "third question", "echo: third question"]
    expect(answers(page).last).to_contain_text("Stopped.")
    page.get_by_label("Previous version").last.click()
    expect(answers(page).last).to_contain_text("echo: second question")
    expect(page.get_by_text("1 / 2")).to_be_visible()
    page.get_by_label("Next version").last.click()
    expect(page.locator(".message")).to_have_count(6)


def _a_tab_with_version_1_is_waited_for(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        old = context.new_page()
        old.goto(f"{server.url}/health")
        old.evaluate(_STORE_OLD.replace("CLOSE", "0"), json.loads(_OLD.read_text())["conversations"])
        page = open_page(context, server.url)
        expect(page.locator("#storage-notice")).to_contain_text("older version of this page")
        ask(page, "meanwhile")
        expect_done(page, "echo: meanwhile")
        old.close()
        expect(page.locator(".conversations li")).to_have_count(3)
        expect(page.locator("#storage-notice")).to_be_hidden()
        page.reload()
        expect_done(page, "echo: meanwhile")


if __name__ == "__main__":
    main()
