/* The four statistics of many gradients in one read: norm, largest magnitude, non-finite and zero entries.
 *
 * A vectorised loop that sums squares, takes the largest magnitude and counts zeros costs little more than reading.
 * Integer comparisons of the bits find the largest magnitude and the non-finite entries, so the loop has no branch.
 * Squares of short blocks are summed in float32. A block that could overflow or underflow there, or that holds a
 * non-finite entry, is summed again in float64.
 *
 * Called by ctypes. Threads come from the OpenMP library that torch has loaded, by the address of its entry
 * GOMP_parallel, so that two libraries never compete for the processors.
 */

#include <math.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#if defined(__x86_64__) && defined(__linux__) && defined(__GLIBC__)
#define EVERY_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define EVERY_PROCESSOR
#endif

enum { FLOAT32, BFLOAT16, FLOAT16, FLOAT64 };
enum { NORM, ABS_MAX, NONFINITE, ZEROS, STATS };

#define BLOCK 1024         /* entries whose squares are summed in float32 */
#define CHUNK (64 * BLOCK) /* entries that a thread takes at a time */
#define AHEAD 2048         /* bytes to prefetch */

typedef struct {
    double squares, abs_max;
    int64_t nonfinite, zeros;
} Found;

static inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The magnitude of an entry as float32 bits. Those of float16 stand for 2^-112 times the value: one rule for all. */
#define BITS_FLOAT32(p) ((p) & 0x7fffffffu)
#define BITS_BFLOAT16(p) (((uint32_t)(p) & 0x7fffu) << 16)
#define BITS_FLOAT16(p) (((uint32_t)(p) & 0x7fffu) << 13)
#define SCALE_FLOAT16 0x1p112f
#define LARGE 1e17f  /* 1,024 squares of it stay below the largest float32 */
#define SMALL 1e-15f /* squares of less lose digits in float32 */

/* One block of a type: squares, largest bits and zeros in one loop; again in float64 where float32 is not enough. */
#define DEFINE_BLOCK(NAME, TYPE, BITS, SCALE, FIRST_NONFINITE)                                                         \
    EVERY_PROCESSOR static void NAME(const TYPE *restrict p, int64_t n, Found *found) {                               \
        for (int64_t start = 0; start < n; start += BLOCK) {                                                          \
            const TYPE *restrict q = p + start;                                                                       \
            const int32_t length = (int32_t)(n - start < BLOCK ? n - start : BLOCK);                                  \
            float squares = 0.0f;                                                                                     \
            int32_t largest = 0, zeros = 0;                                                                           \
            for (int32_t i = 0; i < length; i += 256) {                                                               \
                const int32_t end = length < i + 256 ? length : i + 256;                                              \
                for (int32_t ahead = 0; ahead < 256 * (int32_t)sizeof(TYPE); ahead += 64)                             \
                    __builtin_prefetch((const char *)(q + i) + AHEAD + ahead);                                        \
                for (int32_t j = i; j < end; j++) {                                                                   \
                    const int32_t bits = (int32_t)BITS(q[j]);                                                         \
                    const float x = float_of((uint32_t)bits) * SCALE;                                                 \
                    squares += x * x;                                                                                 \
                    largest = bits > largest ? bits : largest;                                                        \
                    zeros += bits == 0;                                                                               \
                }                                                                                                     \
            }                                                                                                         \
            found->zeros += zeros;                                                                                    \
            const float abs_max = float_of((uint32_t)largest) * SCALE;                                                \
            if (largest < FIRST_NONFINITE && abs_max < LARGE && (abs_max > SMALL || largest == 0)) {                  \
                found->squares += squares;                                                                            \
                if (abs_max > found->abs_max) found->abs_max = abs_max;                                               \
            } else {                                                                                                  \
                for (int32_t j = 0; j < length; j++) {                                                                \
                    const int32_t bits = (int32_t)BITS(q[j]);                                                         \
                    add(found, bits >= FIRST_NONFINITE                                                                \
                                   ? (bits == FIRST_NONFINITE ? HUGE_VAL : (double)NAN)                               \
                                   : (double)float_of((uint32_t)bits) * SCALE);                                       \
                }                                                                                                     \
            }                                                                                                         \
        }                                                                                                             \
    }

/* Once a NaN was met, the largest magnitude stays NaN. */
static inline void add(Found *found, double magnitude) {
    found->squares += magnitude * magnitude;
    if (!(magnitude <= found->abs_max) && !isnan(found->abs_max)) found->abs_max = magnitude;
    if (!isfinite(magnitude)) found->nonfinite++;
}

DEFINE_BLOCK(block_float32, uint32_t, BITS_FLOAT32, 1.0f, 0x7f800000)
DEFINE_BLOCK(block_bfloat16, uint16_t, BITS_BFLOAT16, 1.0f, 0x7f800000)
DEFINE_BLOCK(block_float16, uint16_t, BITS_FLOAT16, SCALE_FLOAT16, 0x7c00 << 13)

EVERY_PROCESSOR static void block_float64(const uint64_t *restrict p, int64_t n, Found *found) {
    double squares = 0.0;
    int64_t largest = 0, zeros = 0;
    for (int64_t i = 0; i < n; i++) {
        const int64_t bits = (int64_t)(p[i] & 0x7fffffffffffffffu);
        double x;
        memcpy(&x, &bits, sizeof x);
        squares += x * x;
        largest = bits > largest ? bits : largest;
        zeros += bits == 0;
    }
    found->zeros += zeros;
    if (largest < 0x7ff0000000000000) {
        double abs_max;
        memcpy(&abs_max, &largest, sizeof abs_max);
        found->squares += squares;
        if (abs_max > found->abs_max) found->abs_max = abs_max;
        return;
    }
    for (int64_t i = 0; i < n; i++) {
        double x;
        memcpy(&x, p + i, sizeof x);
        add(found, fabs(x));
    }
}

static void measure_chunk(const void *entries, int64_t from, int64_t n, int type, Found *found) {
    switch (type) {
    case FLOAT32:
        block_float32((const uint32_t *)entries + from, n, found);
        break;
    case BFLOAT16:
        block_bfloat16((const uint16_t *)entries + from, n, found);
        break;
    case FLOAT16:
        block_float16((const uint16_t *)entries + from, n, found);
        break;
    default:
        block_float64((const uint64_t *)entries + from, n, found);
    }
}

/* The norm of finite float64 entries whose squares overflow or underflow. */
static double careful_norm(const double *entries, int64_t n, double scale) {
    double squares = 0.0;
    for (int64_t i = 0; i < n; i++) {
        const double x = entries[i] / scale;
        squares += x * x;
    }
    return sqrt(squares) * scale;
}

typedef struct {
    int64_t tensor, from, length;
    Found found;
} Chunk;

typedef struct {
    const void *const *entries;
    const int8_t *types;
    Chunk *chunks;
    int64_t count;
    atomic_llong next;
} Work;

/* torch.set_flush_denormal(True) makes the processor read subnormal numbers as 0, which a float16 below 6e-5 is
 * while its bits are a float32. Each thread measures without that mode and restores it. */
#if defined(__SSE__)
#define FLUSH_DENORMAL 0x8040u
static unsigned keep_denormals(void) {
    const unsigned before = _mm_getcsr();
    _mm_setcsr(before & ~FLUSH_DENORMAL);
    return before;
}
static void restore_mode(unsigned before) { _mm_setcsr(before); }
#elif defined(__aarch64__)
#define FLUSH_DENORMAL (1ull << 24)
static uint64_t keep_denormals(void) {
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before & ~FLUSH_DENORMAL));
    return before;
}
static void restore_mode(uint64_t before) { __asm__ volatile("msr fpcr, %0" : : "r"(before)); }
#else
static unsigned keep_denormals(void) { return 0; }
static void restore_mode(unsigned before) { (void)before; }
#endif

/* Not inlined, so that no arithmetic moves across a change of the mode. */
#define APART __attribute__((noinline))

APART static void take_chunks(Work *w) {
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        if (i >= w->count) return;
        Chunk *chunk = &w->chunks[i];
        measure_chunk(w->entries[chunk->tensor], chunk->from, chunk->length, w->types[chunk->tensor], &chunk->found);
    }
}

static void work(void *data) {
    const __typeof__(keep_denormals()) before = keep_denormals();
    take_chunks(data);
    restore_mode(before);
}

typedef void (*Parallel)(void (*)(void *), void *, unsigned, unsigned);

APART static int measure(const void *const *entries, const int64_t *sizes, const int8_t *types, int64_t tensors,
                         Parallel parallel, unsigned threads, double *out) {
    int64_t count = 0, total = 0;
    for (int64_t t = 0; t < tensors; t++) {
        count += (sizes[t] + CHUNK - 1) / CHUNK;
        total += sizes[t];
    }
    Chunk *chunks = calloc((size_t)(count ? count : 1), sizeof *chunks);
    if (chunks == NULL) return -1;
    int64_t c = 0;
    for (int64_t t = 0; t < tensors; t++)
        for (int64_t from = 0; from < sizes[t]; from += CHUNK, c++) {
            chunks[c].tensor = t;
            chunks[c].from = from;
            chunks[c].length = sizes[t] - from < CHUNK ? sizes[t] - from : CHUNK;
        }
    Work w = {.entries = entries, .types = types, .chunks = chunks, .count = count};
    atomic_init(&w.next, 0);
    if (parallel != NULL && threads > 1 && total > 2 * CHUNK && count > 1)
        parallel(work, &w, threads, 0);
    else
        work(&w);
    /* In the order of the entries, so that the result does not depend on which thread was faster. */
    Found *sums = calloc((size_t)(tensors ? tensors : 1), sizeof *sums);
    if (sums == NULL) {
        free(chunks);
        return -1;
    }
    for (c = 0; c < count; c++) {
        Found *sum = &sums[chunks[c].tensor];
        const Found *part = &chunks[c].found;
        sum->squares += part->squares;
        if (!(part->abs_max <= sum->abs_max) && !isnan(sum->abs_max)) sum->abs_max = part->abs_max;
        sum->nonfinite += part->nonfinite;
        sum->zeros += part->zeros;
    }
    for (int64_t t = 0; t < tensors; t++) {
        const Found *sum = &sums[t];
        double norm = sqrt(sum->squares);
        if (types[t] == FLOAT64 && !sum->nonfinite && sum->abs_max > 0 && (isinf(norm) || sum->abs_max < 1e-150))
            norm = careful_norm(entries[t], sizes[t], sum->abs_max);
        out[STATS * t + NORM] = norm;
        out[STATS * t + ABS_MAX] = sum->abs_max;
        out[STATS * t + NONFINITE] = (double)sum->nonfinite;
        out[STATS * t + ZEROS] = (double)sum->zeros;
    }
    free(sums);
    free(chunks);
    return 0;
}

/* Measure `tensors` gradients into `out`, STATS doubles each. Returns 0, or -1 where there is no memory. */
int gradwatch_measure(const void *const *entries, const int64_t *sizes, const int8_t *types, int64_t tensors,
                      Parallel parallel, unsigned threads, double *out) {
    const __typeof__(keep_denormals()) before = keep_denormals();
    const int failed = measure(entries, sizes, types, tensors, parallel, threads, out);
    restore_mode(before);
    return failed;
}
