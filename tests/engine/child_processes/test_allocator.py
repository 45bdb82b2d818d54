"""Freed memory is retained and used again, unless the user has chosen otherwise."""

import os
import platform
import subprocess
import sys

import pytest

# 64 MiB are written, and freed, again and again; printed is how often the system had to hand out a page of them.
_PROGRAM = """
import ctypes, resource
ctypes.CDLL(None).prctl(41, 1, 0, 0, 0)  # PR_SET_THP_DISABLE: no pages that are larger than others, where there are any
from engine.child_processes.allocator import retain_freed_memory
retain_freed_memory()
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b"x" * (64 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
_PAGES = 16_384


def pages_handed_out(**variables: str) -> int:
    command = [sys.executable, "-c", _PROGRAM]
    return int(subprocess.run(command, env={**os.environ, **variables}, check=True, capture_output=True).stdout)


@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.41"), reason="the C library may refuse such a threshold")
def test_freed_memory_is_used_again() -> None:
    assert pages_handed_out() < _PAGES / 10


def test_what_the_user_chose_is_respected() -> None:
    assert pages_handed_out(MALLOC_MMAP_THRESHOLD_="131072") >= _PAGES / 10
