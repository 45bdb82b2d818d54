"""`python -m tests.helpers.kernel_levels`: compiles the kernels that the tests run, while packages are installed.

It needs Python alone. Tests compile what is missing, but then wait for it.
"""

import sys

from models.kernels.cpu import build

_NOT_TESTED = "avx512_vnni"  # all its code is that of its neighbors, and compiling takes time


def tested_levels(best: str) -> list[str]:
    """Return the instruction-set levels that the tests run on a processor with the level `best`, which comes first."""
    names = list(build.LEVELS)
    return [best, *(name for name in names[: names.index(best)] if name != _NOT_TESTED)]


def main() -> None:
    folder = build.kernel_folder()
    try:
        for level in tested_levels(build.best_level(build.ensure_library(build.PROBE, folder))):
            build.ensure_library(build.level_recipe(level), folder)
    except build.KernelBuildError as error:  # such as a machine without a compiler: tests say what they miss
        sys.stderr.write(f"kernels are not compiled: {error}\n")


if __name__ == "__main__":
    main()
