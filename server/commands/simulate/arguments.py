"""The parser of `headrace simulate`."""

import argparse

from engine.simulation.config import SimulateConfig
from engine.simulation.costs import CARDS
from engine.simulation.policies import POLICIES
from server.commands.options.arguments import Parser, add_options
from server.commands.options.definitions import OPTIONS, options_of

# Options of the engine that the simulator follows: sizes of the model, and the scheduler's limits.
SIZES = (
    *("revision", "load_format", "dummy_seed", "hf_overrides", "rope_scaling", "rope_theta", "dtype", "threads"),
    *("quantization", "quantization_group_size", "quantize_head", "block_size", "kv_cache_dtype"),
    *("kv_cache_memory_bytes", "gpu_memory_utilization", "max_model_len"),
)
SCHEDULING = (
    *("max_num_seqs", "max_num_batched_tokens", "batch_step_ms", "long_prefill_token_threshold"),
    "enable_prefix_caching",
)
_EPILOG = f"""\
A trace has one request on each line: JSON of Mooncake's traces (timestamp in ms, input_length, output_length, hash_ids
of 512 tokens each), or CSV of Azure's (TIMESTAMP,ContextTokens,GeneratedTokens).

cards: {", ".join(CARDS)}
policies: {", ".join(POLICIES)}

exit codes: 0 if the load was played, 1 if the model cannot be simulated, 2 for a wrong option or trace,
3 if all requests are refused.

examples:
  headrace simulate --synthetic --rate 4 --input-len 64:512 --output-len 128 --model model.gguf
  headrace simulate trace.jsonl --replicas 4 --hardware h100 --model /path/to/folder --load-format dummy --price 2.5
  headrace simulate --synthetic --rate 4 --model model.gguf --save-hardware here.json
  headrace simulate --synthetic --rate 8 --hardware here.json --replicas 2
"""


def simulate_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="headrace simulate",
        usage="headrace simulate TRACE|--synthetic [--model MODEL] [options]",
        description="Play a load to a fleet of servers on a virtual clock: the scheduler, KV cache and step budget are "
        "the real ones, and the time of a step is modeled. No weights are read for a card.",
        epilog=_EPILOG,
    )
    parser.add_argument("trace", nargs="?", metavar="TRACE", help="File of requests; or --synthetic.")
    parser.add_argument("--config", metavar="FILE", help="YAML file of options, as for headrace serve.")
    options = options_of(SimulateConfig)
    names = {"policy": ", ".join(POLICIES), "hardware": ", ".join(CARDS)}
    add_options(parser, options, many="append")
    for action in parser._actions:
        if action.dest in names and action.help is not None:
            action.help = action.help.replace("POLICIES", names[action.dest]).replace("CARDS", names[action.dest])
    add_options(parser, [OPTIONS[name] for name in ("model", *SIZES, *SCHEDULING)], many="append")
    return parser
