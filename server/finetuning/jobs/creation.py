"""new_record: validates a request for a fine-tuning job, and builds the job's record."""

import asyncio
import secrets
from collections.abc import Sequence
from pathlib import Path

from engine.config import LoadFormat
from engine.errors import InvalidRequest
from engine.protocol import PoolingTask
from server.context import ServerContext
from server.errors import ModelNotFound
from server.finetuning.adapter_files import AdapterShape, read_shape
from server.finetuning.jobs.folders import stored_path
from server.finetuning.jobs.hyperparameters import hyperparameters_of
from server.finetuning.jobs.record import FinetuningRecord, new_job_id, new_model_name
from server.finetuning.jobs.requested_grader import RequestedGrader, check_models
from server.finetuning.scores.judge import JUDGE, judge_of
from server.schemas.base import quote
from server.schemas.files import FINE_TUNE
from server.schemas.finetuning import MAX_SEED, FinetuningRequest
from server.served.model import ServedModel

WANDB = "wandb"


async def new_record(
    context: ServerContext, owner: str, body: FinetuningRequest, grader: RequestedGrader | None
) -> FinetuningRecord:
    """Validate a request, and build a job's record. grader: from the body. Raises InvalidRequest and StorageFailed."""
    model = _model(context, body.model)
    data_dir = context.config.data_dir
    assert data_dir is not None
    for name, file_id in (("training_file", body.training_file), ("validation_file", body.validation_file)):
        if file_id is not None:
            await _check_file(context, owner, name, file_id)
    if body.validation_file == body.training_file:
        raise InvalidRequest.of(
            "validation_file",
            "is the training_file; a loss on what is learned says nothing: give another file, or none",
        )
    if grader is not None:
        check_models(grader.grader, context.models)
    start = None if model.adapter is None else model.adapter.path
    info = model.info
    method, hyperparameters = hyperparameters_of(
        body,
        max_rank=model.engine.max_lora_rank,
        max_length=None if info is None else info.max_model_len,
        layers=model.trainable_layers,
        start=await _shape(start),
    )
    if (steps := hyperparameters.data_preparation) is not None:
        for file_id in steps.decontaminate_against:
            await _check_file(context, owner, "decontaminate_against", file_id)
        if steps.semantic_model is not None:
            _check_embeds(context, steps.semantic_model)
        if (judge := judge_of(steps)) is not None:
            check_models(judge, context.models, JUDGE)
    return FinetuningRecord(
        id=new_job_id(),
        owner=owner,
        created_at=int(context.files.clock()),
        model=body.model,
        base_model=model.base_name,
        start=None if start is None else stored_path(data_dir, start),
        training_file=body.training_file,
        validation_file=body.validation_file,
        name=new_model_name(model.base_name, body.suffix),
        method=method,
        hyperparameters=hyperparameters,
        grader=None if grader is None else grader.body,
        seed=secrets.randbelow(MAX_SEED + 1) if body.seed is None else body.seed,
        suffix=body.suffix,
        metadata=body.metadata,
    )


def _check_embeds(context: ServerContext, name: str) -> None:
    """Raise InvalidRequest if the caller may not use the model, or it makes no embeddings."""
    param = "semantic_model"
    try:
        model = context.models.find(name)
    except ModelNotFound as error:
        raise InvalidRequest(f"{param} is {quote(name)}: {error}", param=param, code="model_not_found") from None
    pooling = None if model.info is None else model.info.pooling
    if model.info is not None and (pooling is None or PoolingTask.EMBED not in pooling.tasks):
        raise InvalidRequest.of(param, f"is {quote(name)}, which makes no embeddings; name a model that does")


def _model(context: ServerContext, name: str) -> ServedModel:
    """Return the base model or adapter to train, if the caller may use and train it. Raises InvalidRequest, which names
    all options of the server that are missing."""
    try:
        model = context.models.find(name)
    except ModelNotFound as error:
        raise InvalidRequest(str(error), param="model", code="model_not_found") from None
    if model.info is not None and not model.info.generates:
        raise InvalidRequest(
            f"the model {quote(name)} pools texts; only models that generate text can be fine-tuned", param="model"
        )
    if model.engine.load_format is LoadFormat.DUMMY:
        raise InvalidRequest(
            f"the weights of {quote(name)} are random numbers (--load-format dummy), so there is nothing to fine-tune; "
            "name another model",
            param="model",
        )
    missing = {
        "--data-dir FOLDER (for jobs and adapters)": context.config.data_dir is None,
        f"--enable-lora (to serve adapters of {quote(name)})": not model.has_adapters,
    }
    if any(missing.values()):
        wanted = " and ".join(option for option, is_missing in missing.items() if is_missing)
        raise InvalidRequest(
            f"fine-tuning makes adapters, and this server cannot keep and serve them; start it with {wanted}",
            param=None if model.has_adapters else "model",
        )
    return model


async def _check_file(context: ServerContext, owner: str, name: str, file_id: str) -> None:
    file = await context.files.find(file_id, owner)
    if file is None:
        raise InvalidRequest(
            f"{name} is {quote(file_id)}; there is no such file of this key: upload it with the purpose "
            f"{quote(FINE_TUNE)}",
            param=name,
            code="file_not_found",
        )
    if file.purpose != FINE_TUNE:
        raise InvalidRequest(
            f"{name} is {quote(file_id)}, which has the purpose {quote(file.purpose)}; upload it with "
            f"{quote(FINE_TUNE)}",
            param=name,
            code="invalid_file_purpose",
        )


async def _shape(start: str | None) -> AdapterShape | None:
    return None if start is None else await asyncio.to_thread(read_shape, Path(start))


def ignored_integrations(body: FinetuningRequest) -> Sequence[str]:
    """Return the paths of the integrations, which are ignored. Raises InvalidRequest for unknown types."""
    found = []
    for index, integration in enumerate(body.integrations or []):
        path = f"integrations[{index}]"
        if integration.type != WANDB:
            raise InvalidRequest.of(f"{path}.type", f"is {quote(integration.type)}; it must be {quote(WANDB)}")
        found.append(path)
    return found
