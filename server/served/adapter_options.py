"""announce_adapters: the adapters of --lora-modules, before any model is loaded."""

from engine.errors import InvalidRequest, OptionError
from server.model_options.lora import LoraConfig
from server.served.adapter import ServedAdapter
from server.served.models import ServedModels


def announce_adapters(models: ServedModels, config: LoraConfig, *, are_settled: bool = True) -> None:
    """Have the models serve them, once their files have been read. Raises OptionError.

    are_settled: whether it is known which models can have adapters. If not, those that pool texts may still drop out,
    and an adapter that could be of several models waits for the call when it is known.
    """
    if config.adapter_dir is not None and not any(model.has_adapters for model in models):
        raise OptionError("--adapter-dir is given, and no model has --enable-lora; add it, or leave the folder out")
    for module in config.modules:
        if models.is_model(module.name):
            raise OptionError(
                f"--lora-modules has the name {module.name!r}, which is a model's; give the adapter another one"
            )
        try:
            base = models.base(module.base_model_name)
        except InvalidRequest as error:
            if module.base_model_name is None and not are_settled:
                continue
            raise OptionError(f"--lora-modules {module.name}: {error}") from error
        models.adapters.announce(ServedAdapter(module.name, module.path, base.name))
