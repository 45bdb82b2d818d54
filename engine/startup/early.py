"""check_options: checks of options that need no torch, whose import takes more than a second."""

from engine.config import Device, EngineConfig
from engine.errors import OptionError
from engine.speculation.settings import speculation_settings
from engine.startup.threads import compute_threads
from models.config.overrides import parse_overrides
from models.errors import SettingError


def check_options(config: EngineConfig) -> None:
    """Raise OptionError for options that are wrong for every model and device."""
    speculation_settings(config)
    try:
        parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    except SettingError as error:
        raise OptionError(str(error)) from error
    if config.device is Device.CPU:
        compute_threads(config.threads)
