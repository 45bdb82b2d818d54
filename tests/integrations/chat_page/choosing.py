"""Models: which one answers, beside which other one, and what the list shows of them."""

from pathlib import Path

from playwright.sync_api import Browser, Page, expect

from tests.integrations.chat_page.browsing import (
    PHONE,
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
        _models_are_grouped_and_chosen_per_conversation(server, browser)
        _the_list_of_models_follows_the_server(server, browser)
        _answers_name_their_model_and_another_can_be_asked(server, browser)
        _two_models_answer_side_by_side(server, browser, folder)
        _all_of_it_works_by_keyboard_on_a_phone(server, browser, folder)


def _models_are_grouped_and_chosen_per_conversation(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        model = page.get_by_label("Model", exact=True)
        expect(model.locator("optgroup")).to_have_attribute("label", "tiny")
        assert [each.strip() for each in model.locator("option").all_inner_texts()] == [
            "tiny · 400 tokens",
            "support:ab12 · 977k tokens",
            "Show 1 checkpoint…",
            "other · 2M tokens",
        ]
        model.select_option("Show 1 checkpoint…")
        expect(model.locator("option")).to_have_count(4)
        expect(model.locator("option", has_text="support:ab12, step 20")).to_have_count(1)
        expect(model).to_have_value("org/tiny")
        page.keyboard.press("Escape")  # the list is open again, with the checkpoint
        model.select_option("other")
        ask(page, "first")
        expect_done(page, "echo: first")
        page.get_by_role("button", name="New chat").click()
        expect(model).to_have_value("other")  # as it was chosen last
        model.select_option("org/tiny")
        ask(page, "second")
        expect_done(page, "echo: second")
        page.get_by_role("link", name="first", exact=True).click()
        expect(model).to_have_value("other")
        page.reload()
        expect(model).to_have_value("other")
        page.get_by_role("link", name="second", exact=True).click()
        expect(model).to_have_value("org/tiny")


def _the_list_of_models_follows_the_server(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        cards = Cards(context)
        page = open_page(context, server.url)
        model = page.get_by_label("Model", exact=True)
        model.select_option("other")
        ask(page, "first")
        expect_done(page, "echo: first")
        cards.hidden = {"other"}
        page.locator("#input").focus()
        model.focus()
        expect(model.locator("option", has_text="other")).to_have_count(0)
        expect(page.locator("#model-note")).to_have_text("other is not served now")
        expect(model).to_have_value("org/tiny")
        cards.hidden = set()
        page.locator("#input").focus()
        model.focus()
        expect(model).to_have_value("other")
        expect(page.locator("#model-note")).to_have_text("")


def _answers_name_their_model_and_another_can_be_asked(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        ask(page, "first")
        expect_done(page, "echo: first")
        expect(page.locator(".answerer")).to_have_text("tiny")
        page.get_by_role("button", name="Regenerate with…").click()
        page.get_by_role("dialog").get_by_role("button", name="other").click()
        expect(page.locator(".answerer")).to_have_text("other")
        expect(page.get_by_label("Model", exact=True)).to_have_value("org/tiny")  # of the next question
        page.locator(".message").get_by_role("button", name="Side by side").click()
        expect(page.locator(".half .answerer")).to_have_text(["tiny", "other"])
        page.reload()
        expect(page.locator(".half .answerer")).to_have_text(["tiny", "other"])
        page.get_by_role("button", name="Only this").first.click()
        expect(page.locator(".answerer")).to_have_text("tiny")
        expect(page.locator(".half")).to_have_count(0)


def _two_models_answer_side_by_side(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser) as context:
        Cards(context)
        page = open_page(context, server.url)
        page.locator("#compare").click()
        page.get_by_role("dialog").get_by_role("button", name="other").click()
        expect(page.locator(".mode")).to_contain_text("Beside other")
        ask(page, "wait: this comes in two halves")
        expect(page.locator(".half .stats")).to_have_count(2)  # both are arriving
        page.screenshot(path=folder / "choosing-two.png")
        server.release()
        expect(page.locator(".half")).to_contain_text(["two halves", "two halves"])
        expect(page.locator("#send")).to_be_visible()
        page.get_by_role("button", name="Go on with this").click()
        expect(page.locator(".half").last).to_contain_text("goes on")
        page.get_by_label("Remove: Beside other").click()
        ask(page, "and then?")
        expect_done(page, "echo: and then?")
        expect(page.locator(".answerer")).to_have_text(["other", "tiny"])
        expect(page.locator(".half")).to_have_count(0)
        ask(page, "wait: nothing else")
        expect(page.locator("#stop")).to_be_visible()  # before it is sent, Escape takes it back
        page.keyboard.press("Escape")
        expect(answers(page).last).to_contain_text("Stopped.")


def _all_of_it_works_by_keyboard_on_a_phone(server: Server, browser: Browser, folder: Path) -> None:
    with context_of(browser, PHONE) as context:
        Cards(context)
        page = open_page(context, server.url)
        ask(page, "on a phone")
        expect_done(page, "echo: on a phone")
        select, bar = page.locator("#model").bounding_box(), page.locator("#open-settings").bounding_box()
        assert select is not None
        assert bar is not None
        assert select["y"] >= bar["y"] + bar["height"] - 1, "the chooser has its own row"
        page.keyboard.press("Control+,")
        _type_at(page, "Temperature", "0,5")
        expect(page.get_by_text("It has a comma; write a point.")).to_be_visible()
        page.screenshot(path=folder / "choosing-phone-settings.png")
        page.keyboard.press("Escape")
        expect(page.locator("#settings")).to_be_hidden()
        page.get_by_label("Remove: Temperature 0,5").focus()
        page.keyboard.press("Enter")
        expect(page.locator(".mode")).to_have_count(0)
        page.locator("#model").focus()
        page.keyboard.type("oth")
        expect(page.locator("#model")).to_have_value("other")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        page.screenshot(path=folder / "choosing-phone.png")


def _type_at(page: Page, label: str, text: str) -> None:
    page.get_by_label(label, exact=True).focus()
    page.keyboard.type(text)


if __name__ == "__main__":
    main()
