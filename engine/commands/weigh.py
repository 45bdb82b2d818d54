"""`python -m engine.commands.weigh JOB`: prints the memory that models need. JOB is a list of EngineConfigs in JSON.

Models that are not on this machine are fetched. Each line of the output is a WeighMessage in JSON.
"""

import sys
import time
from collections.abc import Sequence

import msgspec

from engine.child_processes.lifetime import end_with_parent
from engine.command_io.weighing import Weighed, Weighing, WeighMessage
from engine.commands.weighed import weigh_files
from engine.config import EngineConfig, LoadFormat
from engine.draft_model.load import resolve_draft
from engine.errors import HeadraceError, OptionError
from engine.speculation.settings import speculation_settings
from engine.startup.load import USE_TRANSFORMERS
from models.config.overrides import parse_overrides
from models.errors import ModelError, SettingError
from models.loading.open import check_config
from models.sources.resolve import resolve_model

_REPORT_INTERVAL_S = 0.1


def main(argv: Sequence[str]) -> int:
    end_with_parent()
    for config in msgspec.json.decode(argv[0], type=list[EngineConfig]):
        _print(_weigh(config))
    return 0


def _weigh(config: EngineConfig) -> Weighed:
    try:
        return _weighed(config)
    except (SettingError, OptionError) as error:
        return Weighed(failure=str(error), is_option=True)
    except (ModelError, HeadraceError) as error:
        return Weighed(failure=str(error))


def _weighed(config: EngineConfig) -> Weighed:
    overrides = parse_overrides(config.hf_overrides, config.rope_scaling, config.rope_theta)
    files = resolve_model(
        config.model,
        config.revision,
        _Reporter(config.model),
        check=lambda files: check_config(files, overrides, use_transformers=USE_TRANSFORMERS[config.model_impl]),
        needs_weights=config.load_format is not LoadFormat.DUMMY,
    )
    spec = speculation_settings(config)
    draft_files = None if spec.draft_model is None else resolve_draft(spec, _Reporter(spec.draft_model))
    return weigh_files(files, draft_files, config)


class _Reporter:
    """A ProgressReport that prints at most ten updates a second."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._printed_s = 0.0

    def __call__(self, stage: str, done: int, total: int, unit: str) -> None:
        now_s = time.monotonic()
        if done == total or now_s - self._printed_s >= _REPORT_INTERVAL_S:
            self._printed_s = now_s
            _print(Weighing(f"{stage} of {self._model}", done, total, unit))


def _print(message: WeighMessage) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
