"""Retrieval: documents and questions as vectors, the nearest documents to each question, and the same by /v1/rerank.

Needs an embedding model, such as Qwen/Qwen3-Embedding-0.6B: `headrace serve OWNER/MODEL`. If there are several, the
first model that computes embeddings is used.
"""

import os
from typing import Any

from openai import OpenAI

DOCUMENTS = [
    "A boat floats because it displaces as much water as it weighs.",
    "Bread rises when yeast turns sugar into gas.",
    "The moon is about 384,000 kilometers away from the earth.",
    "A headrace leads water to a mill's wheel or to a turbine.",
]
QUESTIONS = {"How does water get to a mill?": 3, "Why do ships not sink?": 0, "What makes dough grow?": 1}


def main() -> None:
    client = OpenAI(
        base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1"),
        api_key=os.environ.get("OPENAI_API_KEY", "none"),
    )
    model = next((each.id for each in client.models.list() if "embedding" in capabilities(each)), None)
    if model is None:
        raise SystemExit("no model of this server computes embeddings; start one with: headrace serve demo:minilm")
    questions = list(QUESTIONS)
    # A model that has prompts for both sides puts the right one in front of each; others list the field as ignored.
    documents = embed(client, model, DOCUMENTS, "document")
    asked = embed(client, model, questions, "query")
    for question, vector in zip(questions, asked, strict=True):
        scores = [sum(a * b for a, b in zip(vector, document, strict=True)) for document in documents]
        best = max(range(len(scores)), key=scores.__getitem__)
        print(f"{question}\n  {scores[best]:.2f} {DOCUMENTS[best]}")
        assert best == QUESTIONS[question], f"the model finds {DOCUMENTS[best]!r}"
    for question, expected in QUESTIONS.items():
        ranked = rerank(client, model, question)
        assert ranked[0]["index"] == expected, f"reranking finds {ranked[0]['document']['text']!r}"
    print("reranking finds the same documents")


def capabilities(card: object) -> list[str]:
    """Return the capabilities of a model, which only headrace reports."""
    own = getattr(card, "headrace", None)
    return own.get("capabilities", []) if isinstance(own, dict) else ["embedding"]


def embed(client: OpenAI, model: str, texts: list[str], input_type: str) -> list[list[float]]:
    """Return the vectors, which have length 1, so that the sum of products is the cosine."""
    answer = client.embeddings.create(
        model=model, input=texts, extra_body={"input_type": input_type, "normalize": True}
    )
    print(f"{len(texts)} texts of kind {input_type!r}: {answer.usage.prompt_tokens} tokens")
    return [item.embedding for item in answer.data]


def rerank(client: OpenAI, model: str, question: str) -> list[dict]:
    """Return the two best documents, the best first. OpenAI's client has no method for this."""
    body = {"model": model, "query": question, "documents": DOCUMENTS, "top_n": 2}
    answer = client.post("/rerank", body=body, cast_to=dict[str, Any])
    return answer["results"]


if __name__ == "__main__":
    main()
