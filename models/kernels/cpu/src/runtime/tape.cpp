// Replays recorded kernel calls in order: a whole step without a return to Python.
#include "simd/simd.h"

// One call: a function made by HR_REPLAYABLE, and its arguments.
struct hr_call {
  void (*function)(const uint64_t* words);
  const uint64_t* words;
};

HR_API void hr_replay(const hr_call* calls, int64_t num_calls) {
  for (int64_t i = 0; i < num_calls; ++i) calls[i].function(calls[i].words);
}
