"""The commands of `headrace`: names, descriptions, parsers and entry points."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `headrace`. Its functions are imported on demand, so that --help is fast: the function at `run`
    ("module:function") takes the arguments and returns the exit code, and the one at `parser` returns the parser."""

    name: str
    help: str
    run: str
    parser_module: str

    @property
    def parser(self) -> str:
        return f"{self.parser_module}:{self.name}_parser"


# Heading -> commands, as `headrace --help` has them.
GROUPS: dict[str, tuple[Command, ...]] = {
    "Run a model": (
        Command("serve", "serve a model over HTTP", "serve.arguments:run", "serve.arguments"),
        Command("fleet", "serve a model by several servers behind one address", "fleet.command:run", "fleet.arguments"),
        Command("chat", "chat with a model in the terminal", "chat.command:run_chat", "chat.arguments"),
        Command("complete", "continue a text", "chat.command:run_complete", "chat.arguments"),
        Command("batch", "answer a file of requests without a server", "batch.command:run", "batch.arguments"),
        Command("replay", "compute a stored answer again, and compare", "replay.command:run", "replay.arguments"),
    ),
    "Watch a server": (
        Command("ps", "list the requests of a running server", "chat.command:run_ps", "chat.arguments"),
        Command("top", "show what a running server is doing, live", "chat.command:run_top", "chat.arguments"),
    ),
    "Manage models": (
        Command("pull", "download a model, and verify it", "pull:run", "pull"),
        Command("models", "list the models on this machine, and remove some", "models:run", "models"),
        Command("quantize", "write a quantized checkpoint of a model", "quantize:run", "quantize"),
        Command(
            "calibrate",
            "fit the probabilities of a model's decisions to known answers",
            "calibrate.command:run",
            "calibrate.arguments",
        ),
        Command("finetune", "train an adapter of a model on examples", "finetune:run", "finetune"),
        Command("data", "prepare files for training", "data.command:run", "data.arguments"),
        Command("synthesize", "make lines for training by a recipe", "synthesize.command:run", "synthesize.arguments"),
    ),
    "Operate": (
        Command("keys", "create API keys, and check a file of keys", "keys:run", "keys"),
        Command("doctor", "check this machine and the options for problems", "doctor.command:run", "doctor.command"),
        Command("bench", "measure a server, or the engine without one", "bench:run", "bench"),
        Command(
            "simulate",
            "play a load to a fleet of servers on a virtual clock",
            "simulate.command:run",
            "simulate.arguments",
        ),
        Command("plan", "say how many users a machine takes within limits of time", "plan.command:run", "plan.command"),
        Command("completion", "print a script that lets your shell complete commands", "completion:run", "completion"),
    ),
}
COMMANDS: dict[str, Command] = {command.name: command for group in GROUPS.values() for command in group}
