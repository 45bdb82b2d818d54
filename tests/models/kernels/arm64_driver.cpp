// Runs the kernel calls that come on standard input, one after the other, and writes the memory that each worked on to standard
// output; with an argument, exits with the processor's level instead. Linked with the kernels for ARM64 and run under qemu (arm64.py, which writes the call and
// describes its form).
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#include "kernels.h"  // made by arm64.py: declares the kernels and lists them in KERNELS(X)
#include "runtime/replay.h"

extern "C" void hr_set_num_threads(int n);
extern "C" void hr_set_spin_microseconds(int microseconds);
extern "C" int hr_cpu_level();

namespace {

struct Place {
  uint64_t at, buffer, offset;  // the word (or byte) that becomes the address `offset` bytes into `buffer`
};

void read_all(void* target, size_t num_bytes) {
  if (num_bytes && std::fread(target, 1, num_bytes, stdin) != num_bytes) {
    std::fputs("the call ends too early\n", stderr);
    std::exit(1);
  }
}

uint64_t read_word() {
  uint64_t word;
  read_all(&word, sizeof word);
  return word;
}

std::vector<Place> read_places() {
  std::vector<Place> places(read_word());
  read_all(places.data(), places.size() * sizeof(Place));
  return places;
}

template <class Result, class... Arguments, size_t... I>
int64_t call(Result (*kernel)(Arguments...), const uint64_t* words, std::index_sequence<I...>) {
  if constexpr (std::is_void_v<Result>) {
    kernel(hr::from_word<Arguments>(words[I])...);
    return 0;
  } else {
    return kernel(hr::from_word<Arguments>(words[I])...);
  }
}

template <class Result, class... Arguments>
int64_t call(Result (*kernel)(Arguments...), const uint64_t* words) {
  return call(kernel, words, std::index_sequence_for<Arguments...>());
}

void run_call(uint64_t name_length) {
  char name[64] = {};
  read_all(name, name_length % sizeof name);
  std::vector<uint64_t> words(read_word());
  read_all(words.data(), words.size() * sizeof(uint64_t));
  const std::vector<Place> arguments = read_places();
  struct Buffer {
    char* data;
    uint64_t size;
    std::vector<Place> places;
  };
  std::vector<Buffer> buffers(read_word());
  for (Buffer& buffer : buffers) {
    buffer.size = read_word();
    buffer.places = read_places();
    buffer.data = static_cast<char*>(std::aligned_alloc(64, (buffer.size + 127) / 64 * 64));
    read_all(buffer.data, buffer.size);
  }
  const auto address = [&](const Place& place) { return buffers[place.buffer].data + place.offset; };
  for (const Place& place : arguments) words[place.at] = reinterpret_cast<uint64_t>(address(place));
  for (Buffer& buffer : buffers)
    for (const Place& place : buffer.places) {
      const uint64_t value = reinterpret_cast<uint64_t>(address(place));
      std::memcpy(buffer.data + place.at, &value, sizeof value);
    }
  int64_t result;
#define CALL(kernel) \
  if (!std::strcmp(name, #kernel)) result = call(kernel, words.data()); else
  KERNELS(CALL) {
    std::fprintf(stderr, "no kernel %s\n", name);
    std::exit(1);
  }
  std::fwrite(&result, sizeof result, 1, stdout);
  for (const Buffer& buffer : buffers) {
    std::fwrite(buffer.data, 1, buffer.size, stdout);
    std::free(buffer.data);
  }
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char**) {
  if (argc > 1) return hr_cpu_level();
  hr_set_num_threads(2);
  hr_set_spin_microseconds(0);  // threads that wait would take the time of those that are emulated
  for (uint64_t name_length; std::fread(&name_length, sizeof name_length, 1, stdin) == 1;) run_call(name_length);
  _exit(0);  // the kernels' threads never end
}
