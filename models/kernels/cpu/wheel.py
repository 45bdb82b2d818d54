"""setuptools commands that compile the kernels into a wheel, for pyproject.toml.

The wheel then contains binaries and has a platform tag, by default with only the kernels that this machine needs; on
another processor, the missing kernels are compiled at first start. HEADRACE_WHEEL_LEVELS selects other levels.
Without a compiler the wheel is built without binaries, for any system.
"""

import functools
import os
import sys
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(_ROOT))  # an isolated build does not see the project's packages

from models.kernels.cpu import build  # noqa: E402

# "all", "native" (this machine's best), names of levels, separated by commas, or "none" for a wheel without binaries.
LEVELS_VARIABLE = "HEADRACE_WHEEL_LEVELS"
_NATIVE = "native"


def _requested_levels() -> list[str]:
    """Return the instruction-set levels in HEADRACE_WHEEL_LEVELS, which may include "native"; empty for "none"."""
    known = list(build.LEVELS)
    given = os.environ.get(LEVELS_VARIABLE, _NATIVE)
    if given in ("all", "none"):
        return known if given == "all" else []
    names = given.split(",")
    if unknown := [name for name in names if name not in (_NATIVE, *known)]:
        choices = ", ".join([_NATIVE, *known])
        sys.exit(f"{LEVELS_VARIABLE} names {', '.join(unknown)}; it must be all, none, or some of {choices}")
    return names


def _has_compiler() -> bool:
    try:
        build.find_compiler()
    except build.KernelBuildError as error:
        sys.stderr.write(f"warning: the wheel is built without compiled kernels: {error}\n")
        return False
    return True


def _compile(requested: list[str], folder: Path) -> None:
    """Compile the detector of levels and the requested kernels into `folder`. Prints the progress, for pip -v."""
    native = build.best_level(build.compile_prebuilt(build.PROBE, folder))
    names = {native if name == _NATIVE else name for name in requested}
    for level in build.LEVELS:
        if level in names:
            with build.watching_compilation(functools.partial(_report, level)):
                build.compile_prebuilt(build.level_recipe(level), folder)


def _report(level: str, done: int, total: int) -> None:
    sys.stdout.write(f"kernels for {level}: {done} of {total} files compiled\n")
    sys.stdout.flush()


class BuildWithKernels(build_py):
    """build_py that adds the compiled kernels (`prebuilt/`) to the package, except for editable installations."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and (requested := _requested_levels()) and _has_compiler():
            _compile(requested, Path(self.build_lib) / build.PREBUILT_FOLDER.relative_to(_ROOT))


class PlatformWheel(bdist_wheel):
    """bdist_wheel tagged for this platform and any Python 3, since the kernels are called through ctypes."""

    def finalize_options(self) -> None:
        if _requested_levels() and _has_compiler():
            self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        return (python, abi, system) if self.root_is_pure else ("py3", "none", system)
