"""Continuing and editing answers, long texts that are pasted or sent, and PDFs."""

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.integrations.chat_page.browsing import (
    PHONE,
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
)

_PASTE = """(text) => {
  const clipboardData = new DataTransfer();
  clipboardData.setData("text/plain", text);
  const event = new ClipboardEvent("paste", { clipboardData, bubbles: true, cancelable: true });
  document.getElementById("input").dispatchEvent(event);
}"""


def main() -> None:
    with session() as (server, browser, folder):
        _an_answer_is_continued_after_each_kind_of_end(server, browser, folder)
        _token_probabilities_do_not_hide_what_is_continued(server, browser)
        _a_reload_while_an_answer_is_continued(server, browser)
        _an_answer_is_continued_after_the_server_was_killed(server, browser)
        _an_answer_for_a_schema_is_not_continued(server, browser)
        _an_answer_is_edited(server, browser)
        _a_long_paste_becomes_a_file(server, browser)
        _long_messages_fold(server, browser, folder)
        _the_text_of_a_pdf_is_attached(server, browser, folder)
        _japanese_in_a_pdf_is_read(server, browser)
        _what_is_no_pdf_is_refused_in_words(server, browser)
        _all_of_it_works_by_keyboard_on_a_phone(server, browser, folder)


def _continue(page: Page) -> None:
    answers(page).last.get_by_role("button", name="Continue").click()


def _an_answer_is_continued_after_each_kind_of_end(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "limit: cut off")
        expect(answers(page).last).to_contain_text("The answer was cut off")
        page.screenshot(path=str(folder / "cut.png"))
        _continue(page)
        expect_done(page, "cut off and so on.")
        expect(answers(page).last.get_by_role("button", name="Continue")).to_have_count(0)
        expect(answers(page).last.locator(".stats")).to_contain_text("19 tokens")  # of both parts
        ask(page, "fail: in the midst")
        expect(page.get_by_role("alert")).to_contain_text("The engine ended.")
        page.screenshot(path=str(folder / "failed.png"))
        _continue(page)
        expect_done(page, "in the and so on.")
        expect(page.get_by_role("alert")).to_have_count(0)
        ask(page, "fail: and again")
        expect(page.locator("#announce")).to_have_text("Error: The engine ended.")
        answers(page).last.get_by_role("button", name="Delete").click()
        page.locator(".message.user").last.get_by_role("button", name="Delete").click()
        ask(page, "wait: stopped by hand")
        expect(answers(page).last).to_contain_text("stopped")
        expect(page.locator("#announce")).to_have_text("")  # a screen reader finds no error of another answer
        page.keyboard.press("Escape")
        expect(answers(page).last).to_contain_text("Stopped.")
        expect(page.locator("#announce")).to_have_text("The answer was stopped.")
        page.reload()
        _continue(page)
        expect_done(page, "stopped and so on.")
        page.reload()
        expect_done(page, "stopped and so on.")
        expect(page.locator(".message")).to_have_count(6)


def _token_probabilities_do_not_hide_what_is_continued(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "limit: without probabilities")
        expect(answers(page).last).to_contain_text("The answer was cut off")
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("Show token probabilities").check()
        page.get_by_label("Close the settings").click()
        _continue(page)
        expect_done(page, "without probabilities and so on.")


def _a_reload_while_an_answer_is_continued(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "twice: cut off")
        _continue(page)
        expect(answers(page).last).to_contain_text("cut off and")
        page.reload()
        expect(answers(page).last).to_contain_text("cut off and")
        expect(page.locator("#stop")).to_be_visible()
        server.release()
        expect_done(page, "cut off and so on.")
        expect(answers(page).last.locator(".text")).to_have_text("cut off and so on.")
        expect(answers(page)).to_have_count(1)


def _an_answer_is_continued_after_the_server_was_killed(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: until it is killed")
        expect(answers(page).last).to_contain_text("until it")
        server.restart()
        expect(page.get_by_role("alert")).to_contain_text("no longer has the rest")
        _continue(page)
        expect_done(page, "until it and so on.")


def _an_answer_for_a_schema_is_not_continued(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.get_by_role("button", name="Settings").click()
        page.get_by_label("JSON schema").fill('{"type": "object"}')
        ask(page, 'limit: {"a": ')
        expect(answers(page).last).to_contain_text("With a JSON schema it cannot be continued, only regenerated.")
        expect(page.get_by_role("button", name="Continue")).to_have_count(0)


def _an_answer_is_edited(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "hello")
        expect_done(page, "echo: hello")
        answers(page).last.get_by_role("button", name="Edit").click()
        field = page.get_by_label("Edit the message")
        expect(field).to_have_value("echo: hello")
        field.fill("**Better**")
        page.keyboard.press("Escape")
        expect(answers(page).last).to_contain_text("echo: hello")
        expect(answers(page).last.get_by_role("button", name="Edit")).to_be_focused()
        page.keyboard.press("Enter")
        field.fill("**Better**")
        page.get_by_role("button", name="Save", exact=True).last.click()
        expect(answers(page).last.locator("strong")).to_have_text("Better")
        expect(answers(page).last).to_contain_text("Edited by you.")
        expect(answers(page).last).to_contain_text("2 / 2")
        _continue(page)
        expect_done(page, "Better")
        expect(answers(page).last).to_contain_text("and so on.")
        page.reload()
        expect(answers(page).last).to_contain_text("and so on.")
        page.get_by_label("Previous version").click()
        expect(answers(page).last).to_contain_text("echo: hello")


def _a_long_paste_becomes_a_file(server: Server, browser: Browser) -> None:
    text = "a line of a long text\n" * 300
    with context_of(browser) as context:
        page = open_page(context, server.url)
        page.locator("#input").fill("before after")
        page.evaluate("document.getElementById('input').setSelectionRange(7, 7)")
        page.evaluate(_PASTE, text)
        expect(page.locator("#attachments")).to_contain_text("pasted-1.txt")
        expect(page.locator("#notice")).to_contain_text("6,600 characters")
        page.get_by_role("button", name="Put it into the field").click()
        expect(page.locator("#input")).to_have_value(f"before {text}after")
        expect(page.locator("#attachments li")).to_have_count(0)
        page.locator("#input").fill("Read this.")
        page.evaluate(_PASTE, text)
        expect(page.locator("#notice")).to_contain_text("so it became a file")
        page.locator("#input").press("Enter")
        expect_done(page, "echo: Read this.")
        expect(page.locator("#notice")).to_be_hidden()  # it is no longer true
        expect(page.locator(".message.user .file summary")).to_have_text("pasted-1.txt")
        page.evaluate(_PASTE, text)
        page.get_by_label("Remove pasted-1.txt").click()
        expect(page.locator("#notice")).to_be_hidden()
        page.evaluate(_PASTE, text)
        page.locator("#new-chat").click()
        expect(page.locator("#notice")).to_be_hidden()
        page.go_back()
        expect(page.locator("#attachments")).to_contain_text("pasted-1.txt")


def _long_messages_fold(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "\n".join(f"line {number}" for number in range(40)))
        expect_done(page, "line 39")
        plain = page.locator(".message.user .plain")
        folded = plain.bounding_box()
        page.screenshot(path=str(folder / "folded.png"))
        page.get_by_role("button", name="Show all 40 lines").click()
        whole = plain.bounding_box()
        assert folded is not None
        assert whole is not None
        assert whole["height"] > 2 * folded["height"]
        page.keyboard.press("Enter")
        expect(page.get_by_role("button", name="Show all 40 lines")).to_be_focused()


def _the_text_of_a_pdf_is_attached(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        requests: list[str] = []
        page.on("request", lambda request: requests.append(request.url))
        page.reload()
        expect(page.locator("#model option")).not_to_have_count(0)
        assert not any("pdf" in url for url in requests)  # it is loaded when it is needed
        _attach(page, "report.pdf", _pdf("The first page.", "And (the) second."))
        expect(page.locator("#attachments li")).to_have_text("report.pdf✕")
        assert {url.rpartition("/")[2] for url in requests if "pdf" in url} == {"pdf.js", "pdf.worker.js"}
        page.screenshot(path=str(folder / "pdf.png"))
        ask(page, "What does it say?")
        expect_done(page, "echo: What does it say?")
        page.locator(".message.user .file summary").click()
        expect(page.locator(".message.user .file pre")).to_have_text(
            "--- Page 1 ---\nThe first page.\n\n--- Page 2 ---\nAnd (the) second."
        )
        answers(page).last.get_by_role("button", name="API").click()
        expect(page.get_by_role("dialog").locator("pre")).to_contain_text("And (the) second.")


def _japanese_in_a_pdf_is_read(server: Server, browser: Browser) -> None:
    """Its font says what its codes mean by the name of a map, which the PDF does not contain."""
    with context_of(browser) as context:
        page = open_page(context, server.url)
        _attach(page, "japanese.pdf", _pdf("日本語の文書", font=_JAPANESE, codes="shift_jis"))
        expect(page.locator("#attachments li")).to_have_text("japanese.pdf✕")
        ask(page, "What language is it?")
        expect_done(page, "echo: What language is it?")
        expect(page.locator(".message.user .file pre")).to_have_text("日本語の文書")


def _what_is_no_pdf_is_refused_in_words(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        for name, content, words in (
            ("broken.pdf", b"%PDF-1.7\nnothing more", "cannot be read as a PDF"),
            ("scan.pdf", _pdf(""), "has no text: its 1 page may be scanned"),
            ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0", "is neither a text file nor a PDF"),
            ("large.txt", b"x" * 1_100_000, "has 1.1 MB; the limit is 1 MB"),
        ):
            _attach(page, name, content)
            expect(page.get_by_role("dialog")).to_contain_text(words)
            page.keyboard.press("Escape")
            expect(page.locator("#attachments li")).to_have_count(0)


def _attach(page: Page, name: str, content: bytes) -> None:
    page.locator("#attach-file").set_input_files({"name": name, "mimeType": "", "buffer": content})


_LATIN = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>"
_JAPANESE = (
    "<< /Type /Font /Subtype /Type0 /BaseFont /HeiseiMin-W3 /Encoding /90ms-RKSJ-H /DescendantFonts [<< /Type /Font "
    "/Subtype /CIDFontType0 /BaseFont /HeiseiMin-W3 /CIDSystemInfo << /Registry (Adobe) /Ordering (Japan1) "
    "/Supplement 2 >> /FontDescriptor << /Type /FontDescriptor /FontName /HeiseiMin-W3 /Flags 4 /ItalicAngle 0 "
    "/Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 /FontBBox [0 -200 1000 800] >> >>] >>"
)


def _pdf(*texts: str, font: str = _LATIN, codes: str = "latin-1") -> bytes:
    """A PDF with a page for each text. codes: the encoding of the font."""
    first_page = 4
    numbers = [first_page + 2 * index for index in range(len(texts))]
    kids = " ".join(f"{number} 0 R" for number in numbers)
    objects = [
        "<< /Type /Catalog /Pages 2 0 R >>",
        f"<< /Type /Pages /Kids [{kids}] /Count {len(texts)} >>",
        font,
    ]
    for number, text in zip(numbers, texts, strict=True):
        drawing = f"BT /F1 12 Tf 72 700 Td <{text.encode(codes).hex()}> Tj ET" if text else ""
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents {number + 1} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
        objects.append(f"<< /Length {len(drawing)} >>\nstream\n{drawing}\nendstream")
    body, offsets = b"%PDF-1.4\n", []
    for number, text in enumerate(objects, 1):
        offsets.append(len(body))
        body += f"{number} 0 obj\n{text}\nendobj\n".encode()
    table = "".join(f"{offset:010} 00000 n \n" for offset in offsets)
    end = (
        f"xref\n0 {len(objects) + 1}\n0000000000 65535 f \n{table}trailer\n<< /Size {len(objects) + 1} /Root 1 0 R >>\n"
    )
    return body + f"{end}startxref\n{len(body)}\n%%EOF\n".encode()


def _all_of_it_works_by_keyboard_on_a_phone(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser, PHONE) as context:
        page = open_page(context, server.url)
        ask(page, "fail: on a phone")
        expect(page.get_by_role("alert")).to_contain_text("The engine ended.")
        page.screenshot(path=str(folder / "failed-phone.png"))
        answers(page).last.get_by_role("button", name="Continue").focus()
        page.keyboard.press("Enter")
        expect_done(page, "and so on.")
        answers(page).last.get_by_role("button", name="Edit").focus()
        page.keyboard.press("Enter")
        page.keyboard.type("!")
        page.screenshot(path=str(folder / "editing-phone.png"))
        page.keyboard.press("Control+Enter")
        expect(answers(page).last).to_contain_text("Edited by you.")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


if __name__ == "__main__":
    main()
