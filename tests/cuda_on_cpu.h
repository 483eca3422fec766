// Just enough of CUDA to run kipx's kernels on a CPU: the threads of a block are fibers that take turns at every barrier
// and at every exchange between lanes.
#include <ucontext.h>

#include <algorithm>
#include <cassert>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

using std::abs;
using std::max;
using std::min;

#define __global__
#define __device__
#define __shared__
#define __launch_bounds__(...)

struct float2 {
    float x, y;
};
struct double2 {
    double x, y;
};
struct Index {
    int x, y;
};

constexpr size_t STACK = 1 << 15;
template <typename To, typename From>
static To as(From from) {
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

static float __uint_as_float(unsigned x) { return as<float>(x); }
static unsigned __float_as_uint(float x) { return as<unsigned>(x); }
static double __longlong_as_double(long long x) { return as<double>(x); }
static int __double2hiint(double x) { return as<long long>(x) >> 32; }
static int __double2loint(double x) { return as<long long>(x); }
static double __hiloint2double(int high, int low) { return as<double>((long long)high << 32 | (unsigned)low); }
static unsigned __funnelshift_l(unsigned low, unsigned high, unsigned by) { return high << by | low >> (32 - by); }

static Index threadIdx, blockIdx;
static ucontext_t scheduler, *fiber;
double shared[1 << 16];
static double exchanged[2][2048];
static int turn_of[2048];

static void take_turns() {
    int me = threadIdx.x;
    ucontext_t *own = fiber;
    swapcontext(own, &scheduler);
    threadIdx.x = me;
}

static void __syncthreads() { take_turns(); }

template <typename T>
static T exchange(T value, int from, bool inside, int width) {
    assert(width <= 32);  // a warp: what wider exchanges do CUDA does not say
    int slot = turn_of[threadIdx.x]++ & 1, me = threadIdx.x;
    exchanged[slot][me] = value;
    take_turns();
    return inside ? T(exchanged[slot][from]) : value;
}

template <typename T>
static T __shfl_up_sync(unsigned, T value, int by, int width) {
    int me = threadIdx.x;
    return exchange(value, me - by, me % width >= by, width);
}

template <typename T>
static T __shfl_down_sync(unsigned, T value, int by, int width) {
    int me = threadIdx.x;
    return exchange(value, me + by, me % width < width - by, width);
}

static void (*body)();

static void enter() {
    body();
    fiber = nullptr;
}

// Runs `run` for every thread of a block, all of them up to the next barrier in turn.
static void run_block(int threads, void (*run)()) {
    static std::vector<char> stacks((size_t)threads * STACK);
    static ucontext_t fibers[2048];
    static bool done[2048];
    body = run;
    for (int i = 0; i < threads; i++) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks.data() + (size_t)i * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], enter, 0);
        done[i] = false;
        turn_of[i] = 0;
    }
    for (int left = threads; left > 0;)
        for (int i = 0; i < threads; i++) {
            if (done[i]) continue;
            threadIdx = {i, 0};
            fiber = &fibers[i];
            swapcontext(&scheduler, &fibers[i]);
            if (fiber == nullptr) done[i] = true, left--;
        }
}
