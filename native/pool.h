// One pool of threads for all kernels. A region is `count` tasks, taken one by one, so a thread that is late costs nothing but
// its share. The caller works too and returns when the last task is done; idle threads spin briefly, then sleep.
#pragma once
#include <stdint.h>

namespace lepton {

using Task = void (*)(void* context, int task, int thread);

int threads();
void set_threads(int count);   // between regions; clamped to 1..256
void run(int count, Task task, void* context);

template <class Body>
void parallel(int count, Body&& body) {
  run(count, [](void* context, int task, int thread) { (*static_cast<Body*>(context))(task, thread); }, const_cast<void*>(static_cast<const void*>(&body)));
}

}  // namespace lepton
