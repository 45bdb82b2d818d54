"""Asks two questions on Open WebUI's page, in a real browser: run by test_open_webui.py with Playwright's Python.

Arguments: the page's address, the browser's path, a file for a screenshot, and of each turn the question and the answer
to wait for.
"""

import sys

from playwright.sync_api import Page, sync_playwright

_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")


def _close_news(page: Page) -> None:
    """A new version's dialog, which lies over the page."""
    button = page.locator("[role=dialog] button").last
    if button.count():
        button.click()


def main(address: str, browser_path: str, screenshot: str, *turns: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=[*_QUIET])
        page = browser.new_page(viewport={"width": 1100, "height": 800})
        page.goto(address)
        page.locator("#chat-input").wait_for(timeout=60_000)
        page.wait_for_timeout(3_000)
        _close_news(page)
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            page.locator("#chat-input").click()
            page.keyboard.type(question)
            page.keyboard.press("Enter")
            page.get_by_text(answer).first.wait_for(timeout=60_000)
        page.screenshot(path=screenshot)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
