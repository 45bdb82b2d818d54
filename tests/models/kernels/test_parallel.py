"""The kernels' thread pool, through a loop of its own that is compiled with it."""

import ctypes
import os
import subprocess

import pytest

from models.kernels.cpu import build

_PROBE = r"""
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>
#include "runtime/parallel.h"
#include "simd/simd.h"

// Runs loops of 1, 2, ... chunks on `threads` threads; returns how many chunks did not run exactly once, or were
// not visible afterwards. Every `nested`-th chunk runs a loop of its own.
HR_API int64_t probe_loops(int threads, int64_t loops, int64_t nested) {
  hr::set_num_threads(threads);
  int64_t wrong = 0;
  for (int64_t n = 1; n <= loops; ++n) {
    std::vector<int> runs(n);  // not atomic: the pool must order them
    std::atomic<int64_t> inner{0};
    hr::parallel_for(n, [&](int64_t i) {
      runs[i] += 1;
      if (i % nested == 0) hr::parallel_for(3, [&](int64_t) { inner += 1; });
    });
    for (int run : runs) wrong += run != 1;
    wrong += inner != 3 * ((n + nested - 1) / nested);
  }
  return wrong;
}

// As above, from several threads at once.
HR_API int64_t probe_callers(int callers, int64_t loops) {
  std::atomic<int64_t> wrong{0};
  hr::set_num_threads(3);
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c)
    threads.emplace_back([&] {
      for (int64_t n = 1; n <= loops; ++n) {
        std::vector<int> runs(n);
        hr::parallel_for(n, 2, [&](int64_t i) { runs[i] += 1; });
        for (int run : runs) wrong += run != 1;
      }
    });
  for (auto& thread : threads) thread.join();
  return wrong;
}

// How many threads took part in a loop that needs `threads` of them at once.
HR_API int probe_distinct_threads(int threads) {
  hr::set_num_threads(threads);
  std::atomic<int> arrived{0};
  hr::parallel_for(threads, [&](int64_t) {
    arrived += 1;
    while (arrived < threads) std::this_thread::yield();  // ends only if each chunk has a thread of its own
  });
  return arrived;
}

// While a thread that computes alone is within a loop: how many threads that loop has, or 0 if another's does not get
// the two that it needs at once within ten seconds.
HR_API int64_t probe_beside_alone(int is_alone) {
  hr::set_num_threads(2);
  std::atomic<bool> begun{false}, over{false};
  std::atomic<int> strangers{0};
  std::thread other([&] {
    hr::compute_alone(is_alone != 0);
    const auto own = std::this_thread::get_id();
    hr::parallel_for(8, [&](int64_t) {
      strangers += std::this_thread::get_id() != own;
      begun = true;
      while (!over) std::this_thread::yield();
    });
  });
  while (!begun) std::this_thread::yield();
  std::atomic<int> arrived{0};
  std::atomic<bool> was_late{false};
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  hr::parallel_for(2, [&](int64_t) {
    arrived += 1;
    while (arrived < 2 && !was_late) {
      std::this_thread::yield();
      if (std::chrono::steady_clock::now() > end) was_late = true;
    }
  });
  over = true;
  other.join();
  return was_late ? 0 : 1 + strangers;
}
"""


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    folder = tmp_path_factory.mktemp("parallel")
    (folder / "probe.cpp").write_text(_PROBE)
    sources = [folder / "probe.cpp", build.SOURCE_FOLDER / "runtime/parallel.cpp"]
    options = ["-std=gnu++17", "-O2", "-fPIC", "-shared", "-pthread", f"-I{build.SOURCE_FOLDER}"]
    library = folder / "probe.so"
    subprocess.run([build.find_compiler(), *options, *map(str, sources), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
def test_every_chunk_runs_once_and_is_seen(probe: ctypes.CDLL, threads: int) -> None:
    assert probe.probe_loops(threads, ctypes.c_int64(300), ctypes.c_int64(7)) == 0


def test_callers_beside_each_other_do_not_mix(probe: ctypes.CDLL) -> None:
    assert probe.probe_callers(4, ctypes.c_int64(200)) == 0


@pytest.mark.parametrize("spin_us", [0, 1000])
def test_threads_join_a_loop_awake_or_asleep(probe: ctypes.CDLL, spin_us: int) -> None:
    probe.hr_set_spin_microseconds(ctypes.c_int64(spin_us))
    assert probe.probe_distinct_threads(4) == 4
    probe.hr_set_spin_microseconds(ctypes.c_int64(100))


def test_a_thread_that_computes_alone_takes_no_threads_from_another(probe: ctypes.CDLL) -> None:
    assert probe.probe_beside_alone(1) == 1


def test_child_of_a_fork_starts_threads_of_its_own(probe: ctypes.CDLL) -> None:
    assert probe.probe_distinct_threads(3) == 3
    child = os.fork()
    if child == 0:
        os._exit(0 if probe.probe_distinct_threads(3) == 3 else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
