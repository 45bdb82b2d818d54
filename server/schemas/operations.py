"""Bodies of routes for the server's operator: LoRA adapters, in vLLM's shapes, and the log level."""

from typing import Literal

from server.schemas.base import StrictModel


class LoadAdapterRequest(StrictModel):
    """An adapter to load. load_inplace: whether to replace an adapter with the same name. base_model_name: the served
    model of the adapter; may be omitted if only one model can have adapters."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    base_model_name: str | None = None


class UnloadAdapterRequest(StrictModel):
    """An adapter to unload. lora_int_id: vLLM's own number of the adapter, which is ignored."""

    lora_name: str
    lora_int_id: int | None = None


class LogLevelRequest(StrictModel):
    level: Literal["debug", "info", "warning", "error"]
