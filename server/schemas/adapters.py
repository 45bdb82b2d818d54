"""The bodies of the routes that load and unload LoRA adapters, as vLLM has them."""

from server.schemas.base import StrictModel


class LoadAdapterRequest(StrictModel):
    """load_inplace: whether it takes the place of an adapter of the same name. base_model_name: the served model that
    it is for; may be left out where only one can have adapters."""

    lora_name: str
    lora_path: str
    load_inplace: bool = False
    base_model_name: str | None = None


class UnloadAdapterRequest(StrictModel):
    """lora_int_id: vLLM's own number of it, which says nothing here."""

    lora_name: str
    lora_int_id: int | None = None
