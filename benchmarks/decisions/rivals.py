"""Questions a second of a decision, of chats that answer in JSON, and of llama-server with one token a question.

    headrace serve model.gguf --threads 1
    llama-server -m model.gguf --threads 1 --port 8080
    python -m benchmarks.decisions.rivals http://127.0.0.1:8000 --llama-server http://127.0.0.1:8080

Each way has an input of its own in a round, which the server has computed before the clock starts. Chats are sent
together, and in another way in turn; a JSON schema lets each answer with one of its question's options only. Other
chats add a confidence from 0 to 100: a decision's answers are probabilities, and a chat is asked for them in this way.
llama-server gets one question after another in one slot (`cache_prompt`), and returns the likeliest tokens with their
probabilities (`n_probs`), which are of first tokens, not of options. The order of the ways changes from round to round.
"""

import argparse
import functools
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx

from benchmarks.decisions.cost import WORDS, Server, question, write
from benchmarks.tables import markdown


def options(asked: dict[str, Any]) -> list[str]:
    match asked["type"]:
        case "predicate":
            return ["true", "false"]
        case "choice":
            return [choice["value"] for choice in asked["choices"]]
    return [level["label"] for level in asked["levels"]]


def prompt(text: str, asked: dict[str, Any]) -> str:
    return f"{text}\n\n{asked['instructions']}\nAnswer with one of: {', '.join(options(asked))}."


def chat(server: Server, text: str, asked: dict[str, Any], *, is_confident: bool) -> None:
    """Ask in JSON. is_confident: ask for a confidence, too."""
    fields: dict[str, Any] = {"answer": {"enum": options(asked)}}
    content = prompt(text, asked)
    if is_confident:
        fields["confidence"] = {"type": "integer", "minimum": 0, "maximum": 100}
        content += " Add your confidence in percent."
    answer = {"type": "object", "properties": fields, "required": [*fields], "additionalProperties": False}
    schema = {"name": "answer", "schema": answer, "strict": True}
    body = {
        "messages": [{"role": "user", "content": content}],
        "response_format": {"type": "json_schema", "json_schema": schema},
        "temperature": 0,
        "max_tokens": 40,
    }
    server.post("/v1/chat/completions", body)


def ask_chats(
    server: Server, num_together: int, text: str, questions: list[dict[str, Any]], *, is_confident: bool = False
) -> float:
    def ask(asked: dict[str, Any]) -> None:
        chat(server, text, asked, is_confident=is_confident)

    ask(question(0, random.Random(0)))
    began_s = time.perf_counter()
    with ThreadPoolExecutor(num_together) as pool:
        list(pool.map(ask, questions))
    return time.perf_counter() - began_s


def ask_decision(server: Server, text: str, questions: list[dict[str, Any]]) -> float:
    server.post("/v1/decisions", {"input": text, "questions": [question(0, random.Random(0))], "min_mass": 0})
    return server.post("/v1/decisions", {"input": text, "questions": questions, "min_mass": 0})[0]


def ask_llama_server(client: httpx.Client, text: str, questions: list[dict[str, Any]]) -> float:
    def ask(asked: dict[str, Any]) -> None:
        body = {"prompt": prompt(text, asked) + "\nAnswer:", "n_predict": 1, "n_probs": 20, "cache_prompt": True}
        client.post("/completion", json={**body, "temperature": 0}).raise_for_status()

    ask(question(0, random.Random(0)))
    began_s = time.perf_counter()
    for asked in questions:
        ask(asked)
    return time.perf_counter() - began_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--llama-server", metavar="URL")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--tokens", type=int, nargs="+", default=[200, 2000], help="of the input, nearly")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    server, draw = Server(args.url, None), random.Random(args.seed)
    ways: dict[str, Callable[[str, list[dict[str, Any]]], float]] = {
        "decision": functools.partial(ask_decision, server),
        "JSON chats together": functools.partial(ask_chats, server, args.questions),
        "JSON chats in turn": functools.partial(ask_chats, server, 1),
        "JSON chats with a confidence together": functools.partial(
            ask_chats, server, args.questions, is_confident=True
        ),
        "JSON chats with a confidence in turn": functools.partial(ask_chats, server, 1, is_confident=True),
    }
    if args.llama_server:
        client = httpx.Client(base_url=args.llama_server, timeout=3600.0, trust_env=False)
        ways["llama-server"] = functools.partial(ask_llama_server, client)
    rows = []
    for num_tokens in args.tokens:
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for number in range(args.rounds):
            questions = [question(number, draw) for number in range(args.questions)]
            for name in list(ways)[:: 1 if number % 2 else -1]:
                text = " ".join(draw.choices(WORDS, k=num_tokens))  # or one way would find another's prompts cached
                seconds[name].append(ways[name](text, questions))
        rates = {name: args.questions / statistics.median(taken) for name, taken in seconds.items()}
        for name, rate in rates.items():
            rows.append([f"{num_tokens:,}", name, f"{rate:.2f}", f"{rates['decision'] / rate:.2f}"])
    write(markdown(("input tokens", "way", "questions a second", "decision against it"), rows))


if __name__ == "__main__":
    main()
