"""check_options: option faults that are told before torch is imported, which takes a second and more."""

from engine.config import Device, EngineConfig
from engine.errors import OptionError
from engine.speculation.settings import speculation_settings
from engine.startup.threads import compute_threads
from models.config.overrides import parse_overrides
from models.errors import SettingError


def check_options(config: EngineConfig) -> None:
    """Raise OptionError for what is wrong whatever the model and the device are."""
    speculation_settings(config)
    try:
        parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    except SettingError as error:
        raise OptionError(str(error)) from error
    if config.device is Device.CPU:
        compute_threads(config.threads)
