// Parallel loops of the kernels, on threads of their own (parallel.cpp).
//
// A loop is cut into chunks, which the threads claim one by one; the caller claims like any other. The loop ends as soon as
// every claimed chunk is finished, and not when every thread has arrived, as at an OpenMP barrier: where other processes want
// the same cores, a thread that was descheduled between two chunks delays nobody.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>

namespace hr {

// Threads that work on a loop, the caller among them.
int num_threads();

// n >= 1. Not while a loop runs. Threads are started when they are first needed.
void set_num_threads(int n);

// How long a thread without work, or a caller without its last chunk, keeps looking before it sleeps.
void set_spin_microseconds(int64_t microseconds);

// Whether loops of this thread run on it alone from now on: it then takes the others from no loop of another thread. Returns
// whether they did before.
bool compute_alone(bool is_alone);

using ChunkFunction = void (*)(const void* context, int64_t chunk);

// run(context, chunk) for every chunk 0 .. num_chunks - 1, each once, on some thread, begun in this order; what they wrote is
// visible to the caller afterwards. A loop within a loop, or beside that of another thread, runs on its caller alone.
void run_chunks(int64_t num_chunks, ChunkFunction run, const void* context);

// f(chunk) for every chunk 0 .. num_chunks - 1.
template <class Function>
void parallel_for(int64_t num_chunks, const Function& f) {
  run_chunks(num_chunks, [](const void* context, int64_t chunk) { (*static_cast<const Function*>(context))(chunk); }, &f);
}

// f(i) for every i in 0 .. count - 1, `grain` consecutive ones a chunk.
template <class Function>
void parallel_for(int64_t count, int64_t grain, const Function& f) {
  parallel_for((count + grain - 1) / grain, [&](int64_t chunk) {
    for (int64_t i = chunk * grain; i < std::min(count, (chunk + 1) * grain); ++i) f(i);
  });
}

// Memory of this thread's own that stays from loop to loop, one object a type and translation unit.
template <class T>
T& thread_scratch() {
  thread_local const std::unique_ptr<T> scratch(new T);
  return *scratch;
}

}  // namespace hr
