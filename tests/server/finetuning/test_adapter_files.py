"""server/finetuning/adapter_files.py: names that the engine's side knows too."""

from models.adapters.peft import WEIGHTS_NAME
from models.adapters.peft_config import CONFIG_NAME
from server.finetuning.adapter_files import ADAPTER_FILES


def test_names_are_those_that_adapters_are_read_by() -> None:
    assert ADAPTER_FILES == (CONFIG_NAME, WEIGHTS_NAME)
