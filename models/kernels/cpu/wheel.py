"""Commands of setuptools that compile the kernels into a wheel; named in pyproject.toml, used by nothing else.

A wheel then holds binaries, and its name says for which system. Where no compiler is found it is built without them,
for any system, and the kernels are compiled at first start, as after an editable installation.
"""

import os
import sys
from pathlib import Path

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py

_ROOT = Path(__file__).parents[3]
sys.path.insert(0, str(_ROOT))  # an isolated build does not see the project's packages

from models.kernels.cpu import build  # noqa: E402

# Names of levels, separated by commas, to compile fewer; "none" for a wheel without binaries.
LEVELS_VARIABLE = "HEADRACE_WHEEL_LEVELS"


def _requested_levels() -> list[build.Level]:
    given = os.environ.get(LEVELS_VARIABLE)
    if given is None:
        return list(build.LEVELS)
    names = [] if given == "none" else given.split(",")
    known = {level.name: level for level in build.LEVELS}
    if unknown := [name for name in names if name not in known]:
        sys.exit(f"{LEVELS_VARIABLE} names {', '.join(unknown)}; levels are {', '.join(known)}, or none")
    return [known[name] for name in names]


def _has_compiler() -> bool:
    try:
        build.find_compiler()
    except build.KernelBuildError as error:
        sys.stderr.write(f"warning: the wheel is built without compiled kernels: {error}\n")
        return False
    return True


class BuildWithKernels(build_py):
    """build_py that adds `prebuilt/` beside the sources; not for editable installations."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode and _requested_levels() and _has_compiler():
            build.compile_prebuilt(_requested_levels(), Path(self.build_lib) / build.PREBUILT_FOLDER.relative_to(_ROOT))


class PlatformWheel(bdist_wheel):
    """bdist_wheel for this system and any Python, since the kernels are called through ctypes."""

    def finalize_options(self) -> None:
        if _requested_levels() and _has_compiler():
            self.distribution.has_ext_modules = lambda: True
        super().finalize_options()

    def get_tag(self) -> tuple[str, str, str]:
        python, abi, system = super().get_tag()
        return (python, abi, system) if self.root_is_pure else ("py3", "none", system)
