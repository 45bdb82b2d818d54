"""What models write is shown as they meant it, or as they wrote it, and without an accessibility fault.

Arguments: those of browsing.session(), and the path of axe-core's script.
"""

import json
import sys
import time
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page, expect

from tests.integrations.chat_page.browsing import (
    DESK,
    PHONE,
    Server,
    answers,
    ask,
    context_of,
    expect_done,
    open_page,
    session,
)

_ANSWER = r"""### Begins at the third level

Energy is $E = mc^2$, and \(a_i \ne b\). In lines: \[ \int_0^1 x\,dx \] and $$\sum_i i$$ of text. It costs $5 or $6.

\begin{align}
(a + b)^2 &= a^2 + 2ab + b^2 \\
c &= d
\end{align}

$$
\left( \frac{\frac{a}{b}}{\frac{c}{d}} \right) \begin{pmatrix} 1 \\ 2 \\ 3 \\ 4 \end{pmatrix}
= aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa
$$

# Goes up

###### And far down

A claim[^1], and no note[^a-z].

- [x] a task
- [ ] another

| left | center | right |
|:-----|:------:|------:|
| 1 | 2 | 3 |

```python
def function(): return "a line that is much longer than a phone is wide, and longer than the others of its block"
```

<details><summary>More</summary>

> A quotation

</details>

[^1]: The *note*,
on two lines.
"""


def main() -> None:
    axe = Path(sys.argv[4]).read_text()
    with session() as (server, browser, folder):
        _formulas_footnotes_and_tables(server, browser)
        _a_formula_names_nothing_of_the_page(server, browser)
        _an_answer_as_it_was_written(server, browser)
        for name, size in {"phone": PHONE, "desk": DESK}.items():
            for scheme in ("light", "dark"):
                _no_fault_is_found(
                    server, browser, size, scheme, axe=axe, picture=folder / f"reading-{name}-{scheme}.png"
                )


def _conversation(*contents: str) -> str:
    """An exported file with these messages."""
    nodes: dict[str, dict[str, object]] = {}
    for index, content in enumerate(contents):
        fields: dict[str, object] = {"role": "user"}
        if index % 2:
            fields = {"role": "assistant", "reasoning": "A *thought*", "toolCalls": [], "tokens": None, "stats": None}
            fields |= {"finishReason": "stop", "error": None, "model": "tiny"}
        links = {"parentId": f"m{index - 1}" if index else None, "childIds": [f"m{index + 1}"]}
        nodes[f"m{index}"] = {"id": f"m{index}", "content": content, **links, **fields}
    last = f"m{len(contents) - 1}"
    nodes[last]["childIds"] = []
    now_ms = int(time.time() * 1000)
    conversation = {"id": "c", "title": "", "system": "", "schema": "", "tools": "", "createdMs": now_ms}
    conversation |= {"updatedMs": now_ms, "nodes": nodes, "rootIds": ["m0"], "leafId": last}
    return json.dumps({"format": "headrace.conversations.v1", "conversations": [conversation]})


def _import(page: Page, *contents: str) -> Locator:
    """The last answer of an imported conversation."""
    file = {"name": "c.json", "mimeType": "application/json", "buffer": _conversation(*contents).encode()}
    page.locator("#import-file").set_input_files(file)
    title = page.locator(".conversations .title").first
    title.wait_for(state="attached")
    if not title.is_visible():
        page.get_by_label("Show or hide the list").click()
    title.click()
    expect(page.locator(".message")).to_have_count(len(contents))
    return answers(page).last


def _formulas_footnotes_and_tables(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        answer = _import(page, "question", _ANSWER)
        expect(answer.locator("math")).to_have_count(6)
        expect(answer.locator(".math.block math")).to_have_count(4)
        expect(answer.get_by_text("$5 or $6")).to_have_count(1)
        page.evaluate("document.fonts.ready")
        assert page.evaluate("document.fonts.check('16px STIX2', '∑')"), "the font for formulas has not come"
        # Brackets are as high as what they hold, though this machine has no font with such brackets.
        heights = answer.locator(".math.block mo").evaluate_all(
            "all => all.filter((each) => each.textContent === '(').map((each) => each.getBoundingClientRect().height)"
        )
        assert max(heights) > 2.5 * min(heights), heights
        aligned = answer.locator("td").evaluate_all("all => all.map((each) => getComputedStyle(each).textAlign)")
        assert [each.removeprefix("-webkit-") for each in aligned] == ["left", "center", "right"]
        answer.get_by_role("button", name="Footnote 1", exact=True).click()
        back = answer.get_by_role("button", name="Back to the mark of footnote 1")
        expect(back).to_be_focused()
        page.keyboard.press("Enter")
        expect(answer.get_by_role("button", name="Footnote 1", exact=True)).to_be_focused()
        expect(answer.get_by_text("no note[^a-z]")).to_have_count(1)


def _a_formula_names_nothing_of_the_page(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        equation = r"\begin{equation} a \label{input} \end{equation}"
        answer = _import(page, "question", f"{equation}\n\n{equation}\n\n" + r"By $\eqref{input}$.")
        expect(answer.locator("math")).to_have_count(2)
        expect(page.locator("#input")).to_have_count(1)
        expect(answer.locator(".math a")).to_have_count(0)
        expect(answer).to_contain_text("By input.")
        ask(page, "next")
        expect_done(page, "echo: next")


def _an_answer_as_it_was_written(server: Server, browser: Browser) -> None:
    with context_of(browser) as context:
        page = open_page(context, server.url)
        answer = _import(page, "question", _ANSWER)
        button = answer.get_by_role("button", name="As written")
        button.focus()
        page.keyboard.press("Enter")
        expect(button).to_be_focused()
        expect(button).to_have_attribute("aria-pressed", "true")
        assert answer.locator(".body > .text").evaluate("each => each.textContent") == _ANSWER
        page.keyboard.press("Enter")
        expect(answer.locator("math")).to_have_count(6)
        expect(button).to_have_attribute("aria-pressed", "false")


def _no_fault_is_found(
    server: Server, browser: Browser, size: dict[str, int], scheme: str, *, axe: str, picture: Path
) -> None:
    """In a long conversation, an answer as it was written, each dialog, the settings, and while an answer arrives."""
    with context_of(browser, size) as context:
        page = open_page(context, server.url)
        page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        answer = _import(page, *["A question **with** marks\nand lines", _ANSWER] * 4)
        expect(answer.locator("math")).to_have_count(6)
        answer.locator(".thought summary").click()
        answer.get_by_text("More").click()
        _check(page, axe, "a long conversation")
        answer.screenshot(path=picture)
        answer.get_by_role("button", name="As written").click()
        _check(page, axe, "an answer as it was written")
        page.locator("#input").blur()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        _check(page, axe, "the shortcuts")
        page.keyboard.press("Escape")
        answer.get_by_role("button", name="API").click()
        _check(page, axe, "the request")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Settings").click()
        _check(page, axe, "the settings")
        page.get_by_label("Close the settings").click()
        page.get_by_label("Edit", exact=True).or_(page.get_by_role("button", name="Edit")).last.click()
        _check(page, axe, "a message that is edited")
        page.keyboard.press("Escape")
        ask(page, "wait: ## One\n")
        expect(page.locator("#stop")).to_be_visible()
        _check(page, axe, "an answer that arrives")
        server.release()
        expect_done(page, "One")


def _check(page: Page, axe: str, what: str) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{what}: the page is too wide"
    page.evaluate(axe)  # Playwright's own way past the page's policy, which refuses scripts from elsewhere
    faults = page.evaluate("axe.run()")["violations"]
    assert not faults, (what, [(each["id"], [node["html"] for node in each["nodes"]][:4]) for each in faults])


if __name__ == "__main__":
    main()
