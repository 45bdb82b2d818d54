"""Two tabs of one browser: each keeps what the other stores, deletes and stops, also where one of them is gone."""

from playwright.sync_api import Browser, expect

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

# After the other tabs were asked who receives the answer, and before the time for their replies is over.
_STOP_WHEN_OPENED = """
if (location.hash) document.addEventListener('DOMContentLoaded', () => {
  const stop = document.getElementById('stop');
  const watched = new MutationObserver(() => {
    if (stop.hidden) return;
    watched.disconnect();
    setTimeout(() => stop.click(), 30);
  });
  watched.observe(stop, { attributes: true });
});
"""


def main() -> None:
    with session() as (server, browser, _):
        _two_tabs_keep_each_others_messages(server, browser)
        _messages_that_cross_are_kept(server, browser)
        _deleting_reaches_other_tabs(server, browser)
        _what_is_deleted_while_it_is_answered_stays_deleted(server, browser)
        _an_answer_whose_tab_crashed_can_be_stopped(server, browser)
        _an_answer_is_stopped_while_it_is_taken_over(server, browser)
        _settings_follow_each_other(server, browser)


def _two_tabs_keep_each_others_messages(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        one = open_page(context, server.url)
        ask(one, "first")
        expect_done(one, "echo: first")
        other = open_page(context, one.url)
        expect_done(other, "echo: first")
        ask(other, "from the other tab")
        expect_done(other, "echo: from the other tab")
        expect_done(one, "echo: from the other tab")  # it is told
        ask(one, "wait: one at the same time")
        expect(answers(one).last).to_contain_text("one at")
        ask(other, "next")  # it sees that an answer arrives, and keeps the question in its field
        expect(other.locator("#stop")).to_be_visible()
        expect(other.locator("#input")).to_have_value("next")
        server.release()
        expect_done(one, "one at the same time")
        expect_done(other, "one at the same time")
        other.locator("#input").press("Enter")
        expect_done(other, "echo: next")
        expect_done(one, "echo: next")
        shown = texts(one)
        assert len(shown) == 8
        assert texts(other) == shown
        for page in (one, other):
            page.reload()
            expect(page.locator(".message").nth(7)).to_be_visible()
            assert texts(page) == shown


def _messages_that_cross_are_kept(server: Server, browser: Browser) -> None:
    """Both tabs ask before either has heard of the other: the questions become versions of each other."""
    with context_of(browser, script="delete window.BroadcastChannel") as context:
        one = open_page(context, server.url)
        ask(one, "first")
        expect_done(one, "echo: first")
        other = open_page(context, one.url)
        expect_done(other, "echo: first")
        for page, text in ((one, "left"), (other, "right")):
            ask(page, text)
            expect_done(page, f"echo: {text}")
        one.reload()
        expect_done(one, "echo: right")
        one.get_by_label("Previous version").click()
        expect_done(one, "echo: left")
        other.reload()  # where the last choice shows
        expect_done(other, "echo: left")
        other.get_by_label("Next version").click()
        expect_done(other, "echo: right")
        assert sorted(stored_texts(one)) == sorted(
            ["first", "echo: first", "left", "echo: left", "right", "echo: right"]
        )


def _deleting_reaches_other_tabs(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        one = open_page(context, server.url)
        ask(one, "wait: one two three four")
        expect(answers(one).last).to_contain_text("one two")
        other = open_page(context, one.url)
        expect(answers(other).last).to_contain_text("one two")
        other.locator("#stop").click()  # in the tab that receives it
        expect(answers(one).last).to_contain_text("Stopped.")
        expect(answers(other).last).to_contain_text("Stopped.")
        other.get_by_role("button", name="Delete", exact=True).click()
        expect(answers(one)).to_have_count(0)
        other.locator("#notice").get_by_role("button", name="Undo").click()
        expect(answers(one).last).to_contain_text("one two")
        other.get_by_label("Delete “wait: one").click(force=True)
        expect(one.locator(".welcome")).to_be_visible()
        expect(one.locator(".conversations li")).to_have_count(0)


def _what_is_deleted_while_it_is_answered_stays_deleted(server: Server, browser: Browser) -> None:
    """In the tab that receives the answer and in another one, by either of them."""
    with context_of(browser) as context:
        one = open_page(context, server.url)
        other = open_page(context, server.url)
        for number, deleting in enumerate((one, other)):
            for page in (one, other):
                page.get_by_role("button", name="New chat").click()
            ask(one, f"wait: number {number} of these two words")
            title = other.locator(".conversations").get_by_role("link", name=f"wait: number {number}")
            title.click()
            expect(answers(other).last).to_contain_text(f"number {number}")
            deleting.get_by_label(f"Delete “wait: number {number}").click(force=True)
            for page in (one, other):
                expect(page.locator(".welcome")).to_be_visible()
            ask(one, f"after {number}")  # when it is told to the other tab, all that was before it has been told
            expect_done(one, f"echo: after {number}")
            expect(other.locator(".conversations").get_by_role("link", name=f"after {number}")).to_be_visible()
            expect(title).to_have_count(0)
        other.get_by_role("button", name="Undo").click()
        for page in (one, other):
            expect(page.locator(".conversations li")).to_have_count(3)
        expect(answers(other).last).to_contain_text("Stopped.")
        one.reload()
        expect(one.locator(".conversations li")).to_have_count(3)


def _an_answer_whose_tab_crashed_can_be_stopped(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        server.restart()
        one = open_page(context, server.url)
        ask(one, "wait: one two three four")
        expect(answers(one).last).to_contain_text("one two")
        other = open_page(context, one.url)
        expect(answers(other).last).to_contain_text("one two")
        # It goes without a word to the other tabs.
        one.evaluate("addEventListener('pagehide', (event) => event.stopImmediatePropagation(), { capture: true })")
        one.close()
        other.locator("#stop").click()
        expect(answers(other).last).to_contain_text("Stopped.")
        server.wait_for(1, num_open=0)
        ask(other, "next")
        expect_done(other, "echo: next")


def _an_answer_is_stopped_while_it_is_taken_over(server: Server, browser: Browser) -> None:
    with context_of(browser, script=_STOP_WHEN_OPENED) as context:
        server.restart()
        page = open_page(context, server.url)
        ask(page, "wait: one two three four")
        expect(answers(page).last).to_contain_text("one two")
        page.reload()
        expect(answers(page).last).to_contain_text("Stopped.")
        server.wait_for(1, num_open=0)


def _settings_follow_each_other(server: Server, browser: Browser) -> None:
    """Those of all answers, and the saved ones; what holds for a new chat stays in its tab."""
    with context_of(browser) as context:
        one = open_page(context, server.url)
        other = open_page(context, server.url)
        for page in (one, other):
            page.get_by_role("button", name="Settings").click()
        one.get_by_label("System prompt", exact=True).fill("Be brief.")
        one.get_by_label("Temperature", exact=True).fill("0.5")
        one.get_by_role("button", name="Save as…").click()
        one.get_by_role("textbox", name="Name of the preset").fill("brief")
        one.keyboard.press("Enter")
        expect(other.get_by_label("Temperature", exact=True)).to_have_value("0.5")
        expect(other.locator(".mode")).to_contain_text(["Temperature 0.5"])
        expect(other.get_by_label("System prompt", exact=True)).to_have_value("")
        other.get_by_label("Preset", exact=True).select_option("brief")
        expect(other.get_by_label("System prompt", exact=True)).to_have_value("Be brief.")
        field = one.get_by_label("Top p", exact=True)
        field.focus()
        other.get_by_label("Remove: Temperature 0.5").click()
        expect(one.get_by_label("Temperature", exact=True)).to_have_value("")
        expect(field).to_be_focused()
        field.fill("0.9")
        other.get_by_label("Close the settings").click()
        expect(other.locator(".mode")).to_contain_text(["System prompt", "Top p 0.9"])
        one.get_by_role("button", name="Reset to defaults").click()
        expect(other.locator(".mode")).to_have_count(1)


if __name__ == "__main__":
    main()
