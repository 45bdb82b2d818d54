"""SampleWriter: answers a job's sample prompts after each epoch, so that a user can judge the adapter."""

import tokenizers

from engine.command_io.finetuning.events import JobEventLog
from engine.command_io.finetuning.items import SamplePrompt, read_rows
from engine.command_io.finetuning.job import FinetuningJob, JobFolder
from models.decoder import Decoder
from models.training.generate import generate

_MAX_TOKENS = 48
_SHOWN_CHARACTERS = 300  # of a question or an answer in a message


class SampleWriter:
    def __init__(self, folder: JobFolder, job: FinetuningJob, decoder: Decoder, events: JobEventLog) -> None:
        self._decoder, self._events, self._end_ids = decoder, events, job.end_ids
        self._limit = decoder.spec.max_position
        rows = enumerate(read_rows(folder.samples, SamplePrompt))
        self._prompts = {number: prompt for number, prompt in rows if len(prompt.ids) < self._limit}
        self._tokenizer = load_job_tokenizer(folder)

    def sample(self, epoch: int) -> None:
        """Answer each sample prompt that leaves room for an answer, and log the answer as an event."""
        if not self._prompts:
            return
        prompts = [prompt.ids for prompt in self._prompts.values()]
        max_tokens = min(_MAX_TOKENS, self._limit - max(map(len, prompts)))
        answers = generate(self._decoder, prompts, self._end_ids, max_tokens)
        for (number, prompt), answer in zip(self._prompts.items(), answers, strict=True):
            text = "" if self._tokenizer is None else self._tokenizer.decode(answer)
            question = f"{_on_one_line(prompt.question)} -> " if prompt.question else ""
            self._events.add(
                f"Sample {number + 1}: {question}{_on_one_line(text)}",
                epoch=epoch,
                sample=number,
                question=prompt.question,
                token_ids=answer,
                text=text,
            )


def _on_one_line(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _SHOWN_CHARACTERS else f"{words[:_SHOWN_CHARACTERS]}..."


def load_job_tokenizer(folder: JobFolder) -> tokenizers.Tokenizer | None:
    """Load the tokenizer that `engine.finetuning.describe` wrote into the job's folder; None if it is missing."""
    return tokenizers.Tokenizer.from_file(str(folder.tokenizer)) if folder.tokenizer.exists() else None
