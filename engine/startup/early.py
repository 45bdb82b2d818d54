"""Option checks that need no torch: importing it takes more than a second."""

import importlib.util
from pathlib import Path

from engine.config import Device, EngineConfig
from engine.errors import OptionError, StartupError
from engine.kv_tiers.private_folder import private_folder
from engine.speculation.settings import speculation_settings
from models.config.overrides import parse_overrides
from models.errors import SettingError
from models.system.cores import allowed_cpus, usable_cores


def check_options(config: EngineConfig) -> None:
    """Raise OptionError for options that are wrong for every model and device."""
    speculation_settings(config)
    if config.kv_offload_dir is not None:
        offload_folder(config.kv_offload_dir)
    check_events_library(config)
    try:
        parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    except SettingError as error:
        raise OptionError(str(error)) from error
    if config.device == Device.CPU:
        compute_threads(config.threads)


def check_events_library(config: EngineConfig) -> None:
    """Raise StartupError if --kv-events is given and ZeroMQ's library is not installed."""
    if config.kv_events is not None and importlib.util.find_spec("zmq") is None:
        raise StartupError("--kv-events needs a library that is not installed (zmq): pip install 'headrace[events]'")


def offload_folder(name: str) -> Path:
    """Make the folder of --kv-offload-dir if it is missing, and return it. Raises OptionError if it cannot be used."""
    if not name.strip():
        raise OptionError("--kv-offload-dir is empty; give a folder, or leave the option out")
    return private_folder(Path(name))


def compute_threads(requested: int | None) -> int:
    """Return --threads if given, else the number of usable cores.

    Raises OptionError if --threads is above the number of CPUs that this process may use.
    """
    if requested is None:
        return usable_cores()
    num_cpus = len(allowed_cpus())
    if requested > num_cpus:
        raise OptionError(
            f"--threads is {requested:,}; this process can run {num_cpus:,} at once (the machine's CPUs, within its "
            f"cpuset or taskset), and more would wait for each other; lower it, or leave it out for {usable_cores():,}"
        )
    return requested
