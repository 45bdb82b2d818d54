"""Nothing is lost: reloads at every moment, what is typed and not sent, errors, and deletions."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.integrations.chat_page.browsing import (
    PHONE,
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
    texts,
)

_READ_LATE = """
const text = Blob.prototype.text;
const released = new Promise((resolve) => { window.release = resolve; });
Blob.prototype.text = async function () { await released; return text.call(this); };
"""


def main() -> None:
    with session() as (server, browser, folder):
        _a_reload_loses_nothing(server, browser)
        _what_is_typed_stays_with_its_conversation(server, browser)
        _an_edit_stays_with_its_message(server, browser)
        _a_file_that_fails_later_leaves_its_conversation(server, browser)
        _an_error_is_read_once(server, browser)
        _trying_again_keeps_what_was_asked_below(server, browser)
        _deleting_is_counted_and_undone(server, browser)
        _a_question_without_an_answer_has_a_button(server, browser)
        _all_of_it_works_by_keyboard_on_a_phone(server, browser, folder)


def _a_reload_loses_nothing(server: Server, browser: Browser) -> None:
    """Before the answer's first token, in its midst, and after its end."""
    with context_of(browser) as context:
        server.restart()
        page = open_page(context, server.url)
        ask(page, "queue: all at once")
        server.wait_for(1, num_open=1)
        page.reload()
        expect(page.locator(".message.user")).to_contain_text("queue: all at once")
        server.wait_for(2, num_open=1)  # it is asked again, and the first one has ended
        server.release()
        expect_done(page, "all at once")
        ask(page, "wait: a rather long text that goes on")
        expect(answers(page).last).to_contain_text("a rather")
        page.reload()
        expect(answers(page).last).to_contain_text("a rather")
        expect(page.locator("#stop")).to_be_visible()
        server.release()
        expect_done(page, "a rather long text that goes on")
        before = texts(page)
        assert before.count("a rather long text that goes on") == 1
        page.reload()
        expect_done(page, "a rather long text that goes on")
        assert texts(page) == before
        # The page is left in the very moment in which the question is sent.
        page.locator("#input").fill("last words")
        page.evaluate("document.getElementById('composer').requestSubmit(); location.reload()")
        expect_done(page, "echo: last words")


def _what_is_typed_stays_with_its_conversation(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "first")
        expect_done(page, "echo: first")
        field = page.locator("#input")
        field.fill("not sent yet")
        page.locator("#attach-file").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"text"})
        page.locator("#new-chat").click()
        expect(field).to_have_value("")
        expect(page.locator("#attachments li")).to_have_count(0)
        field.fill("for a new chat")
        page.go_back()
        expect(field).to_have_value("not sent yet")
        expect(page.locator("#attachments li")).to_have_count(1)
        page.reload()
        expect(field).to_have_value("not sent yet")
        page.locator("#new-chat").click()
        expect(field).to_have_value("for a new chat")
        field.press("Enter")
        expect_done(page, "echo: for a new chat")
        page.locator("#new-chat").click()
        expect(field).to_have_value("")


def _an_edit_stays_with_its_message(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "first")
        expect_done(page, "echo: first")
        field = page.get_by_label("Edit the message")
        page.locator(".message.user").get_by_role("button", name="Edit").click()
        field.fill("second")
        page.locator("#new-chat").click()
        expect(field).to_have_count(0)
        page.go_back()
        expect(field).to_have_value("second")
        page.reload()
        expect(field).to_have_value("second")
        field.press("Enter")
        expect_done(page, "echo: second")
        expect(field).to_have_count(0)
        page.locator(".message.user").get_by_label("Previous version").click()
        expect(field).to_have_count(0)
        page.locator(".message.user").get_by_role("button", name="Edit").click()
        expect(field).to_have_value("first")
        field.fill("never")
        field.press("Escape")
        page.reload()
        expect_done(page, "echo: first")
        expect(field).to_have_count(0)


def _a_file_that_fails_later_leaves_its_conversation(server: Server, browser: Browser) -> None:
    """It was still being read when another conversation was shown."""
    with context_of(browser, script=_READ_LATE) as context:
        page = open_page(context, server.url)
        ask(page, "first")
        expect_done(page, "echo: first")
        page.locator("#attach-file").set_input_files(
            {"name": "a.bin", "mimeType": "application/octet-stream", "buffer": b"\xff\xfe"}
        )
        expect(page.locator("#attachments li")).to_contain_text("reading")
        page.locator("#new-chat").click()
        page.evaluate("release()")
        expect(page.get_by_role("dialog")).to_contain_text("“a.bin” is neither a text file nor a PDF.")
        page.keyboard.press("Escape")
        page.go_back()
        expect_done(page, "echo: first")
        expect(page.locator("#attachments li")).to_have_count(0)
        ask(page, "second")
        expect_done(page, "echo: second")


def _an_error_is_read_once(server: Server, browser: Browser) -> None:
    """Drawing the page again puts no other error in its place, which a screen reader would read again."""
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "fail: one two")
        error = page.get_by_role("alert").filter(has_text="Try again")
        error.evaluate("each => { each.isFirst = true; }")
        page.locator(".message.user").get_by_role("button", name="Edit").click()
        page.keyboard.press("Escape")
        answers(page).get_by_role("button", name="As written").click()
        assert error.evaluate("each => each.isFirst") is True


def _trying_again_keeps_what_was_asked_below(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        context.set_offline(True)
        ask(page, "first")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
        context.set_offline(False)
        ask(page, "second")
        expect_done(page, "echo: second")
        page.get_by_role("alert").get_by_role("button", name="Try again").click()
        expect_done(page, "echo: first")
        assert texts(page) == ["first", "echo: first"]
        page.reload()
        expect_done(page, "echo: first")
        page.get_by_label("Previous version").click()
        expect_done(page, "echo: second")


def _deleting_is_counted_and_undone(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        for number in range(3):
            ask(page, f"question {number}")
            expect_done(page, f"echo: question {number}")
        before = texts(page)
        page.locator(".message.assistant").first.get_by_role("button", name="Delete 5").click()
        expect(page.locator("#notice")).to_contain_text("Deleted 5 messages.")
        assert texts(page) == ["question 0"]
        page.locator("#notice").get_by_role("button", name="Undo").click()
        expect(page.locator(".message")).to_have_count(6)
        assert texts(page) == before
        page.reload()
        expect(page.locator(".message")).to_have_count(6)
        assert texts(page) == before
        address = page.url
        page.get_by_label("Delete “question 0”").click(force=True)
        expect(page.locator("#notice")).to_contain_text("Deleted “question 0” with 6 messages.")
        expect(page.locator(".conversations li")).to_have_count(0)
        assert page.url != address
        page.locator("#notice").get_by_role("button", name="Undo").click()
        expect(page.locator(".message")).to_have_count(6)
        assert page.url == address
        page.locator(".message").last.get_by_role("button", name="Delete").click()
        page.reload()
        expect(page.locator(".message")).to_have_count(5)


def _a_question_without_an_answer_has_a_button(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "hello")
        expect_done(page, "echo: hello")
        answers(page).last.get_by_role("button", name="Delete").click()
        expect(answers(page)).to_have_count(0)
        page.reload()
        page.get_by_role("button", name="Answer", exact=True).click()
        expect_done(page, "echo: hello")
        expect(page.get_by_role("button", name="Answer", exact=True)).to_have_count(0)


def _all_of_it_works_by_keyboard_on_a_phone(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser, PHONE) as context:
        page = open_page(context, server.url)
        expect(page.locator("#input")).to_be_focused()
        page.keyboard.type("question")
        page.keyboard.press("Enter")
        expect_done(page, "echo: question")
        page.locator(".message").last.get_by_role("button", name="Delete").focus()
        page.keyboard.press("Enter")
        expect(page.locator("#notice").get_by_role("button", name="Undo")).to_be_focused()
        page.screenshot(path=str(folder / "deleted-phone.png"))
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "the notice is too wide"
        page.keyboard.press("Enter")
        expect_done(page, "echo: question")
        expect(page.locator("#input")).to_be_focused()
        page.locator(".message").last.get_by_role("button", name="Delete").focus()
        page.keyboard.press("Enter")
        page.keyboard.press("Control+z")
        expect_done(page, "echo: question")


if __name__ == "__main__":
    main()
