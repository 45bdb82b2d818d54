"""The commands of `headrace`: their names, descriptions, parsers and entry points."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Command:
    """A command of `headrace`. run and parser are "module:function", imported on demand, so that --help is fast:
    run(argv) runs the command and returns the exit code, and parser() returns its ArgumentParser."""

    name: str
    help: str
    run: str
    parser: str


SERVE = Command(
    "serve",
    "serve a model over HTTP",
    "server.commands.serve.command:run",
    "server.commands.options.arguments:serve_parser",
)
# Heading -> commands, as `headrace --help` has them.
GROUPS: dict[str, tuple[Command, ...]] = {
    "Run a model": (
        SERVE,
        Command(
            "chat",
            "chat with a model in the terminal",
            "server.commands.chat.command:run_chat",
            "server.commands.chat.arguments:chat_parser",
        ),
        Command(
            "complete",
            "continue a text",
            "server.commands.chat.command:run_complete",
            "server.commands.chat.arguments:complete_parser",
        ),
        Command(
            "batch",
            "answer a file of requests without a server",
            "server.commands.batch.command:run",
            "server.commands.batch.arguments:batch_parser",
        ),
    ),
    "Watch a server": (
        Command(
            "ps",
            "list the requests of a running server",
            "server.commands.chat.command:run_ps",
            "server.commands.chat.arguments:ps_parser",
        ),
        Command(
            "top",
            "show what a running server is doing, live",
            "server.commands.chat.command:run_top",
            "server.commands.chat.arguments:top_parser",
        ),
    ),
    "Manage models": (
        Command(
            "pull",
            "download a model, and verify it",
            "server.commands.pull:run",
            "server.commands.pull:pull_parser",
        ),
        Command(
            "models",
            "list the models on this machine, and remove some",
            "server.commands.models:run",
            "server.commands.models:models_parser",
        ),
        Command(
            "quantize",
            "write a quantized checkpoint of a model",
            "server.commands.quantize:run",
            "server.commands.quantize:quantize_parser",
        ),
        Command(
            "finetune",
            "train an adapter of a model on examples",
            "server.commands.finetune:run",
            "server.commands.finetune:finetune_parser",
        ),
    ),
    "Operate": (
        Command(
            "keys",
            "create API keys, and check a file of keys",
            "server.commands.keys:run",
            "server.commands.keys:keys_parser",
        ),
        Command(
            "doctor",
            "check this machine and the options for problems",
            "server.commands.doctor.command:run",
            "server.commands.doctor.command:doctor_parser",
        ),
        Command(
            "bench",
            "measure a server, or the engine without one",
            "server.commands.bench:run",
            "server.commands.bench:bench_parser",
        ),
        Command(
            "completion",
            "print a script that lets your shell complete commands",
            "server.commands.completion:run",
            "server.commands.completion:completion_parser",
        ),
    ),
}
COMMANDS: dict[str, Command] = {command.name: command for group in GROUPS.values() for command in group}
