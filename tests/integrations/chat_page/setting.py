"""Figures and settings: what an answer cost, what is in force, what is wrong, and what does not fit."""

import re
from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.integrations.chat_page.browsing import (
    Cards,
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
)


def main() -> None:
    with session() as (server, browser, folder):
        _figures_come_while_an_answer_does_and_stay_when_it_ends(server, browser)
        _a_wrong_setting_is_marked_and_stops_the_request(server, browser)
        _all_wrong_settings_are_named_and_lead_to_their_fields(server, browser, folder)
        _what_is_in_force_shows_and_can_be_undone(server, browser)
        _an_answer_cut_by_a_setting_leads_to_it(server, browser)
        _what_does_not_fit_is_told_before_it_is_sent(server, browser)
        _what_does_not_fit_is_not_sent(server, browser, folder)


def _figures_come_while_an_answer_does_and_stay_when_it_ends(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: ten words of which a half comes at once")
        stats = page.locator(".message.assistant .stats")
        expect(stats).to_contain_text("tokens at")  # while it is written
        expect(stats).to_contain_text("from the cache")
        page.keyboard.press("Escape")
        expect(answers(page).last).to_contain_text("Stopped.")
        expect(stats).to_contain_text("first after")
        stopped = stats.inner_text()
        page.reload()
        expect(stats).to_have_text(stopped)
        ask(page, "fail: this one fails in its middle")
        expect(page.get_by_role("alert")).to_contain_text("The engine ended.")
        expect(stats.last).to_contain_text("first after")
        server.release()


def _a_wrong_setting_is_marked_and_stops_the_request(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.get_by_role("button", name="Settings").click()
        field = page.get_by_label("Top p", exact=True)
        field.fill("3")
        expect(page.get_by_text("It is 3; it must be above 0 and at most 1.")).to_be_visible()
        expect(field).to_have_attribute("aria-invalid", "true")
        expect(page.locator(".mode.wrong")).to_contain_text("Top p 3 is wrong")
        page.get_by_label("Close the settings").click()
        ask(page, "anyone?")
        expect(page.get_by_role("dialog")).to_contain_text("Top p It is 3;")
        page.keyboard.press("Escape")
        expect(page.locator("#input")).to_have_value("anyone?")
        expect(page.locator("#input")).to_be_focused()
        page.reload()
        page.get_by_role("button", name="Top p 3 is wrong").click()
        expect(field).to_be_focused()
        expect(field).to_have_value("3")
        field.fill("1")
        expect(page.locator(".mode.wrong")).to_have_count(0)
        page.keyboard.press("ArrowDown")
        expect(field).to_have_value("0.99")
        page.locator("#input").fill("anyone?")
        page.locator("#input").press("Enter")
        expect_done(page, "echo: anyone?")


def _all_wrong_settings_are_named_and_lead_to_their_fields(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Temperature", exact=True).fill("99")
        expect(page.get_by_text("It is 99. Above 2, the text is mostly random words.")).to_be_visible()
        expect(page.get_by_label("Temperature", exact=True)).to_have_attribute("aria-invalid", "false")
        page.get_by_label("Top p", exact=True).fill("3")
        page.get_by_label("Seed", exact=True).fill("x")
        page.get_by_label("Tools", exact=True).fill("{}")
        expect(page.get_by_label("Tools", exact=True)).to_have_attribute("aria-invalid", "true")
        page.screenshot(path=folder / "setting-settings.png")
        page.get_by_label("Close the settings").click()
        ask(page, "anyone?")
        dialog = page.get_by_role("dialog")
        expect(dialog.locator("li strong")).to_have_text(["Tools", "Top p", "Seed"])
        page.screenshot(path=folder / "setting-wrong.png")
        dialog.get_by_role("button", name="Correct Seed").click()
        expect(page.get_by_label("Seed", exact=True)).to_be_focused()
        page.get_by_label("Seed", exact=True).fill("3")
        page.get_by_label("Remove: Tools").click()
        page.locator("#input").press("Enter")
        expect(dialog.locator("li strong")).to_have_text(["Top p"])
        page.keyboard.press("Enter")  # the first one has the focus
        expect(page.get_by_label("Top p", exact=True)).to_be_focused()
        page.get_by_label("Top p", exact=True).fill("0.5")
        expect(page.locator(".mode.unusual")).to_have_text("Temperature 99✕")
        page.locator("#input").press("Enter")
        expect_done(page, "echo: anyone?")


def _what_is_in_force_shows_and_can_be_undone(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        page.get_by_role("button", name="Settings").click()
        expect(page.get_by_label("Temperature", exact=True)).to_have_attribute("placeholder", "0.7 (the model's own)")
        expect(page.get_by_label("Maximum length in tokens", exact=True)).to_have_attribute(
            "placeholder", "up to 400, less the prompt"
        )
        page.get_by_label("Temperature", exact=True).fill("0.2")
        page.get_by_label("System prompt", exact=True).fill("Be brief.")
        page.get_by_role("button", name="Save as…").click()
        page.get_by_role("textbox", name="Name of the preset").fill("brief")
        page.keyboard.press("Enter")
        expect(page.get_by_label("Preset", exact=True)).to_have_value("brief")
        page.get_by_role("button", name="Reset to defaults").click()
        expect(page.locator(".mode")).to_have_count(1)
        expect(page.get_by_label("Temperature", exact=True)).to_have_value("")
        page.get_by_role("button", name="Undo").click()
        expect(page.locator(".mode")).to_have_count(2)
        page.get_by_label("Remove: System prompt").click()
        expect(page.get_by_label("Preset", exact=True)).to_have_value("")
        page.get_by_label("Preset", exact=True).select_option("brief")
        expect(page.get_by_label("System prompt", exact=True)).to_have_value("Be brief.")
        page.reload()
        expect(page.locator(".mode")).to_have_count(1)  # of all answers; the other one belonged to the new chat
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Preset", exact=True).select_option("brief")
        page.get_by_label("Delete the preset “brief”").click()
        expect(page.get_by_label("Preset", exact=True)).to_be_disabled()
        expect(page.locator(".mode")).to_have_count(2)


def _an_answer_cut_by_a_setting_leads_to_it(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Maximum length in tokens", exact=True).fill("5")
        page.get_by_label("Close the settings").click()
        ask(page, "limit: abcde")
        expect(answers(page).last).to_contain_text("Cut off after 5 tokens, your setting.")
        page.get_by_role("button", name="Change it").click()
        expect(page.get_by_label("Maximum length in tokens", exact=True)).to_be_focused()


def _what_does_not_fit_is_told_before_it_is_sent(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        meter = page.locator("#meter")
        expect(meter).to_be_hidden()
        page.locator("#input").fill("a few words")
        expect(meter).to_contain_text("of 400 tokens")
        page.locator("#input").fill("a word " * 100)
        expect(meter).to_contain_text(re.compile(r"This does not fit: [\d,]+ tokens, and tiny takes 400"))  # as counted
        meter.get_by_role("button", name="Use support:ab12").click()
        expect(page.get_by_label("Model", exact=True)).to_have_value("ft:tiny:headrace:support:ab12")
        expect(meter).not_to_contain_text("does not fit")
        page.locator("#input").press("Enter")
        expect_done(page, "echo: a word")
        expect(meter).to_contain_text("of 1,000,000 tokens")


def _what_does_not_fit_is_not_sent(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        dialog, field, long = page.get_by_role("dialog"), page.locator("#input"), "a word " * 99 + "a word"
        page.locator("#attach-file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
        ask(page, long)  # at once: nothing was counted before
        expect(dialog).to_contain_text(
            re.compile(r"The message has \d{3} tokens. tiny takes 400, the answer among them.")
        )
        expect(dialog).to_contain_text("Shorten it, attach less or send it to a model with more room.")
        page.screenshot(path=folder / "setting-too-long.png")
        dialog.get_by_role("button", name="Close").click()
        expect(field).to_be_focused()
        expect(field).to_have_value(long)
        expect(page.locator("#attachments li")).to_have_count(1)
        expect(page.locator(".message")).to_have_count(0)
        field.press("Enter")
        dialog.get_by_role("button", name="Send it to support:ab12 (1,000,000)").click()
        expect_done(page, "echo: a word")
        expect(field).to_have_value("")
        page.get_by_label("Model", exact=True).select_option("org/tiny")
        page.locator(".message.user").get_by_role("button", name="Edit").click()
        edited = page.get_by_label("Edit the message")
        edited.fill(long + " and more")
        edited.press("Enter")
        expect(dialog).to_contain_text("tiny takes 400")
        page.keyboard.press("Escape")
        expect(edited).to_have_value(long + " and more")
        edited.press("Escape")
        page.get_by_role("button", name="New chat").click()
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Maximum length in tokens", exact=True).fill("390")
        page.get_by_label("Close the settings").click()
        ask(page, "a few words")
        expect(dialog).to_contain_text("your maximum length of an answer is 390. Lower the maximum length, shorten")
        dialog.get_by_role("button", name="Change the maximum length").click()
        expect(page.get_by_label("Maximum length in tokens", exact=True)).to_be_focused()
        page.get_by_label("Maximum length in tokens", exact=True).fill("30")
        field.press("Enter")
        expect_done(page, "echo: a few words")


if __name__ == "__main__":
    main()
