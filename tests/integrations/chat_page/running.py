"""Several answers at once: marks in the list, addresses, reloads, lost connections, and a server that is killed."""

from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

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
    wait_stored,
)

_ARRIVING, _NEW = "An answer is arriving", "A new answer"


def main() -> None:
    with session() as (server, browser, folder):
        _a_second_chat_asks_while_the_first_answers(server, browser, folder)
        _each_conversation_has_an_address(server, browser)
        _all_answers_go_on_after_a_reload(server, browser)
        _another_tab_goes_on_where_one_is_closed(server, browser)
        _a_page_that_is_closed_for_good_frees_the_engine_soon(server, browser)
        _a_lost_connection_is_mended(server, browser)
        _a_killed_server_leaves_the_text(server, browser)
        _a_server_that_keeps_no_streams(server, browser)
        _stopping_ends_the_work(server, browser)
        _too_many_answers_are_refused_in_words(server, browser)
        _all_of_it_works_on_a_phone(server, browser, folder)


def _list(page: Page, name: str) -> Locator:
    return page.locator(".conversations li").filter(has_text=name)


def _begin(page: Page, text: str) -> None:
    """Ask in a new chat for an answer that waits in its midst."""
    page.get_by_role("button", name="New chat").click()
    ask(page, f"wait: {text}")
    expect(answers(page).last).to_contain_text(text[: len(text) // 2 - 1])


def _a_second_chat_asks_while_the_first_answers(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        _begin(page, "the first of two")
        page.get_by_role("button", name="New chat").click()
        expect(page.locator("#send")).to_be_visible()
        ask(page, "something else")
        expect_done(page, "echo: something else")
        expect(_list(page, "first of").get_by_label(_ARRIVING)).to_be_visible()
        expect(_list(page, "something else").get_by_label(_ARRIVING)).to_have_count(0)
        page.screenshot(path=str(folder / "two-chats.png"))
        server.release()
        expect(_list(page, "first of").get_by_label(_NEW)).to_be_visible()
        _list(page, "first of").get_by_role("link").click()
        expect_done(page, "the first of two")
        expect(page.locator(".mark")).to_have_count(0)


def _each_conversation_has_an_address(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "one")
        expect_done(page, "echo: one")
        first = page.url
        page.get_by_role("button", name="New chat").click()
        assert page.url == f"{server.url}/"
        ask(page, "two")
        expect_done(page, "echo: two")
        assert len({first, page.url, f"{server.url}/"}) == 3
        page.reload()
        expect_done(page, "echo: two")
        page.go_back()
        expect_done(page, "echo: one")
        assert page.url == first
        page.go_forward()
        expect_done(page, "echo: two")
        other = open_page(context, first)
        expect_done(other, "echo: one")
        with context.expect_page() as opened:
            _list(page, "one").get_by_role("link").click(modifiers=["ControlOrMeta"])
        expect_done(opened.value, "echo: one")
        other.goto(f"{server.url}/#/c/0123")
        expect(other.locator("#notice")).to_contain_text("no conversation with this address")
        expect(other.locator(".welcome")).to_be_visible()


def _all_answers_go_on_after_a_reload(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        server.restart()
        page = open_page(context, server.url)
        _begin(page, "one that goes on")
        _begin(page, "another that goes on")
        server.wait_for(2, num_open=2)
        page.reload()
        expect(answers(page).last).to_contain_text("another")
        expect(page.locator(".mark")).to_have_count(2)
        server.release()
        expect_done(page, "another that goes on")
        _list(page, "one that").get_by_role("link").click()
        expect_done(page, "one that goes on")
        server.wait_for(2, num_open=0)  # nothing was asked twice


def _another_tab_goes_on_where_one_is_closed(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        server.restart()
        one = open_page(context, server.url)
        _begin(one, "from a tab that is closed")
        other = open_page(context, one.url)
        expect(answers(other).last).to_contain_text("from a")
        one.close()
        server.release()
        expect_done(other, "from a tab that is closed")
        server.wait_for(1, num_open=0)


def _a_page_that_is_closed_for_good_frees_the_engine_soon(server: Server, browser: Browser) -> None:
    """Reloads, and looks at the dashboard, are no end: the server keeps the answer as long as it keeps streams."""
    with context_of(browser) as context:
        server.restart(grace_s=600.0)
        page = open_page(context, server.url)
        ended: list[str] = []
        context.on("request", lambda request: ended.append(request.url) if request.method == "DELETE" else None)
        _begin(page, "an answer that nobody waits for")
        page.reload()
        expect(page.locator("#stop")).to_be_visible()
        page.get_by_role("link", name="Dashboard").click()
        expect(page.locator("#overview")).to_be_visible()
        page.go_back()
        expect(answers(page).last).to_contain_text("an answer")
        server.wait_for(1, num_open=1)
        assert ended == []
        page.close()
        server.wait_for(1, num_open=0)


def _a_lost_connection_is_mended(server: Server, browser: Browser) -> None:
    """A proxy's connection that ends in the midst of an answer, and then some seconds without any."""
    with context_of(browser) as context:
        server.restart()
        page = open_page(context, server.url)
        page.route("**/v1/streams/*", lambda route: route.abort())
        page.evaluate(_CUT_NEXT_STREAM)
        ask(page, "wait: a text over two connections")
        expect(answers(page).last).to_contain_text("a text over")
        page.evaluate("window.cut()")
        expect(answers(page).last).to_contain_text("The connection was lost; connecting again")
        expect(page.locator("#stop")).to_be_visible()
        server.release()
        page.unroute("**/v1/streams/*")
        expect_done(page, "a text over two connections")
        server.wait_for(1, num_open=0)


_CUT_NEXT_STREAM = """() => {
  const whole = window.fetch;
  window.fetch = async (...args) => {
    window.fetch = whole;
    const response = await whole(...args);
    const start = (controller) => (window.cut = () => controller.error(new TypeError("network error")));
    const body = response.body.pipeThrough(new TransformStream({ start }));
    return new Response(body, { status: response.status, headers: response.headers });
  };
}"""


def _a_killed_server_leaves_the_text(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: a text that is cut in its midst")
        expect(answers(page).last).to_contain_text("a text that")
        server.kill()
        expect(answers(page).last).to_contain_text("The connection was lost; connecting again")
        server.start()
        expect(page.get_by_role("alert")).to_contain_text("no longer has the rest of this answer")
        expect(answers(page).last).to_contain_text("a text that")
        ask(page, "still there?")
        expect_done(page, "echo: still there?")
        # Killed and started again while the page was reloaded.
        ask(page, "wait: another text that is cut")
        expect(answers(page).last).to_contain_text("another tex")
        wait_stored(page, "another tex")
        server.restart()
        page.reload()
        expect(page.get_by_role("alert").last).to_contain_text("no longer has the rest of this answer")
        expect(answers(page).last).to_contain_text("another tex")
        assert texts(page)[-2] == "wait: another text that is cut"


def _a_server_that_keeps_no_streams(server: Server, browser: Browser) -> None:
    """Its answers end with the page, whose text of them stays."""
    server.restart(grace_s=0.0)
    with context_of(browser) as context:
        page = open_page(context, server.url)
        ask(page, "wait: no one keeps this")
        expect(answers(page).last).to_contain_text("no one ke")
        wait_stored(page, "no one ke")
        server.wait_for(1, num_open=1)
        page.reload()
        expect(answers(page).last).to_contain_text("Stopped.")
        expect(answers(page).last).to_contain_text("no one ke")
        server.wait_for(1, num_open=0)
        answers(page).last.get_by_role("button", name="Continue").click()
        expect_done(page, "no one ke and so on.")
    server.restart()


def _stopping_ends_the_work(server: Server, browser: Browser) -> None:
    """Before the first token and after it."""
    with context_of(browser) as context:
        server.restart()
        page = open_page(context, server.url)
        for number, kind in enumerate(("queue", "wait"), 1):
            ask(page, f"{kind}: nothing more")
            server.wait_for(number, num_open=1)
            page.keyboard.press("Escape")
            expect(answers(page).last).to_contain_text("Stopped.")
            server.wait_for(number, num_open=0)


def _too_many_answers_are_refused_in_words(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        for number in range(4):
            _begin(page, f"number {number} of some")
        page.get_by_role("button", name="New chat").click()
        ask(page, "one more")
        expect(page.get_by_role("dialog")).to_contain_text("4 answers are arriving in this tab")
        page.keyboard.press("Escape")
        expect(page.locator("#input")).to_have_value("one more")
        server.release()
        expect(page.locator(".conversations").get_by_label(_NEW)).to_have_count(4)
        page.locator("#input").press("Enter")
        expect_done(page, "echo: one more")


def _all_of_it_works_on_a_phone(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser, PHONE) as context:
        page = open_page(context, server.url)
        ask(page, "wait: an answer beside another")
        expect(answers(page).last).to_contain_text("an answer")
        page.keyboard.press("Control+Shift+O")
        ask(page, "the other")
        expect_done(page, "echo: the other")
        page.get_by_label("Show or hide the list").click()
        expect(_list(page, "an answer").get_by_label(_ARRIVING)).to_be_visible()
        page.screenshot(path=str(folder / "two-chats-phone.png"))
        server.release()
        _list(page, "an answer").get_by_role("link").focus()
        page.keyboard.press("Enter")
        expect_done(page, "an answer beside another")


if __name__ == "__main__":
    main()
