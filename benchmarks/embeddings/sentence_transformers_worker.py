"""A process that embeds with sentence-transformers, run by the Python of an environment that has it.

Each line of the input is {"texts": [...]}, each line of the output the seconds and the vectors, in base64.
"""

import base64
import json
import sys
import time


def main() -> None:
    import torch
    from sentence_transformers import SentenceTransformer  # type: ignore[import-not-found, unused-ignore]

    folder, num_threads, dtype = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.set_num_threads(num_threads)
    model = SentenceTransformer(folder, device="cpu", model_kwargs={"dtype": getattr(torch, dtype)})
    _say({"ready": True})
    for line in sys.stdin:
        texts = json.loads(line)["texts"]
        began_s = time.perf_counter()
        vectors = model.encode(texts, batch_size=32, show_progress_bar=False)
        seconds = time.perf_counter() - began_s
        data = base64.b64encode(vectors.astype("<f4").tobytes()).decode()
        _say({"seconds": seconds, "vectors": data})


def _say(answer: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
