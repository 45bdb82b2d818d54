"""Uses the dashboard's jobs in a real browser: run by test_dashboard.py with Playwright's Python.

Arguments: the server's address, the browser's path, the path of axe-core's script, a folder for screenshots, and the
ids of a running training and of a refused batch of the key "secret-ann". "secret-root" is an operator's.
"""

import sys
from pathlib import Path

from dashboard_browser import browser_at, check, page_at
from playwright.sync_api import Browser, Page, expect

_CHART = "Loss: training 2.000 at step 1, 0.200 at step 10; validation 0.500 at step 5, 0.250 at step 10"


def main(address: str, browser_path: str, axe: str, folder: str, training: str, batch: str) -> None:
    pictures = Path(folder)
    dashboard = f"{address}/dashboard"
    with browser_at(browser_path) as browser:
        for size, scheme, name in (("laptop", "light", "laptop"), ("phone", "dark", "phone-dark")):
            with page_at(browser, f"{dashboard}#/jobs", key="secret-ann", size=size, scheme=scheme) as page:
                _lists_the_jobs(page)
                check(page, axe, pictures / f"jobs-{name}.png")
                _shows_a_training(page, training)
                _stays_as_it_is_used(page)
                check(page, axe, pictures / f"training-{name}.png")
        with page_at(browser, f"{dashboard}#/jobs/{batch}", key="secret-ann") as page:
            expect(page.locator("#job-page")).to_contain_text("line 3 is not JSON")
            check(page, axe, pictures / "batch-laptop.png")
        with page_at(browser, f"{dashboard}#/jobs", key="secret-root") as page:
            _an_operator_sees_figures(page, training)
        with page_at(browser, f"{dashboard}#/jobs/{training}", key="secret-ben") as page:
            expect(page.locator("#job-page")).to_contain_text("There is no such job, or it belongs to another key.")
        _a_key_is_asked_for(browser, dashboard)
        with page_at(browser, f"{dashboard}#/jobs", key="secret-ann") as page:
            _is_paused_and_canceled_with_the_keyboard(page)
            _chats_with_the_model(page, address)


def _lists_the_jobs(page: Page) -> None:
    training = page.locator("#jobs-open .job")
    expect(training).to_have_count(1)
    expect(training).to_contain_text("Fine-tuning")
    expect(training).to_contain_text("Training")
    expect(training).to_contain_text("10 of 20 steps")
    expect(training).to_contain_text("about 2 h left")
    expect(page.locator("#jobs-ended .job")).to_contain_text("Failed")
    expect(page.locator("#files")).to_contain_text("rooms.jsonl")
    expect(page.locator("#jobs-tally")).to_have_text("1 running, 1 ended.")


def _shows_a_training(page: Page, job_id: str) -> None:
    page.locator("#jobs-open .job").click()
    job = page.locator("#job-page")
    expect(job).to_contain_text(job_id)
    expect(job.locator(".figures")).to_contain_text("50 %")
    chart = job.locator(".chart-area")
    expect(chart).to_have_attribute("aria-label", _CHART)
    expect(job.locator(".chart-unit")).to_have_text("nats per token; less is better")
    expect(job.locator(".sample")).to_contain_text("Which room?")
    expect(job.locator(".sample dd")).to_have_text(["answer 1", "answer 2"])
    expect(job.locator(".moments")).to_contain_text("The loss falls")


def _stays_as_it_is_used(page: Page) -> None:
    checkpoints = page.locator("#job-page details")
    checkpoints.locator("summary").focus()
    page.keyboard.press("Enter")
    link = checkpoints.get_by_role("link", name="Chat")
    link.focus()
    page.wait_for_timeout(2500)  # the job is asked for again meanwhile
    expect(link).to_be_focused()


def _an_operator_sees_figures(page: Page, job_id: str) -> None:
    row = page.locator("#jobs-open .job")
    expect(row).to_contain_text("key ann")
    expect(page.locator("#jobs-page")).not_to_contain_text("rooms.jsonl")
    row.click()
    job = page.locator("#job-page")
    expect(job).to_contain_text(job_id)
    expect(job).to_contain_text("This job belongs to the key ann.")
    expect(job.locator(".chart-area")).to_be_visible()
    expect(job).not_to_contain_text("Which room?")
    expect(job.get_by_role("button", name="Pause")).to_have_count(0)


def _a_key_is_asked_for(browser: Browser, dashboard: str) -> None:
    with page_at(browser, f"{dashboard}#/jobs") as page:
        dialog = page.get_by_role("dialog")
        expect(dialog).to_contain_text("A key is needed")
        dialog.get_by_label("Key", exact=True).fill("secret-ben")
        page.keyboard.press("Enter")
        expect(page.locator("#jobs-open")).to_contain_text("No job yet.")


def _is_paused_and_canceled_with_the_keyboard(page: Page) -> None:
    expect(page.locator("#jobs-open .job")).to_be_visible()
    page.locator("#jobs-open .job").focus()
    page.wait_for_timeout(2500)  # the list is drawn again meanwhile
    page.keyboard.press("Enter")
    job = page.locator("#job-page")
    _press(page, "Pause")
    expect(job.locator(".figures")).to_contain_text("Paused")
    _press(page, "Resume")
    expect(job.locator(".figures")).to_contain_text("Checking its files")
    _press(page, "Cancel")
    page.keyboard.press("Escape")
    expect(job.locator(".figures")).to_contain_text("Checking its files")
    _press(page, "Cancel")
    page.get_by_role("dialog").get_by_role("button", name="Cancel it").focus()
    page.keyboard.press("Enter")
    expect(job.locator(".figures")).to_contain_text("Canceled")
    expect(job.get_by_role("button", name="Cancel")).to_have_count(0)


def _press(page: Page, name: str) -> None:
    page.locator("#job-page").get_by_role("button", name=name).focus()
    page.keyboard.press("Enter")


def _chats_with_the_model(page: Page, address: str) -> None:
    """The chat page chooses the model that a link names."""
    page.goto(f"{address}/?model=scripted")
    expect(page.locator("#model")).to_have_value("scripted")


if __name__ == "__main__":
    main(*sys.argv[1:])
