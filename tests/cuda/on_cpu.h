// CUDA C on the CPU: a kernel compiled by g++ runs block after block, each thread of a block until it waits for others.
//
// A thread that never waits is a plain call. One that waits (__syncthreads, a shuffle) leaves its stack behind as a fibre and
// goes on when those that it waits for have come. What a GPU leaves open is set so that a mistake shows: shared memory
// is full of ones (NaN) when a block begins, a lane that takes no part in a shuffle gives ones too, and waiting for each other in
// different places ends the process with a message.

#pragma once

#include <csetjmp>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>

#define __global__
#define __device__ static
#define __restrict__
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("on_cpu_shared")))

using std::acos, std::asin, std::atan, std::ceil, std::copysign, std::cos, std::cosh, std::exp, std::expm1, std::floor, std::fmod;
using std::log, std::log1p, std::log2, std::pow, std::sin, std::sinh, std::sqrt, std::tan, std::tanh, std::trunc;

struct dim3 {
    unsigned int x, y, z;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;

// Where shared memory begins and ends, by the linker's own names for a section; there may be none of it.
extern "C" char __start_on_cpu_shared[] __attribute__((weak, visibility("hidden")));
extern "C" char __stop_on_cpu_shared[] __attribute__((weak, visibility("hidden")));

// What nobody may rely on is which block, and which thread of it, comes first. Set from outside, they run from last to first.
extern "C" {
int on_cpu_backwards = 0;
}

namespace on_cpu {

enum Waiting { FOR_NOTHING, FOR_WARP, FOR_BLOCK };

struct Fibre {
    ucontext_t start;
    jmp_buf place;
    bool begun;
};

struct Thread {
    Fibre* fibre;  // the one that it waits in; null before it has begun and after its end
    Waiting waiting;
    bool ended;
    bool met;                   // whether it was there when its warp, or its block, last met
    int turn;                   // which of the two values it puts down next: one may still be read when the next is there
    unsigned char value[2][8];  // what it gives to the others of its warp
};

const unsigned int MOST = 1024, STACK = 1 << 17;
static Thread threads[MOST];
static Fibre fibres[MOST + 1];
static Fibre* idle[MOST + 1];
static unsigned int idle_count, fibre_count, count, begun, current;
static Fibre* running;
static jmp_buf scheduler;
static ucontext_t scheduler_context;

struct Work {
    virtual void operator()() const = 0;
};
static const Work* work;

static void at(unsigned int i)
{
    current = i;
    threadIdx = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
}

// From a fibre back to the scheduler, and from the scheduler on with a fibre. AddressSanitizer does not know jumps between stacks.
static void leave()
{
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&running->start, &scheduler_context);
#else
    if (!_setjmp(running->place)) _longjmp(scheduler, 1);
#endif
}

static void resume(Fibre* fibre)
{
    running = fibre;
#ifdef __SANITIZE_ADDRESS__
    swapcontext(&scheduler_context, &fibre->start);
#else
    if (_setjmp(scheduler)) return;
    if (fibre->begun) _longjmp(fibre->place, 1);
    fibre->begun = true;
    setcontext(&fibre->start);
#endif
}

// Begin threads as long as there are any: a thread that waits leaves the next one to another fibre.
static void main_of_fibre()
{
    for (;;) {
        while (begun < count) {
            const unsigned int i = on_cpu_backwards ? count - 1 - begun : begun;
            begun++;
            at(i);
            (*work)();
            threads[current].ended = true;  // not i: that may have been kept in a register across a wait, current is set anew
        }
        idle[idle_count++] = running;
        leave();
    }
}

static Fibre* new_fibre()
{
    if (idle_count) return idle[--idle_count];
    Fibre* fibre = &fibres[fibre_count++];
    getcontext(&fibre->start);
    fibre->start.uc_stack.ss_sp = malloc(STACK);
    fibre->start.uc_stack.ss_size = STACK;
    fibre->start.uc_link = nullptr;
    makecontext(&fibre->start, main_of_fibre, 0);
    return fibre;
}

static void wait(Waiting what)
{
    threads[current].waiting = what;
    threads[current].fibre = running;
    leave();
}

// Go on with threads from `first` on to `stop` if all of them that have not ended wait for `what`; whether any did.
static bool go_on(unsigned int first, unsigned int stop, Waiting what)
{
    bool any = false;
    for (unsigned int i = first; i < stop; i++) {
        if (!threads[i].ended && threads[i].waiting != what) return false;
        any |= !threads[i].ended;
    }
    for (unsigned int i = first; i < stop; i++) threads[i].met = !threads[i].ended;
    for (unsigned int k = first; k < stop; k++) {
        const unsigned int i = on_cpu_backwards ? first + stop - 1 - k : k;
        if (threads[i].ended) continue;
        threads[i].waiting = FOR_NOTHING;
        at(i);
        resume(threads[i].fibre);
    }
    return any;
}

// Not watched by AddressSanitizer, which keeps apart what lies there.
__attribute__((noinline, no_sanitize_address)) static void forget_shared()
{
    for (char* p = __start_on_cpu_shared; p != __stop_on_cpu_shared; p++) *p = -1;
}

static void block()
{
    forget_shared();
    memset(threads, 0, count * sizeof(Thread));
    for (begun = 0; begun < count;) resume(new_fibre());
    for (bool all = false; !all;) {
        bool moved = go_on(0, count, FOR_BLOCK);
        for (unsigned int warp = 0; warp < count; warp += 32) moved |= go_on(warp, warp + 32 < count ? warp + 32 : count, FOR_WARP);
        all = true;
        for (unsigned int i = 0; i < count; i++) all &= threads[i].ended;
        if (!all && !moved) {
            fprintf(stderr, "on_cpu.h: threads of a block wait for each other in different places\n");
            abort();
        }
    }
}

static void launch(const unsigned int* shape, const Work& kernel)
{
    gridDim = {shape[0], shape[1], shape[2]};
    blockDim = {shape[3], shape[4], shape[5]};
    count = blockDim.x * blockDim.y * blockDim.z;
    work = &kernel;
    const unsigned int blocks = gridDim.x * gridDim.y * gridDim.z;
    for (unsigned int i = 0; i < blocks; i++) {
        const unsigned int b = on_cpu_backwards ? blocks - 1 - i : i;
        blockIdx = {b % gridDim.x, b / gridDim.x % gridDim.y, b / gridDim.x / gridDim.y};
        block();
    }
}

// What a parameter is, for the check of arguments: 'p' for a pointer, then 'f', 'i', 'u' or 'b' and the size in bytes.
template <class T> struct Kind {
    static constexpr char letter = T(2) == T(1) ? 'b' : T(0.5) != T(0) ? 'f' : T(-1) < T(0) ? 'i' : 'u';
    static void describe(char* text, bool pointer) { sprintf(text, "%s%c%d", pointer ? "p" : "", letter, int(sizeof(T))); }
};
template <class T> struct Kind<const T> : Kind<T> {};
template <class T> struct Kind<T*> {
    static void describe(char* text, bool) { Kind<T>::describe(text, true); }
};

}  // namespace on_cpu

static inline void __syncthreads() { on_cpu::wait(on_cpu::FOR_BLOCK); }

template <class T> static T __shfl_xor_sync(unsigned int mask, T value, int apart, int width = 32)
{
    static_assert(sizeof(T) <= 8);
    on_cpu::Thread& self = on_cpu::threads[on_cpu::current];
    const int turn = self.turn;
    memcpy(self.value[turn], &value, sizeof(T));
    self.turn = 1 - turn;
    const unsigned int me = on_cpu::current, lane = me % 32, source = me - lane + (lane ^ apart);
    on_cpu::wait(on_cpu::FOR_WARP);
    T result;
    memset(&result, -1, sizeof(T));
    if ((mask >> (lane ^ apart) & 1) && lane / width == (lane ^ apart) / width && source < on_cpu::count) {
        if (on_cpu::threads[source].met) memcpy(&result, on_cpu::threads[source].value[turn], sizeof(T));
    }
    return result;
}

static inline void __threadfence() {}

static inline unsigned int atomicInc(unsigned int* at, unsigned int most)
{
    const unsigned int before = *at;
    *at = before >= most ? 0 : before + 1;
    return before;
}

static inline int atomicMax(int* at, int value)
{
    const int before = *at;
    if (value > before) *at = value;
    return before;
}

static inline float __int_as_float(int bits)
{
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
