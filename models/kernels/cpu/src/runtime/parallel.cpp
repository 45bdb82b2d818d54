// The threads behind parallel.h.
//
// State of a loop. One 64-bit word, the ticket, holds the loop's number (epoch) and how many chunks are unclaimed:
//
//   ticket = epoch << 24 | unclaimed          publish: (e, 0) -> (e + 1, n)      claim: (e, u) -> (e, u - 1), chunk n - u
//
// A claim is a compare-and-swap, so it succeeds only in the very loop that the thread has looked at. Function, context and n
// are read before it; they change only after all chunks of their loop are finished, hence are those of this loop whenever
// the claim succeeds, and are thrown away when it fails. That is why a thread may be late by any time, and why nothing
// has to wait for it: a loop ends when `unfinished_`, from which each chunk is subtracted once, is 0.
//
// Waiting. Threads without work look at the ticket for a while and then sleep until a loop is published; the caller does
// likewise for chunks that others have claimed. Its sleep matters under contention: the core that it leaves
// is where the system can go on with a thread that was preempted in the middle of a chunk.
#include "runtime/parallel.h"

#include <pthread.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "simd/simd.h"

namespace hr {
namespace {

constexpr int kUnclaimedBits = 24;
constexpr int64_t kMostChunks = (int64_t{1} << kUnclaimedBits) - 1;
constexpr int64_t kSpinMicroseconds = 20;  // longer gains 5 % on idle cores, and costs as many tens where others want them
constexpr int kLooksPerClock = 32;  // a look takes some 40 ns with its pause, as long as reading the clock

int64_t unclaimed(uint64_t ticket) { return static_cast<int64_t>(ticket) & kMostChunks; }
uint64_t epoch(uint64_t ticket) { return ticket >> kUnclaimedBits; }

thread_local bool is_alone = false;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Pool {
 public:
  Pool(int num_threads, int64_t spin_us) : spin_us_(spin_us), num_threads_(num_threads) {}

  int num_threads() const { return num_threads_; }
  void set_num_threads(int n) { num_threads_ = n; }
  int64_t spin_us() const { return spin_us_; }
  void set_spin_us(int64_t spin_us) { spin_us_ = spin_us; }

  void run(int64_t num_chunks, ChunkFunction run, const void* context) {
    if (num_chunks == 1 || num_threads_ == 1 || num_chunks > kMostChunks || is_alone ||
        is_busy_.exchange(true, std::memory_order_acquire)) {
      for (int64_t chunk = 0; chunk < num_chunks; ++chunk) run(context, chunk);
      return;
    }
    start_helpers();
    publish(num_chunks, run, context);
    work();
    wait_until_finished();
    is_busy_.store(false, std::memory_order_release);
  }

 private:
  void start_helpers() {
    while (num_started_ < num_threads_ - 1) {
      try {
        std::thread(&Pool::help, this, num_started_).detach();
      } catch (const std::system_error&) {
        num_threads_ = num_started_ + 1;  // the system allows no more
        return;
      }
      ++num_started_;
    }
  }

  void publish(int64_t num_chunks, ChunkFunction run, const void* context) {
    run_.store(run, std::memory_order_relaxed);
    context_.store(context, std::memory_order_relaxed);
    num_chunks_.store(num_chunks, std::memory_order_relaxed);
    num_helpers_.store(num_threads_ - 1, std::memory_order_relaxed);
    unfinished_.store(num_chunks, std::memory_order_relaxed);
    const uint64_t next = epoch(ticket_.load(std::memory_order_relaxed)) + 1;
    // sequentially consistent, as in sleep(): either this thread sees the sleeper, or the sleeper sees the ticket
    ticket_.store(next << kUnclaimedBits | static_cast<uint64_t>(num_chunks));
    if (num_asleep_.load() > 0) {
      { const std::lock_guard<std::mutex> lock(mutex_); }
      published_.notify_all();
    }
  }

  // Claims and runs chunks until none is left; returns the ticket that says so.
  uint64_t work() {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (unclaimed(ticket) > 0) {
      const ChunkFunction run = run_.load(std::memory_order_relaxed);
      const void* context = context_.load(std::memory_order_relaxed);
      const int64_t num_chunks = num_chunks_.load(std::memory_order_relaxed);
      if (!ticket_.compare_exchange_weak(ticket, ticket - 1, std::memory_order_acquire)) continue;
      run(context, num_chunks - unclaimed(ticket));
      // sequentially consistent, as in wait_until_finished(); from here on the loop may be over
      if (unfinished_.fetch_sub(1) == 1 && caller_sleeps_.load()) {
        { const std::lock_guard<std::mutex> lock(mutex_); }
        finished_.notify_one();
      }
      ticket = ticket_.load(std::memory_order_acquire);
    }
    return ticket;
  }

  void wait_until_finished() {
    const auto is_finished = [this] { return unfinished_.load(std::memory_order_acquire) == 0; };
    if (spin(is_finished)) return;
    std::unique_lock<std::mutex> lock(mutex_);
    caller_sleeps_.store(true);
    finished_.wait(lock, [this] { return unfinished_.load() == 0; });
    caller_sleeps_.store(false);
  }

  void help(int index) {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, nullptr);  // signals are for the threads that the program knows
    uint64_t seen = 0;
    for (;;) {
      const auto is_published = [&] { return epoch(ticket_.load(std::memory_order_acquire)) != epoch(seen); };
      if (!spin(is_published)) sleep(seen);
      seen = ticket_.load(std::memory_order_acquire);
      if (index < num_helpers_.load(std::memory_order_relaxed)) seen = work();
    }
  }

  void sleep(uint64_t seen) {
    std::unique_lock<std::mutex> lock(mutex_);
    num_asleep_.fetch_add(1);
    published_.wait(lock, [&] { return epoch(ticket_.load()) != epoch(seen); });
    num_asleep_.fetch_sub(1);
  }

  // Whether `condition` came true while it was worth looking.
  template <class Condition>
  bool spin(const Condition& condition) const {
    using Clock = std::chrono::steady_clock;
    const auto end = Clock::now() + std::chrono::microseconds(spin_us_.load(std::memory_order_relaxed));
    do {
      for (int i = 0; i < kLooksPerClock; ++i) {
        if (condition()) return true;
        relax();
      }
    } while (Clock::now() < end);
    return false;
  }

  // On lines of their own, since all threads write or watch them.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  alignas(64) std::atomic<int64_t> unfinished_{0};
  // Written between loops.
  alignas(64) std::atomic<ChunkFunction> run_{nullptr};
  std::atomic<const void*> context_{nullptr};
  std::atomic<int64_t> num_chunks_{0};
  std::atomic<int> num_helpers_{0};
  std::atomic<int64_t> spin_us_;
  // Of the caller.
  alignas(64) std::atomic<bool> is_busy_{false};
  int num_threads_, num_started_ = 0;
  // Of sleepers.
  alignas(64) std::mutex mutex_;
  std::condition_variable published_, finished_;
  std::atomic<int> num_asleep_{0};
  std::atomic<bool> caller_sleeps_{false};
};

// Never destroyed: its threads may still look at it while the process ends.
Pool* pool = [] {
  // A child of fork() has none of the threads, and starts its own.
  pthread_atfork(nullptr, nullptr, [] { pool = new Pool(pool->num_threads(), pool->spin_us()); });
  return new Pool(1, kSpinMicroseconds);
}();

}  // namespace

int num_threads() { return pool->num_threads(); }
void set_num_threads(int n) { pool->set_num_threads(n); }
void set_spin_microseconds(int64_t microseconds) { pool->set_spin_us(microseconds); }
bool compute_alone(bool alone) { return std::exchange(is_alone, alone); }
void run_chunks(int64_t num_chunks, ChunkFunction run, const void* context) { pool->run(num_chunks, run, context); }

}  // namespace hr

HR_API int hr_num_threads() { return hr::num_threads(); }
HR_API void hr_set_num_threads(int n) { hr::set_num_threads(n); }
HR_API void hr_set_spin_microseconds(int64_t microseconds) { hr::set_spin_microseconds(microseconds); }
HR_API int hr_compute_alone(int is_alone) { return hr::compute_alone(is_alone != 0); }
