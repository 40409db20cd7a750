// SPDX-License-Identifier: MIT
#include "runtime.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <vector>

host_dimensions threadIdx, blockIdx, blockDim, gridDim;

// Keeps a stack's registers and goes on with another one's. swapcontext's calls of the system would take most of the
// time.
extern "C" void host_switch(void **from, void *to);
asm(R"(
.text
.globl host_switch
host_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

namespace {

enum thread_state { RUNS, AT_WARP, AT_BLOCK, WAITS, ENDED };
enum { STACK_BYTES = 128 * 1024, SAVED_REGISTERS = 6, MOST_WAITS = 10000, PRINTED_COMPLAINTS = 8 };

struct copy {
    char *to;
    const char *from;
    int bytes;
};

struct thread {
    char *stack = nullptr;
    void *top = nullptr;
    thread_state state = ENDED;
    host_meeting meeting = HOST_BARRIER;
    std::vector<copy> copies;   // not yet made
    std::vector<size_t> groups; // how many of them each commit closed
};

// Two rows in turn: who is first at the next exchange leaves alone what others still read of this one.
struct warp {
    uint32_t words[2][HOST_WARP * HOST_WORDS];
    unsigned turn[HOST_WARP];
};

struct range {
    const char *begin, *end;
};

std::vector<thread> threads;
std::vector<warp> warps;
std::vector<range> allowed;
host_launch launch;
void (*kernel)(const uint64_t *);
const uint64_t *arguments;
void *scheduler;
unsigned current;
uint64_t random_state;
int n_complaints;

void stop(thread_state state) {
    threads[current].state = state;
    host_switch(&threads[current].top, scheduler);
}

void run_thread() {
    kernel(arguments);
    stop(ENDED);
    abort();
}

void make(const copy &one) { memcpy(one.to, one.from, (size_t)one.bytes); }

void begin_thread(thread *one) {
    if (!one->stack)
        one->stack = (char *)mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    one->state = RUNS;
    one->copies.clear();
    one->groups.clear();
    void **top = (void **)(one->stack + STACK_BYTES - 64);
    *--top = nullptr; // the caller of run_thread: the stack is as aligned as behind a call
    *--top = (void *)run_thread;
    for (int i = 0; i < SAVED_REGISTERS; i++) *--top = nullptr;
    one->top = top;
}

// The lane that is number i to run.
unsigned lane_of(unsigned i, unsigned turn) {
    enum { ODD = 13 };
    return launch.order == 0 ? i : launch.order == 1 ? HOST_WARP - 1 - i : (i * ODD + turn) % HOST_WARP;
}

// Where all lanes are at one meeting, they go on.
bool end_meeting(unsigned begin) {
    unsigned n_met = 0, n_ended = 0;
    const thread *first = nullptr;
    bool differ = false;
    for (unsigned i = begin; i < begin + HOST_WARP; i++) {
        const thread &one = threads[i];
        n_ended += one.state == ENDED;
        if (one.state != AT_WARP) continue;
        n_met++;
        if (!first) first = &one;
        differ |= one.meeting != first->meeting;
    }
    if (!n_met || n_met + n_ended < HOST_WARP) return false;
    if (differ) host_complain("lanes of a warp are at different operations", (uint64_t)first->meeting);
    if (n_ended) host_complain("an operation of a warp without lanes that have ended", n_ended);
    for (unsigned i = begin; i < begin + HOST_WARP; i++)
        if (threads[i].state == AT_WARP) threads[i].state = RUNS;
    return true;
}

// As far as it comes without other warps; whether that was anywhere.
bool run_warp(unsigned number) {
    unsigned begin = number * HOST_WARP;
    bool moved = false;
    for (;;) {
        bool ran = false;
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        unsigned turn = (unsigned)(random_state >> 40);
        for (unsigned i = 0; i < HOST_WARP; i++) {
            current = begin + lane_of(i, turn);
            if (threads[current].state != RUNS) continue;
            threadIdx.x = current;
            ran = true;
            host_switch(&scheduler, threads[current].top);
        }
        ran |= end_meeting(begin);
        if (!ran) return moved;
        moved = true;
    }
}

unsigned count(thread_state state) {
    unsigned n = 0;
    for (unsigned i = 0; i < launch.block; i++) n += threads[i].state == state;
    return n;
}

void release(thread_state state) {
    for (unsigned i = 0; i < launch.block; i++)
        if (threads[i].state == state) threads[i].state = RUNS;
}

void run_block() {
    unsigned n_warps = (unsigned)warps.size();
    for (unsigned n_waits = 0; count(ENDED) < launch.block;) {
        bool moved = false;
        for (unsigned i = 0; i < n_warps; i++) {
            unsigned mixed = (i + launch.order * 7 + n_waits) % n_warps;
            moved |= run_warp(launch.order == 0 ? i : launch.order == 1 ? n_warps - 1 - i : mixed);
        }
        unsigned left = launch.block - count(ENDED);
        bool waits = count(WAITS);
        if (left && count(AT_BLOCK) == left) {
            release(AT_BLOCK);
            moved = true;
        }
        release(WAITS);
        if (left && !moved) return host_complain("threads wait for each other", left);
        if (waits && ++n_waits > MOST_WAITS) return host_complain("a wait without end", left);
    }
}

} // namespace

extern "C" {

void host_complain(const char *what, uint64_t value) {
    if (n_complaints++ < PRINTED_COMPLAINTS)
        printf("    %s: 0x%llx in block %u, thread %u\n", what, (unsigned long long)value, blockIdx.x, threadIdx.x);
}
int host_complaints(void) { return n_complaints; }

void host_allow(const void *memory, size_t bytes) {
    allowed.push_back({(const char *)memory, (const char *)memory + bytes});
}
void host_forbid_all(void) { allowed.clear(); }

void host_check_memory(const void *memory, size_t bytes) {
    static size_t last;
    const char *begin = (const char *)memory;
    auto holds = [&](const range &one) { return begin >= one.begin && begin + bytes <= one.end; };
    if ((uintptr_t)memory % bytes) host_complain("device memory misaligned", (uintptr_t)memory);
    if (last < allowed.size() && holds(allowed[last])) return;
    for (last = 0; last < allowed.size(); last++)
        if (holds(allowed[last])) return;
    host_complain("device memory out of range", (uintptr_t)memory);
}

void host_block_barrier(void) { stop(AT_BLOCK); }
void host_wait_a_while(void) { stop(WAITS); }
void host_warp_barrier(void) {
    threads[current].meeting = HOST_BARRIER;
    stop(AT_WARP);
}

const uint32_t *host_exchange(host_meeting meeting, const uint32_t *words, int n) {
    warp &own = warps[current / HOST_WARP];
    unsigned lane = current % HOST_WARP, turn = own.turn[lane]++ % 2;
    memcpy(own.words[turn] + lane * HOST_WORDS, words, (size_t)n * sizeof *words);
    threads[current].meeting = meeting;
    stop(AT_WARP);
    return own.words[turn];
}

void host_copy(char *to, const char *from, int bytes) {
    copy one = {to, from, bytes};
    if (!launch.is_late) return make(one);
    memset(to, launch.poison, (size_t)bytes);
    threads[current].copies.push_back(one);
}
void host_commit(void) { threads[current].groups.push_back(threads[current].copies.size()); }

void host_finish(int pending) {
    thread &own = threads[current];
    if (own.groups.size() <= (size_t)pending) return;
    size_t n_groups = own.groups.size() - (size_t)pending, n_copies = own.groups[n_groups - 1];
    for (size_t i = 0; i < n_copies; i++) make(own.copies[i]);
    own.copies.erase(own.copies.begin(), own.copies.begin() + (ptrdiff_t)n_copies);
    own.groups.erase(own.groups.begin(), own.groups.begin() + (ptrdiff_t)n_groups);
    for (size_t &end : own.groups) end -= n_copies;
}

void host_run_blocks(const host_launch *of, char *dynamic, char *fixed, size_t fixed_bytes,
                     void (*run)(const uint64_t *), const uint64_t *with) {
    launch = *of;
    kernel = run;
    arguments = with;
    random_state = launch.order;
    blockDim = {launch.block, 1, 1};
    gridDim = {launch.grid, 1, 1};
    if (threads.size() < launch.block) threads.resize(launch.block);
    warps.resize(launch.block / HOST_WARP);
    for (unsigned block = 0; block < launch.grid; block += launch.every) {
        blockIdx = {block, 0, 0};
        memset(dynamic, launch.poison, HOST_MOST_SHARED);
        memset(fixed, launch.poison, fixed_bytes);
        memset(warps.data(), 0, warps.size() * sizeof(warp));
        for (unsigned i = 0; i < launch.block; i++) begin_thread(&threads[i]);
        run_block();
    }
}
}
