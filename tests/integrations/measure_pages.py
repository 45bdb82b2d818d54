"""Measures what the pages cost, with Playwright's Python, on a server that runs and has nothing else to do:

headrace serve MODEL --port 8000
python tests/integrations/measure_pages.py http://127.0.0.1:8000 /usr/bin/chromium PID

PID: of the server's API process; its CPU time is that of /proc, so on Linux alone.
"""

import contextlib
import json
import os
import statistics
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from playwright.sync_api import Browser, expect, sync_playwright

_NUM_PAINTS = 7
_NUM_TOKENS = 10_000
_TOKENS_PER_S = 500
_WATCHED_S = 15.0
_NUM_CLIENTS = 4
_LOADED_LATER = {
    "code": ("vendor/highlight.js",),
    "a formula": ("vendor/temml.js", "vendor/temml.css", "vendor/STIXTwoMath.woff2"),
    "the text of a PDF": ("chat/composer/pdf.js", "vendor/pdf.js", "vendor/pdf.worker.js"),
    "character maps of a PDF": ("vendor/cmaps.bin",),
}

_PART = (
    "## A heading\n\nA paragraph with **bold words**, `code`, and $x_i^2$, as answers have it.\n\n"
    "```python\ndef f(x: int) -> int:\n    return x + 1  # a comment\n```\n\n"
    "| a | b |\n| --- | --- |\n| 1 | two |\n| 3 | four |\n\n"
    "1. one item of a list\n2. another one, which is longer than the one before it\n\n"
)
_ANSWERS = {
    "mixed": _PART,
    "one list": "- an item with **bold** words in it\n",
    "one table": "| 1 | **two** | three |\n",
}

# A server's stream of tokens at an even pace, in the page itself: then nothing else takes the processor's time.
_STREAM = """
([tokens, perSecond]) => {
  const whole = window.fetch;
  window.fetch = async (path, options) => {
    if (!String(path).endsWith("chat/completions")) return whole(path, options);
    const encoder = new TextEncoder();
    let sent = 0;
    const body = new ReadableStream({
      start(controller) {
        const startMs = performance.now();
        const timer = setInterval(() => {
          const due = Math.min(tokens.length, Math.floor(((performance.now() - startMs) / 1000) * perSecond));
          for (; sent < due; sent += 1) {
            const chunk = { id: "chatcmpl-x", choices: [{ index: 0, delta: { content: tokens[sent] } }] };
            controller.enqueue(encoder.encode(`data: ${JSON.stringify(chunk)}\\n\\n`));
          }
          if (sent < tokens.length) return;
          clearInterval(timer);
          controller.enqueue(encoder.encode("data: [DONE]\\n\\n"));
          controller.close();
        }, 4);
      },
    });
    return new Response(body, { headers: { "content-type": "text/event-stream" } });
  };
  window.long = [];
  window.gaps = [];
  const note = (list) => window.long.push(...list.getEntries().map(({ duration }) => duration));
  new PerformanceObserver(note).observe({ type: "longtask" });
  let last = performance.now();
  const frame = (now) => { window.gaps.push(now - last); last = now; requestAnimationFrame(frame); };
  requestAnimationFrame(frame);
}
"""


def main(address: str, browser_path: str, pid: str) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        for path in ("", "dashboard"):
            loads = [_load_page(browser, f"{address}/{path}") for _ in range(_NUM_PAINTS)]
            paints = [paint_ms for paint_ms, _ in loads]
            _tell(
                f"/{path}: first contentful paint {statistics.median(paints):.0f} ms, at most {max(paints):.0f} ms; "
                f"{loads[0][1] / 1e3:.0f} kB"
            )
        for what, names in _LOADED_LATER.items():
            size = sum(_size(f"{address}/assets/{name}") for name in names)
            _tell(f"with the first answer or file that has {what}: {size / 1e3:.0f} kB more")
        for name, part in _ANSWERS.items():
            _measure_long_answer(browser, address, name, part)
        browser.close()
    for load, clients in (("idle", 0), (f"{_NUM_CLIENTS} clients", _NUM_CLIENTS)):
        with _load(address, clients):
            time.sleep(2.0)
            alone = _cpu_share(int(pid), _WATCHED_S)
            with _watcher(address):
                time.sleep(1.0)
                watched = _cpu_share(int(pid), _WATCHED_S)
        _tell(f"{load}: {alone:.2%} of a core unwatched, {watched:.2%} with one watcher")


def _tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _load_page(browser: Browser, url: str) -> tuple[float, int]:
    """The milliseconds to the first contentful paint with nothing in the browser's cache, and the compressed bytes of
    the page's files."""
    context = browser.new_context()
    page = context.new_page()
    page.goto(url)
    # Asked again and again from here: the page's policy refuses Playwright's own way, which evaluates texts.
    while not (
        paints := page.evaluate("performance.getEntriesByName('first-contentful-paint').map((e) => e.startTime)")
    ):
        page.wait_for_timeout(50)
    script = """[...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .filter(({ name }) => name.includes("/assets/") || name === location.href)
        .reduce((sum, { encodedBodySize }) => sum + encodedBodySize, 0)"""
    size: int = page.evaluate(script)
    context.close()
    return paints[0], size


def _size(url: str) -> int:
    request = urllib.request.Request(url, headers={"accept-encoding": "gzip"})
    with urllib.request.urlopen(request) as response:
        return len(response.read())


def _measure_long_answer(browser: Browser, address: str, name: str, part: str) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(address)
    expect(page.locator("#model option")).not_to_have_count(0)
    head = "| a | b | c |\n| --- | --- | --- |\n" if part.startswith("|") else ""
    text = head + part * (4 * _NUM_TOKENS // len(part) + 1)
    tokens = [text[start : start + 4] for start in range(0, 4 * _NUM_TOKENS, 4)]
    page.evaluate(_STREAM, [tokens, _TOKENS_PER_S])
    page.locator("#input").fill("go")
    page.keyboard.press("Enter")
    expect(page.locator("#send")).to_be_visible(timeout=4000 * _NUM_TOKENS / _TOKENS_PER_S)
    long, gaps = page.evaluate("[window.long, window.gaps]")
    gaps.sort()
    _tell(
        f"{_NUM_TOKENS:,} tokens, {name}, at {_TOKENS_PER_S}/s: {len(long)} tasks of 50 ms and more, the longest "
        f"{max(long, default=0):.0f} ms; between frames {gaps[len(gaps) * 95 // 100]:.0f} ms at the 95th percentile, "
        f"at most {gaps[-1]:.0f} ms"
    )
    context.close()


def _cpu_share(pid: int, lasted_s: float) -> float:
    """Of a core, by all threads of the process."""
    before, began = _cpu_s(pid), time.monotonic()
    time.sleep(lasted_s)
    return (_cpu_s(pid) - before) / (time.monotonic() - began)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _watcher(address: str) -> Iterator[None]:
    ended = threading.Event()

    def watch() -> None:
        with urllib.request.urlopen(f"{address}/dashboard/events", timeout=60) as frames:
            while not ended.is_set():
                frames.readline()

    with _running([threading.Thread(target=watch)], ended):
        yield


@contextlib.contextmanager
def _load(address: str, num_clients: int) -> Iterator[None]:
    ended = threading.Event()

    def ask() -> None:
        while not ended.is_set():
            messages = [{"role": "user", "content": "Tell me a story."}]
            body = json.dumps({"messages": messages, "max_tokens": 32, "ignore_eos": True}).encode()
            request = urllib.request.Request(
                f"{address}/v1/chat/completions", body, {"content-type": "application/json"}
            )
            urllib.request.urlopen(request, timeout=300).read()

    with _running([threading.Thread(target=ask) for _ in range(num_clients)], ended):
        yield


@contextlib.contextmanager
def _running(threads: list[threading.Thread], ended: threading.Event) -> Iterator[None]:
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
