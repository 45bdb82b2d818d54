// A function that takes its arguments as 64-bit words, for replaying recorded calls (tape.cpp).
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

namespace hr {

// The low bytes of a word, on a little-endian machine.
template <class T>
T from_word(uint64_t word) {
  T value;
  std::memcpy(&value, &word, sizeof value);
  return value;
}

template <class... Arguments, size_t... I>
void call_with_words(void (*function)(Arguments...), const uint64_t* words, std::index_sequence<I...>) {
  function(from_word<Arguments>(words[I])...);
}

template <class... Arguments>
void call_with_words(void (*function)(Arguments...), const uint64_t* words) {
  call_with_words(function, words, std::index_sequence_for<Arguments...>());
}

}  // namespace hr

// Defines NAME_replay beside the function NAME.
#define HR_REPLAYABLE(name) \
  HR_API void name##_replay(const uint64_t* words) { hr::call_with_words(name, words); }
