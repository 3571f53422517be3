#include "pool.h"

#include <immintrin.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <mutex>
#include <new>

namespace lepton {
namespace {

constexpr int kMaxThreads = 256;
// ~30 us: longer than a gap between two phases of a step, far shorter than a time slice of the scheduler.
constexpr int kSpins = 1000;

struct alignas(64) Shared {
  // generation << 32 | next task. A task is claimed by compare-and-swap, so a thread that wakes late finds another generation
  // or no task left, and `task` and `context` are those of the generation whose claim succeeded.
  std::atomic<uint64_t> ticket{0};
  alignas(64) std::atomic<uint32_t> generation{0};   // futex: idle threads sleep on it
  std::atomic<int> sleepers{0};
  alignas(64) std::atomic<uint32_t> done{0};         // futex: the caller sleeps on it
  std::atomic<int> caller_sleeps{0};
  alignas(64) std::atomic<int> count{0};
  std::atomic<Task> task{nullptr};
  std::atomic<void*> context{nullptr};
  std::atomic<int> stop{0};
};

Shared shared;
std::mutex region;             // one region at a time; a second caller runs its tasks alone
pthread_t workers[kMaxThreads];
int started = 0;
int wanted = 0;

void futex_wait(std::atomic<uint32_t>& word, uint32_t value) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0);
}

void futex_wake(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, kMaxThreads, nullptr, nullptr, 0);
}

void work(uint32_t generation, int thread) {
  for (;;) {
    uint64_t ticket = shared.ticket.load(std::memory_order_acquire);
    if (uint32_t(ticket >> 32) != generation) return;
    const int count = shared.count.load(std::memory_order_relaxed);
    const Task task = shared.task.load(std::memory_order_relaxed);
    void* context = shared.context.load(std::memory_order_relaxed);
    const uint32_t index = uint32_t(ticket);
    if (index >= uint32_t(count)) return;
    if (!shared.ticket.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) continue;
    task(context, int(index), thread);
    if (int(shared.done.fetch_add(1, std::memory_order_acq_rel)) + 1 == count && shared.caller_sleeps.load()) futex_wake(shared.done);
  }
}

void* worker(void* argument) {
  const int thread = int(reinterpret_cast<intptr_t>(argument));
  uint32_t seen = shared.generation.load(std::memory_order_acquire);
  work(seen, thread);
  while (!shared.stop.load(std::memory_order_acquire)) {
    uint32_t now = seen;
    for (int spin = 0; spin < kSpins && now == seen; ++spin) {
      _mm_pause();
      now = shared.generation.load(std::memory_order_acquire);
    }
    if (now == seen) {
      shared.sleepers.fetch_add(1);
      futex_wait(shared.generation, seen);
      shared.sleepers.fetch_sub(1);
      now = shared.generation.load(std::memory_order_acquire);
    }
    if (now != seen) work(seen = now, thread);
  }
  return nullptr;
}

int default_threads() {
  for (const char* name : {"LEPTON_THREADS", "OMP_NUM_THREADS"})
    if (const char* text = getenv(name))
      if (int value = atoi(text); value > 0) return value < kMaxThreads ? value : kMaxThreads;
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) return CPU_COUNT(&set) < kMaxThreads ? CPU_COUNT(&set) : kMaxThreads;
  return 1;
}

void stop_workers() {
  if (!started) return;
  shared.stop.store(1);
  shared.generation.fetch_add(1);
  futex_wake(shared.generation);
  for (int i = 0; i < started; ++i) pthread_join(workers[i], nullptr);
  started = 0;
  shared.stop.store(0);
}

// A forked child has the memory of the pool but not its threads: forget them, and start new ones at the first region.
void after_fork() {
  started = 0;
  shared.sleepers.store(0);
  shared.caller_sleeps.store(0);
  new (&region) std::mutex;
}

void start_workers() {
  static std::once_flag once;
  std::call_once(once, [] { pthread_atfork(nullptr, nullptr, after_fork); });
  pthread_attr_t attributes;
  pthread_attr_init(&attributes);
  pthread_attr_setstacksize(&attributes, 1 << 20);
  while (started < wanted - 1 && pthread_create(&workers[started], &attributes, worker, reinterpret_cast<void*>(intptr_t(started + 1))) == 0) ++started;
  pthread_attr_destroy(&attributes);
  if (started < wanted - 1) wanted = started + 1;   // the system gives no more
}

void wait_for(int count) {
  for (int spin = 0; int(shared.done.load(std::memory_order_acquire)) < count; ++spin) {
    if (spin < kSpins) {
      _mm_pause();
      continue;
    }
    shared.caller_sleeps.store(1);
    const uint32_t done = shared.done.load();
    if (int(done) < count) futex_wait(shared.done, done);
    shared.caller_sleeps.store(0);
  }
}

}  // namespace

int threads() {
  if (!wanted) wanted = default_threads();
  return wanted;
}

void set_threads(int count) {
  std::lock_guard<std::mutex> lock(region);
  stop_workers();
  wanted = count < 1 ? 1 : count > kMaxThreads ? kMaxThreads : count;
}

void run(int count, Task task, void* context) {
  if (count > 1 && threads() > 1) {
    std::unique_lock<std::mutex> lock(region, std::try_to_lock);
    if (lock.owns_lock()) {
      if (started < wanted - 1) start_workers();
      const uint32_t generation = shared.generation.load() + 1;
      // First a ticket that nobody can claim: what a late thread still holds of the last generation is void before the fields change.
      shared.ticket.store(uint64_t(generation) << 32 | UINT32_MAX);
      shared.done.store(0);
      shared.count.store(count);
      shared.task.store(task);
      shared.context.store(context);
      shared.ticket.store(uint64_t(generation) << 32, std::memory_order_release);
      shared.generation.store(generation);
      if (shared.sleepers.load()) futex_wake(shared.generation);
      work(generation, 0);
      wait_for(count);
      return;
    }
  }
  for (int i = 0; i < count; ++i) task(context, i, 0);
}

}  // namespace lepton
