"""The keyboard alone: the focus stays where the user is, whatever is drawn, and a Mac's commands have Cmd."""

from playwright.sync_api import Browser, expect

from tests.integrations.chat_page.browsing import (
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
)

_MAC = """
Object.defineProperty(navigator, 'platform', { get: () => 'MacIntel' });
Object.defineProperty(navigator, 'userAgentData', { get: () => ({ platform: 'macOS' }) });
"""


def main() -> None:
    with session() as (server, browser, _):
        _the_link_to_the_field_leads_to_it(server, browser)
        _the_focus_stays_with_a_message(server, browser)
        _the_focus_stays_while_an_answer_is_drawn(server, browser)
        _the_focus_stays_in_the_list(server, browser)
        _commands_have_cmd_on_a_mac(server, browser)
        _commands_have_ctrl_elsewhere(server, browser)


def _the_link_to_the_field_leads_to_it(server: Server, browser: Browser) -> None:
    """And leaves the conversation shown, as any address does that is no place of the page."""
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "question")
        expect_done(page, "echo: question")
        address = page.url
        page.get_by_role("link", name="Skip to the message field").press("Enter")
        expect(page.locator("#input")).to_be_focused()
        assert page.url == address
        page.evaluate("location.hash = 'input'; location.hash = 'messages'; history.back()")
        page.wait_for_url("**/#input")
        expect_done(page, "echo: question")


def _the_focus_stays_with_a_message(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "question")
        expect_done(page, "echo: question")
        expect(page.locator("#input")).to_be_focused()
        answers(page).get_by_role("button", name="Regenerate").press("Enter")
        expect(page.get_by_text("2 / 2")).to_be_visible()
        expect(answers(page).last).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.get_by_label("Previous version")).to_be_focused()
        page.keyboard.press("Enter")
        expect(page.get_by_text("1 / 2")).to_be_visible()
        expect(answers(page).last).to_be_focused()  # this version has no previous one
        page.get_by_label("Next version").press("Enter")
        expect(page.get_by_text("2 / 2")).to_be_visible()
        answers(page).get_by_role("button", name="API").press("Enter")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        expect(answers(page).get_by_role("button", name="API")).to_be_focused()
        question = page.locator(".message.user")
        question.get_by_role("button", name="Edit").press("Enter")
        expect(page.get_by_label("Edit the message")).to_be_focused()
        page.keyboard.press("Escape")
        expect(question.get_by_role("button", name="Edit")).to_be_focused()
        page.keyboard.press("Enter")
        page.get_by_label("Edit the message").fill("another question")
        page.keyboard.press("Enter")
        expect_done(page, "echo: another question")
        expect(question).to_be_focused()
        ask(page, "wait: a slow answer")
        expect(answers(page).last).to_contain_text("a slow")
        page.locator("#stop").press("Enter")
        expect(answers(page).last).to_contain_text("Stopped.")
        expect(page.locator("#input")).to_be_focused()


def _the_focus_stays_while_an_answer_is_drawn(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: [a link](http://example.com) and words that are more than a few")
        link = answers(page).last.get_by_role("link", name="a link")
        link.focus()
        server.release()
        expect_done(page, "more than a few")
        expect(link).to_be_focused()
        ask(page, "wait: the end of it")
        expect(answers(page).last).to_contain_text("the")
        page.locator("#stop").focus()
        server.release()
        expect_done(page, "the end of it")
        expect(page.locator("#input")).to_be_focused()


def _the_focus_stays_in_the_list(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: first words")
        expect(answers(page).last).to_contain_text("first")
        page.locator(".conversations .title").focus()
        server.release()
        expect_done(page, "first words")
        expect(page.locator(".conversations .title")).to_be_focused()
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        page.get_by_role("textbox", name="Name of the conversation").fill("a name")
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Rename “a name”")).to_be_focused()


def _commands_have_cmd_on_a_mac(server: Server, browser: Browser) -> None:
    with context_of(browser, script=_MAC) as context:
        page = open_page(context, server.url)
        ask(page, "question")
        expect_done(page, "echo: question")
        page.keyboard.press("Control+Shift+o")
        expect(page.locator(".message")).to_have_count(2)
        page.keyboard.press("Meta+,")
        expect(page.locator("#settings")).to_be_visible()
        page.keyboard.press("Escape")
        expect(page.locator("#settings")).to_be_hidden()
        answers(page).get_by_role("button", name="Delete").press("Enter")
        expect(answers(page)).to_have_count(0)
        page.keyboard.press("Meta+z")
        expect_done(page, "echo: question")
        page.keyboard.press("Meta+Shift+o")
        expect(page.locator(".message")).to_have_count(0)
        page.locator("#input").blur()
        page.keyboard.press("?")
        expect(page.get_by_role("row", name="New chat")).to_contain_text("⌘⇧O")


def _commands_have_ctrl_elsewhere(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "question")
        expect_done(page, "echo: question")
        page.keyboard.press("Control+,")
        expect(page.locator("#settings")).to_be_visible()
        page.keyboard.press("Control+Shift+o")
        expect(page.locator(".message")).to_have_count(0)
        page.locator("#input").blur()
        page.keyboard.press("?")
        expect(page.get_by_role("row", name="New chat")).to_contain_text("CtrlShiftO")


if __name__ == "__main__":
    main()
