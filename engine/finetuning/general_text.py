"""general_text: the text that ships with the project, as items on which pretraining measures what it makes worse."""

from engine.command_io.finetuning.items import Passage, TrainingItem
from engine.command_io.finetuning.job import JobFolder
from engine.finetuning.samples import read_tokenizer
from engine.quality.eval_chunks import CHUNK_LEN, builtin_text


def general_text(folder: JobFolder, max_position: int) -> list[TrainingItem]:
    """About 2,500 tokens of prose, code, tables and talk, in parts that do not see each other; none without the model's
    tokenizer."""
    tokenizer = read_tokenizer(folder)
    if tokenizer is None:
        return []
    prefix = tokenizer.encode("").ids
    ids = tokenizer.encode(builtin_text(), add_special_tokens=False).ids
    size = max(1, min(CHUNK_LEN, max_position) - len(prefix))
    chunks = ([*prefix, *ids[start : start + size]] for start in range(0, len(ids), size))
    return [TrainingItem([Passage(chunk, [(1, len(chunk))])]) for chunk in chunks if len(chunk) > 1]
