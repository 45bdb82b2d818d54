"""Bodies of operators' routes: LoRA adapters, in vLLM's shapes, and the log level."""

from typing import Literal

from server.schemas.base import StrictModel


class LoadAdapterRequest(StrictModel):
    """An adapter to load. load_inplace: replace a served adapter with the same name. base_model_name: the served model
    that the adapter is for; may be omitted if only one model can have adapters."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    base_model_name: str | None = None


class UnloadAdapterRequest(StrictModel):
    """An adapter to unload. lora_int_id is vLLM's internal id of the adapter, and ignored."""

    lora_name: str
    lora_int_id: int | None = None


class LogLevelRequest(StrictModel):
    level: Literal["debug", "info", "warning", "error"]
