"""Recall and mistakes of `chat_cut_off` on short answers of a served model.

    headrace serve MODEL
    python -m benchmarks.data.answer_ends --server http://127.0.0.1:8000

Half of the requests allow 6 to 40 tokens, so `finish_reason` says which answers were cut off. One that ends with a
sentence by chance counts as cut off, too.
"""

import argparse
import random
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from benchmarks.tables import markdown
from server.data.rules.answer_ends import stops_early

_COUNTRIES = [
    "France",
    "Japan",
    "Kenya",
    "Peru",
    "Norway",
    "Egypt",
    "Canada",
    "India",
    "Brazil",
    "Poland",
    "Chile",
    "Ghana",
    "Turkey",
    "Vietnam",
    "Iceland",
    "Mexico",
]
_THINGS = [
    "a lighthouse",
    "a bicycle chain",
    "an umbrella",
    "photosynthesis",
    "a compass",
    "rust",
    "yeast",
    "a glacier",
    "a proxy server",
    "a hash table",
    "gravity",
    "a recipe",
    "a mortgage",
    "an eclipse",
    "a warranty",
    "a thermostat",
    "a violin",
    "soap",
    "a volcano",
    "a binary search",
    "a deposit",
    "a tenant",
    "salt",
    "the tide",
    "a mirror",
    "a database index",
    "a sonnet",
    "a vaccine",
    "an anchor",
    "paper",
]
_QUESTIONS = (
    "What is the capital of {country}?",
    "Answer in one sentence: what is {thing}?",
    "Explain {thing} in one short sentence.",
    "What is {thing} used for? Answer briefly.",
    "Name one river in {country}.",
    "What is {a} plus {b}?",
    "How much is {a} times {b}? Give only the number.",
    "Write a title for a story about {thing}.",
    "Give one word that describes {thing}.",
    "Write a haiku about {thing}.",
    "List three facts about {thing}.",
    "Write a Python one-liner that prints {a}.",
    "Which language do people speak in {country}? Answer with the name only.",
    "Is {thing} useful? Answer yes or no.",
    "Write one line of a poem about {thing}.",
    "Translate into German: I like {thing}.",
    "Was ist {thing}? Antworte in einem Satz auf Deutsch.",
    "Write a short slogan for {thing}.",
    "Give me a shell command that lists {a} files.",
    "Write a regular expression for {a} digits.",
    "Sign a letter about {thing} with your name.",
    "Complete the sentence: In {country} the winter is",
    "What color is {thing}?",
    "How do I repair {thing}? One sentence.",
    "Write an e-mail address for a shop in {country}.",
    "Give the names of two people from {country}, separated by a comma.",
    "When was {country} founded? Only the year.",
    "Convert {a} kilometers to miles.",
)
_LIMITS = (6, 10, 14, 18, 24, 30, 40)  # tokens of every second answer
_WHOLE = 160  # tokens of the others
_SIZES = ((1, 11), (12, 29), (30, 1000))  # words


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--server", required=True)
    parser.add_argument("--answers", type=int, default=400)
    parser.add_argument("--show", action="store_true", help="print complete answers that the rule removes")
    arguments = parser.parse_args()
    counts: Counter[tuple[tuple[int, int], bool, bool]] = Counter()
    with httpx.Client(base_url=arguments.server, timeout=600) as http, ThreadPoolExecutor(6) as pool:
        model = str(http.get("/v1/models").raise_for_status().json()["data"][0]["id"])
        for choice in pool.map(lambda number: _choice(http, model, number), range(arguments.answers)):
            answer, is_cut = choice["message"]["content"] or "", choice["finish_reason"] == "length"
            num_words = len(answer.split())
            is_found = stops_early(answer)
            counts.update((size, is_cut, is_found) for size in _SIZES if size[0] <= num_words <= size[1])
            if arguments.show and is_found and not is_cut:
                sys.stdout.write(f"{answer!r}\n")
    rows = []
    for size in _SIZES:
        cut, whole = ([counts[size, is_cut, is_found] for is_found in (True, False)] for is_cut in (True, False))
        rows.append((f"{size[0]}-{size[1]}", str(sum(cut)), str(cut[0]), str(sum(whole)), str(whole[0])))
    heads = ("words", "cut off by the server", "found", "complete", "removed by mistake")
    sys.stdout.write(markdown(heads, rows) + "\n")


def _choice(http: httpx.Client, model: str, number: int) -> dict[str, Any]:
    draw = random.Random(f"{number} {model}")
    country, thing = draw.choice(_COUNTRIES), draw.choice(_THINGS)
    text = _QUESTIONS[number % len(_QUESTIONS)].format(
        country=country, thing=thing, a=draw.randint(2, 90), b=draw.randint(2, 90)
    )
    body = {
        "model": model,
        "messages": [{"role": "user", "content": text}],
        "max_tokens": draw.choice(_LIMITS) if number % 2 else _WHOLE,
        "temperature": 0.7 if number % 3 else 0,
        "seed": number,
    }
    choice: dict[str, Any] = http.post("/v1/chat/completions", json=body).raise_for_status().json()["choices"][0]
    return choice


if __name__ == "__main__":
    main()
