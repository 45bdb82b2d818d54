"""The bodies of the routes that load and unload LoRA adapters, as vLLM has them."""

from server.schemas.base import StrictModel


class LoadAdapterRequest(StrictModel):
    """load_inplace: whether to replace an adapter of the same name. base_model_name: the served model of the adapter;
    may be omitted if only one model can have adapters."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    base_model_name: str | None = None


class UnloadAdapterRequest(StrictModel):
    """lora_int_id: vLLM's own number of the adapter, which is ignored here."""

    lora_name: str
    lora_int_id: int | None = None
