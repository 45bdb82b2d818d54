"""Time of a decision, against one prompt that has as many tokens: its input, questions and labels once.

    headrace serve model.gguf --threads 1
    python -m benchmarks.decisions.cost http://127.0.0.1:8000 --questions 1 20 400 --tokens 200 2000

Nothing is cached: each input begins with other words. Both are sent in turn, and the medians compared. If a prompt does
not fit the context, it is sent as several, one after another. On a machine that does other work too, --process counts
the processor's seconds of the engine process. The tokens that the engine has computed do not depend on that.
"""

import argparse
import os
import random
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import httpx

TEXT = (
    "parcel phone late money answer week order invoice garden letter window river train music paper number winter "
    "coffee market doctor street island bridge forest engine kitchen blanket station teacher village"
)
WORDS = TEXT.split()
TEAMS = ("delivery", "billing", "returns", "technical support", "sales")


def question(number: int, draw: random.Random) -> dict[str, Any]:
    """Return a predicate, a choice of five or a score of three levels, in turn."""
    words = " ".join(draw.choices(WORDS, k=4))
    match number % 3:
        case 0:
            return {"type": "predicate", "instructions": f"The text mentions {words}."}
        case 1:
            choices = [{"value": team} for team in TEAMS]
            return {"type": "choice", "instructions": f"Which team knows about {words}?", "choices": choices}
    levels = [{"label": label} for label in ("not at all", "somewhat", "very much")]
    return {"type": "score", "instructions": f"How much is it about {words}?", "levels": levels}


class Server:
    def __init__(self, url: str, process: int | None) -> None:
        self._process = process
        self._client = httpx.Client(base_url=url, timeout=3600.0, trust_env=False)
        (model, *_) = self._client.get("/v1/models").raise_for_status().json()["data"]
        self.model, self.max_model_len = model["id"], model["max_model_len"]

    def post(self, path: str, body: dict[str, Any]) -> tuple[float, Any]:
        """Return the seconds that a request took, and its answer."""
        began_s = self._now_s()
        answer = self._client.post(path, json={"model": self.model, **body}).raise_for_status().json()
        return self._now_s() - began_s, answer

    def _now_s(self) -> float:
        if self._process is None:
            return time.perf_counter()
        user, system = Path(f"/proc/{self._process}/stat").read_text().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def num_computed(self) -> int:
        """Return how many tokens the engine has computed."""
        metrics = self._client.get("/metrics").raise_for_status().text
        sums = re.findall(r"^headrace_iteration_tokens_total_sum\{.*\} (.*)$", metrics, re.MULTILINE)
        return int(sum(map(float, sums)))

    def decide(self, num_questions: int, num_tokens: int, draw: random.Random) -> tuple[float, int, int]:
        """Return the seconds of a decision, its tokens, and those that were computed for it. num_tokens: of the input,
        nearly."""
        body = {
            "input": " ".join(draw.choices(WORDS, k=num_tokens)),
            "questions": [question(number, draw) for number in range(num_questions)],
            "min_mass": 0,
        }
        before = self.num_computed()
        seconds, answer = self.post("/v1/decisions", body)
        return seconds, answer["usage"]["input_tokens"], self.num_computed() - before

    def prefill(self, num_tokens: int, draw: random.Random) -> float:
        """Return the seconds for prompts of `num_tokens` tokens in all."""
        seconds = 0.0
        while num_tokens > 0:
            ids = [draw.randrange(1000, 10000) for _ in range(min(num_tokens, self.max_model_len - 1))]
            seconds += self.post("/v1/completions", {"prompt": ids, "max_tokens": 1})[0]
            num_tokens -= len(ids)
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("url")
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 20, 400])
    parser.add_argument("--tokens", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--process", type=int, metavar="PID")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=time.time_ns())
    args = parser.parse_args()
    server, draw = Server(args.url, args.process), random.Random(args.seed)
    server.decide(3, 50, draw)
    write("| questions | input | tokens | computed | decision s | prompt s | ratio |")
    write("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for num_input in args.tokens:
        for num_questions in args.questions:
            decisions, prompts = [], []
            num_tokens = num_computed = 0
            for _ in range(args.rounds):
                seconds, num_tokens, num_computed = server.decide(num_questions, num_input, draw)
                decisions.append(seconds)
                # Labels have two or three tokens each; a question's prompt shows all of its labels.
                prompts.append(server.prefill(num_tokens + 8 * num_questions, draw))
            decision_s, prompt_s = statistics.median(decisions), statistics.median(prompts)
            ratio = decision_s / prompt_s
            write(
                f"| {num_questions} | {num_input:,} | {num_tokens:,} | {num_computed:,} | {decision_s:.2f} "
                f"| {prompt_s:.2f} | {ratio:.2f} |"
            )


def write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
