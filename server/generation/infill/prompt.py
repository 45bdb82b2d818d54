"""Fill-in-the-middle prompts: completions with a suffix, and /infill with context from other files."""

from collections.abc import Sequence

from engine.errors import ContextLengthExceeded, InvalidRequest
from engine.protocol import EngineInfo
from server.generation.choice import Prompt
from server.generation.params.prompts import refusing_long_prompts
from server.schemas.infill import ExtraFile, InfillRequest
from server.text.fill_in_middle import FillInMiddle
from server.text.tokenizer import Tokenizer
from server.text_model import TextModel

# Names that the format has and that editors do not send.
_REPOSITORY = "project"
_CURRENT_FILE = "current"
_UNNAMED_FILE = "other"

_SUFFIX_SHARE = 4  # if the code around the gap does not fit, a quarter of the prompt is for the suffix


def infill_prompt(body: InfillRequest, fim: FillInMiddle, tokenizer: Tokenizer, max_tokens: int) -> tuple[Prompt, bool]:
    """Return the prompt, and whether input was truncated to fit into `max_tokens`.

    Files of `input_extra` are dropped first, in the order of the request, then the code farthest from the gap. Raises
    ContextLengthExceeded if n_predict leaves no token for the prompt.
    """
    bos = _bos(body.add_special_tokens, tokenizer)
    room = max_tokens - fim.num_marks - len(bos)
    if room < 1:
        raise ContextLengthExceeded(
            f"n_predict is {body.requested_max_tokens}, which leaves {max_tokens} tokens to the prompt; ask for fewer",
            param="n_predict",
        )
    prefix_ids = fim.encode(body.input_prefix + (body.prompt or ""), tokenizer)
    suffix_ids = fim.encode(body.input_suffix, tokenizer, continues=True)
    num_suffix = min(len(suffix_ids), max(room // _SUFFIX_SHARE, room - len(prefix_ids)))
    num_prefix = min(len(prefix_ids), room - num_suffix)
    is_cut = num_prefix < len(prefix_ids) or num_suffix < len(suffix_ids)
    files = _files(body.input_extra or [], fim, tokenizer)
    room -= num_prefix + num_suffix
    head = _after_mark(fim.repository_id, _REPOSITORY, fim, tokenizer)
    foot = _after_mark(fim.file_id, _CURRENT_FILE, fim, tokenizer)
    extra_ids, num_files = _that_fit(files, head, foot, room)
    around = fim.prompt(prefix_ids[len(prefix_ids) - num_prefix :], suffix_ids[:num_suffix])
    return Prompt([*bos, *extra_ids, *around], ""), is_cut or num_files < len(files)


def _files(extra: Sequence[ExtraFile], fim: FillInMiddle, tokenizer: Tokenizer) -> list[list[int]]:
    mark = [] if fim.file_id is None else [fim.file_id]
    return [
        [*mark, *fim.encode(f"{file.filename or _UNNAMED_FILE}\n{file.text}\n", tokenizer, continues=True)]
        for file in extra
    ]


def _after_mark(mark_id: int | None, name: str, fim: FillInMiddle, tokenizer: Tokenizer) -> list[int]:
    """Return the ids of a FIM mark, such as that of a file name, and of the name; none if the model lacks the mark."""
    return [] if mark_id is None else [mark_id, *fim.encode(f"{name}\n", tokenizer, continues=True)]


def _that_fit(files: list[list[int]], head: list[int], foot: list[int], room: int) -> tuple[list[int], int]:
    """Return the ids of `head`, of as many of the last files as fit, and of `foot`; and the number of these files. No
    ids if no file fits."""
    room -= len(head) + len(foot)
    num_files = 0
    for file in reversed(files):
        room -= len(file)
        if room < 0:
            break
        num_files += 1
    if not num_files:
        return [], 0
    chosen = files[len(files) - num_files :]
    return [*head, *(token_id for file in chosen for token_id in file), *foot], num_files


def _bos(add_special_tokens: bool | None, tokenizer: Tokenizer) -> list[int]:
    bos = tokenizer.bos_token_id
    return [] if bos is None or not tokenizer.adds_bos or add_special_tokens is False else [bos]


async def suffix_prompts(
    prompts: list[str] | list[list[int]],
    suffix: str,
    fim: FillInMiddle,
    text_model: TextModel,
    info: EngineInfo,
    *,
    add_special_tokens: bool,
) -> list[Prompt]:
    """Return the fill-in-the-middle prompts of a completion with a suffix. Raises InvalidRequest and
    ContextLengthExceeded."""
    tokenizer, max_model_len = text_model.tokenizer, info.max_model_len

    def encode(prompt: str | list[int]) -> Prompt:
        if not isinstance(prompt, str):
            raise InvalidRequest("suffix needs a prompt that is text, and this one is token ids", param="prompt")
        with refusing_long_prompts(max_model_len, "prompt"):
            prefix_ids = fim.encode(prompt, tokenizer, at_most=max_model_len)
        with refusing_long_prompts(max_model_len, "suffix"):
            suffix_ids = fim.encode(suffix, tokenizer, continues=True, at_most=max_model_len)
        ids = fim.prompt(prefix_ids, suffix_ids)
        return Prompt([*_bos(add_special_tokens, tokenizer), *ids], "")

    size = sum(map(len, prompts)) + len(prompts) * len(suffix)
    return await text_model.workers.run(lambda: [encode(prompt) for prompt in prompts], size=size)
