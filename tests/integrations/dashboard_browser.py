"""A browser at the dashboard, for the scripts that Playwright's Python runs."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, Page, expect, sync_playwright

SIZES = {"phone": (390, 844), "laptop": (1280, 800)}
_QUIET = ("--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-sync")
_FAULTS = {"serious", "critical"}
_EXPECT_TIMEOUT_MS = 30_000  # for busy machines


@contextlib.contextmanager
def browser_at(path: str) -> Iterator[Browser]:
    expect.set_options(timeout=_EXPECT_TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*_QUIET])
        yield browser
        browser.close()


@contextlib.contextmanager
def page_at(
    browser: Browser,
    address: str,
    *,
    key: str | None = None,
    size: str = "laptop",
    scheme: str = "light",
    headers: dict[str, str] | None = None,
) -> Iterator[Page]:
    """A page with a memory of its own, in which a key may be saved. No script fails on it, it asks no other server, and
    nothing breaks its policy."""
    width, height = SIZES[size]
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, extra_http_headers=headers or {}
    )
    if key is not None:
        context.add_init_script(f"sessionStorage.setItem('headrace.key', {key!r})")
    page = context.new_page()
    faults: list[str] = []
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("console", lambda each: faults.append(each.text) if "Content Security Policy" in each.text else None)
    own = (address.partition("/dashboard")[0], "blob:")
    page.on("request", lambda each: None if each.url.startswith(own) else faults.append(each.url))
    page.goto(address)
    yield page
    assert faults == [], faults
    context.close()


def check(page: Page, axe: str, picture: Path) -> None:
    """Take a picture; the page is as wide as the screen, and axe finds nothing serious."""
    page.screenshot(path=picture, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{picture.stem} is too wide"
    page.evaluate(Path(axe).read_text())
    faults = [each for each in page.evaluate("axe.run()")["violations"] if each["impact"] in _FAULTS]
    assert not faults, [(each["id"], [node["html"] for node in each["nodes"]]) for each in faults]
