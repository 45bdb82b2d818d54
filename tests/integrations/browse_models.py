"""Uses the dashboard's models in a real browser: run by test_model_pages.py with Playwright's Python.

Arguments: the browser's path, the path of axe-core's script, a folder for screenshots, and the addresses of a server
that may fetch owner/*, of one that may not, and of one that asks for the key "secret-root".
"""

import sys
from pathlib import Path

from browse_pages import _EXPECT_TIMEOUT_MS, _QUIET, _check, _page
from playwright.sync_api import Locator, Page, expect, sync_playwright

_PLACE = "/dashboard#/models"


def main(browser_path: str, axe: str, folder: str, address: str, off_address: str, locked_address: str) -> None:
    expect.set_options(timeout=_EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*_QUIET])
        with _page(browser, address) as page:
            page.goto(address + _PLACE)
            _models_are_loaded_and_unloaded(page)
            _a_model_is_fetched_by_keyboard(page)
            _what_may_not_be_fetched_is_said(page)
            _a_full_disk_is_said(page)
            _a_fetch_goes_on_after_a_reload_and_can_be_stopped(page)
            _a_stopped_fetch_goes_on(page)
            _check(page, axe, str(Path(folder) / "models-laptop"))
        with _page(browser, address, (390, 844), "dark") as page:
            page.goto(address + _PLACE)
            expect(_row(page, "owner/slow")).to_contain_text("In the cache")
            _check(page, axe, str(Path(folder) / "models-phone"))
        with _page(browser, off_address) as page:
            page.goto(off_address + _PLACE)
            expect(page.locator("#models-page")).to_contain_text("Start the server with --pull-allow PATTERN")
            expect(page.locator("#pull-name")).to_be_hidden()
            _check(page, axe, str(Path(folder) / "models-off"))
        with _page(browser, locked_address) as page:
            page.goto(locked_address + _PLACE)
            _a_key_is_asked_for(page)
            _check(page, axe, str(Path(folder) / "models-locked"))
        browser.close()


def _row(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name, exact=True)


def _models_are_loaded_and_unloaded(page: Page) -> None:
    coder, huge = _row(page, "org/coder"), _row(page, "huge")
    expect(coder).to_contain_text("Not loaded")
    coder.get_by_role("button", name="Load org/coder").click()
    expect(coder.get_by_role("button", name="Unload org/coder")).to_be_visible()
    expect(coder.get_by_role("status")).to_have_text("Loaded")
    coder.get_by_role("button", name="Unload org/coder").click()
    expect(coder.get_by_role("status")).to_have_text("Not loaded")
    huge.get_by_role("button", name="Load huge").click()
    expect(huge.get_by_role("alert")).to_contain_text("does not fit into the memory of this server")


def _a_model_is_fetched_by_keyboard(page: Page) -> None:
    page.locator("#pull-name").focus()
    page.keyboard.type("owner/small")
    page.keyboard.press("Enter")
    row = _row(page, "owner/small")
    expect(row.get_by_role("status")).to_have_text("In the cache")
    expect(row).to_contain_text("It fits into memory: about 100 MiB of weights.")
    expect(row.locator("code")).to_contain_text("serve owner/small")
    expect(page.locator("#pull-name")).to_be_focused()
    expect(page.locator("#pull-name")).to_have_value("")


def _what_may_not_be_fetched_is_said(page: Page) -> None:
    page.locator("#pull-name").fill("other/model")
    page.get_by_role("button", name="Fetch").click()
    expect(page.locator(".note.error")).to_have_text(
        "'other/model' may not be fetched; --pull-allow of this server names owner/*, demo:coder."
    )
    expect(page.locator("#pull-name")).to_have_value("other/model")


def _a_full_disk_is_said(page: Page) -> None:
    page.locator("#pull-name").fill("owner/full")
    page.keyboard.press("Enter")
    row = _row(page, "owner/full")
    expect(row.get_by_role("status")).to_have_text("Failed")
    expect(row).to_contain_text("the disk is full; free some space")
    expect(row.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.locator(".note.error")).to_be_hidden()


def _a_fetch_goes_on_after_a_reload_and_can_be_stopped(page: Page) -> None:
    page.locator("#pull-name").fill("owner/slow")
    page.keyboard.press("Enter")
    row = _row(page, "owner/slow")
    expect(row).to_contain_text("400 MiB of 800 MiB")
    expect(row).to_contain_text("beside what is served now it does not fit")
    page.reload()
    expect(row.get_by_role("progressbar")).to_have_attribute("value", str(400 << 20))
    row.get_by_role("button", name="Stop").focus()
    page.keyboard.press("Enter")
    expect(row.get_by_role("status")).to_have_text("Stopped")


def _a_stopped_fetch_goes_on(page: Page) -> None:
    page.get_by_role("button", name="Go on").click()
    expect(_row(page, "owner/slow").first.get_by_role("status")).to_have_text("In the cache")


def _a_key_is_asked_for(page: Page) -> None:
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Key", exact=True).fill("secret-root")
    dialog.get_by_role("button", name="Use this key").click()
    expect(_row(page, "chat")).to_contain_text("Not loaded")
    _row(page, "chat").get_by_role("button", name="Load chat").click()
    expect(_row(page, "chat").get_by_role("status")).to_have_text("Loaded")


if __name__ == "__main__":
    main(*sys.argv[1:])
