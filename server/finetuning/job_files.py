"""write_job: prepares a job folder for the trainer from training files and options, for the command and the server."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from engine.command_io.finetuning.auto import default_completion_tokens
from engine.command_io.finetuning.config import DEFAULT_LENGTH
from engine.command_io.finetuning.graders.parsing import parse_grader
from engine.command_io.finetuning.items import Passage, SamplePrompt, write_rows
from engine.command_io.finetuning.job import FinetuningJob, Hyperparameters, JobFolder, TrainingMethod, write_atomically
from engine.command_io.finetuning.thoughts import ThoughtMarks
from engine.config import EngineConfig
from engine.errors import StartupError
from engine.protocol import TokenizerInfo
from server.config.server import ServerConfig
from server.finetuning.adapter_files import CONFIG_FILE
from server.finetuning.examples import ExampleMaker
from server.finetuning.preparation import PreparationReport, PreparedFiles, prepare
from server.finetuning.prepared_data import VALIDATION_FILE, EvaluationFile, ServedAnswers, add_tokens, prepare_data
from server.finetuning.prompt_lines import PromptRules
from server.finetuning.rendering import ModelTokens, Renderer
from server.finetuning.scores.line_scores import LineScorer
from server.jobs.answers import AnswerBodies
from server.text.chat_templates.processes import TemplateProcesses
from server.text.workers import TextWorkers
from server.text_model import TextModel, build_text_model

# Everyday questions, one a line, on which training keeps the adapter's answers close to the base model's. The last ones
# are held out: training only measures on them.
REPLAY_PROMPTS = Path(__file__).parent / "replay_prompts.txt"

# The engine's options that define the model and how it computes.
MODEL_OPTIONS = (
    *("revision", "hf_overrides", "rope_scaling", "rope_theta", "dtype", "quantization", "quantization_group_size"),
    *("quantize_head", "weight_cache", "threads"),
)

MAX_BYTES = 4 << 30  # of memory for the preparation of files, besides that of the program itself


class JobOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The options of a job, without its files. engine: options with which the model is served. start: folder of the
    adapter that training continues from. served_model: name of the served model that scores lines; empty without a
    server. grader: JSON of the grader for reinforcement. chat_template, tool_call_parser, reasoning_parser: server
    options that affect how chats are rendered."""

    engine: EngineConfig
    method: TrainingMethod
    hyperparameters: Hyperparameters
    grader: dict[str, Any] | None = None
    seed: int = 0
    start: str | None = None
    served_model: str = ""
    chat_template: str | None = None
    tool_call_parser: str | None = None
    reasoning_parser: str | None = None


def write_job(
    folder: JobFolder,
    order: JobOrder,
    train: bytes,
    valid: bytes | None,
    evaluations: Sequence[EvaluationFile] = (),
    answer: AnswerBodies | None = None,
    max_bytes: int = MAX_BYTES,
) -> PreparationReport:
    """Write all of the trainer's input to a folder that already has the tokenizer_info file; write job.json last. The
    output is deterministic, so that an interrupted job can be prepared again and continue. evaluations: files that the
    data_preparation compares with, besides the validation file. answer: answers the requests by which it scores or
    judges lines. max_bytes: memory that it may take.

    Raises FaultyFile, InvalidRequest, StartupError for options that do not fit the model, and OSError.
    """
    info = msgspec.msgpack.decode(folder.tokenizer_info.read_bytes(), type=TokenizerInfo)
    write_atomically(folder.tokenizer, info.tokenizer_json)
    templates, workers = TemplateProcesses(), TextWorkers()
    try:
        text_model = build_text_model(info, _server_config(order), workers, templates)
        max_model_len = json.loads(folder.context.read_bytes()) if folder.context.exists() else None
        prompts = _prompt_rules(order, max_model_len)
        job = _job(folder, order, text_model, prompts)
        length = job.hyperparameters.max_length or min(DEFAULT_LENGTH, max_model_len or DEFAULT_LENGTH)
        renderer = Renderer(ModelTokens(text_model), length)
        write_rows(folder.prompts, _replay_prompts(order, text_model, renderer))
        summary = ""
        if job.hyperparameters.data_preparation is not None:
            known = [*evaluations, *([] if valid is None else [(VALIDATION_FILE, valid)])]
            longest = length if max_model_len is None else min(length, max_model_len)
            scorer = LineScorer(order.served_model, ExampleMaker(Renderer(ModelTokens(text_model), longest), None))
            served = None if answer is None else ServedAnswers(scorer, answer)
            train, summary = prepare_data(folder, job, train, known, max_bytes, served)
        prepared = prepare(train, valid, order.method, renderer, prompts)
        prepared.report.data_summary = summary
        if summary:
            add_tokens(folder, prepared.train)
        write_rows(folder.train, prepared.train)
        write_rows(folder.valid, prepared.valid)
        write_rows(folder.samples, _samples(prepared, renderer))
        write_atomically(folder.report, msgspec.json.encode(prepared.report))
        write_atomically(folder.job, msgspec.json.encode(job))
        return prepared.report
    finally:
        templates.close()
        workers.close()


def _server_config(order: JobOrder) -> ServerConfig:
    return ServerConfig(
        chat_template=order.chat_template,
        tool_call_parser=order.tool_call_parser,
        reasoning_parser=order.reasoning_parser,
    )


def _prompt_rules(order: JobOrder, max_model_len: int | None) -> PromptRules | None:
    """Return the rules for prompts of a reinforcement job; None for others. Raises InvalidRequest for an invalid
    grader."""
    if order.method is not TrainingMethod.REINFORCEMENT:
        return None
    length = order.hyperparameters.max_completion_tokens or default_completion_tokens(max_model_len)
    return PromptRules(parse_grader(order.grader, "grader"), length, max_model_len)


def _job(folder: JobFolder, order: JobOrder, text_model: TextModel, prompts: PromptRules | None) -> FinetuningJob:
    """Return the trainer's order. Raises StartupError for an adapter to continue that cannot be read."""
    given = _with_shape_of_start(folder, order)
    if prompts is not None:
        given = msgspec.structs.replace(given, max_completion_tokens=prompts.max_completion_tokens)
    return FinetuningJob(
        engine=order.engine,
        method=order.method,
        hyperparameters=given,
        seed=order.seed,
        start=order.start,
        end_ids=list(text_model.tokenizer.eos_token_ids),
        grader=order.grader,
        thought=None if prompts is None else _thought_marks(text_model),
    )


def _with_shape_of_start(folder: JobFolder, order: JobOrder) -> Hyperparameters:
    """Fill in a missing rank or alpha from the adapter that training continues from. Raises StartupError."""
    given = order.hyperparameters
    if order.start is None or (given.lora_rank is not None and given.lora_alpha is not None):
        return given
    path = folder.path / order.start / CONFIG_FILE
    try:
        config = json.loads(path.read_bytes())
        rank, alpha = int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StartupError(f"{order.start} has no adapter to train on with: {path.name} cannot be read") from error
    return msgspec.structs.replace(
        given,
        lora_rank=rank if given.lora_rank is None else given.lora_rank,
        lora_alpha=alpha if given.lora_alpha is None else given.lora_alpha,
    )


def _thought_marks(text_model: TextModel) -> ThoughtMarks | None:
    marks = None if text_model.chat is None else text_model.chat.reasoning
    return None if marks is None else ThoughtMarks(marks.start, marks.end)


def _samples(prepared: PreparedFiles, renderer: Renderer) -> list[SamplePrompt]:
    """Return the prompts of some chats, whose answers are sampled after each epoch."""
    samples = []
    for chat in prepared.chats:
        # The question ends before the first message that is learned; a prompt has none.
        if count := (*chat.learned, True).index(True):
            samples.append(SamplePrompt(renderer.prompt(chat.fields, count).ids, chat.fields.messages[count - 1].text))
    return samples


def _replay_prompts(order: JobOrder, text_model: TextModel, renderer: Renderer) -> list[Passage]:
    """Return the prompts of replay, whose answers by the base model are trained on too. Raises StartupError for replay
    without a chat template."""
    replay = order.hyperparameters.replay
    if replay and text_model.chat is None:
        raise StartupError(
            f"--replay is {replay:g}, and the model has no chat template to ask questions with; leave it out, or give "
            "the model a template (--chat-template)"
        )
    questions = [] if text_model.chat is None else REPLAY_PROMPTS.read_text().splitlines()
    return [renderer.question(text) for text in questions]
