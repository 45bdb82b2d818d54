"""`PYTHON benchmarks/finetuning/workers/trl_trainer.py TASK.json`: trl's SFTTrainer with peft on a bf16 model.

PYTHON has trl, peft and transformers; no module of headrace is imported.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, TrainerCallback, TrainerControl
from trl import SFTConfig, SFTTrainer
from turns import Stopwatch, wait  # in this folder


class _InTurns(TrainerCallback):
    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self._is_over = not wait()
        self._watch = Stopwatch()

    def on_step_end(self, _: Any, __: Any, control: TrainerControl, **___: Any) -> None:
        if self._is_over:
            control.should_training_stop = True
        else:
            self._watch.report()


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    torch.set_num_threads(task["threads"])
    config = AutoConfig.from_pretrained(task["config"])
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    words = Tokenizer(WordLevel({"<pad>": 0, "<eos>": 1}, unk_token="<pad>"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="<eos>")
    first = task["first"]
    rows = [{"input_ids": row, "labels": [-100] * first + row[first:]} for row in task["ids"]]
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=len(rows),
            max_steps=1_000_000,
            learning_rate=1e-3,
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = SFTTrainer(
            model=model,
            args=arguments,
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(r=task["rank"], lora_alpha=2 * task["rank"], target_modules="all-linear"),
            callbacks=[_InTurns()],
        )
        trainer.train()


if __name__ == "__main__":
    main()
