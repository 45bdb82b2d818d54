"""Lines for the preparation of training data, with texts by seed."""

import json
import random
from typing import Any

_VOCABULARY = [
    first + second + third for first in "bdfglmnr" for second in ("a", "e", "o") for third in ("ka", "li", "tu", "n")
]

# A grader that asks a model about the question and answer of a line.
JUDGE = {
    "type": "score_model",
    "name": "good",
    "model": "tiny",
    "input": [{"role": "user", "content": "{{item.question}} {{sample.output_text}}"}],
    "range": [0, 9],
}


def random_text(seed: int, num_words: int = 60) -> str:
    return " ".join(random.Random(seed).choices(_VOCABULARY, k=num_words)) + "."


def with_changes(text: str, share: float, seed: int = 0) -> str:
    """Replace a share of the words by others."""
    words, draw = text.split(" "), random.Random(seed)
    for place in draw.sample(range(len(words)), round(share * len(words))):
        words[place] = f"changed{place}"
    return " ".join(words)


def chat(question: str, answer: str, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **fields}


def encoded(*values: Any) -> bytes:
    return b"".join(json.dumps(value, ensure_ascii=False).encode() + b"\n" for value in values)
