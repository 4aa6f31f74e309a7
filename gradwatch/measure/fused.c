/* The four statistics of many gradients in one read: norm, largest magnitude, non-finite and zero entries.
 *
 * A vectorised loop that sums squares, takes the largest magnitude and counts zeros costs little more than reading.
 * Integer comparisons of the bits find the largest magnitude and the non-finite entries, so the loop has no branch.
 * Squares of short blocks are summed in float32. A block that could overflow or underflow there, or that holds a
 * non-finite entry, is summed again in float64.
 *
 * Called by ctypes. Threads come from the OpenMP library that torch has loaded, by the address of its entry
 * GOMP_parallel, so that two libraries never compete for the processors. While PyTorch reads the same gradients for its
 * own norm, which takes it one thread, a helper thread reads along.
 */

#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
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

#define LINE 64            /* bytes of a line of the caches */
#define RUNS_AHEAD 4       /* runs of a sample that are asked for before they are read */
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

/* The chunks of `tensors` gradients, which any number of threads may take. Returns 0, or -1 where there is no memory. */
static int plan(Work *w, const void *const *entries, const int64_t *sizes, const int8_t *types, int64_t tensors) {
    int64_t count = 0, c = 0;
    for (int64_t t = 0; t < tensors; t++) count += (sizes[t] + CHUNK - 1) / CHUNK;
    Chunk *chunks = calloc((size_t)(count ? count : 1), sizeof *chunks);
    if (chunks == NULL) return -1;
    for (int64_t t = 0; t < tensors; t++)
        for (int64_t from = 0; from < sizes[t]; from += CHUNK, c++) {
            chunks[c].tensor = t;
            chunks[c].from = from;
            chunks[c].length = sizes[t] - from < CHUNK ? sizes[t] - from : CHUNK;
        }
    *w = (Work){.entries = entries, .types = types, .chunks = chunks, .count = count};
    atomic_init(&w->next, 0);
    return 0;
}

/* What the chunks add up to, in the order of the entries, so that the result does not depend on which thread was
 * faster. */
APART static int add_up(const Work *w, const int64_t *sizes, int64_t tensors, double *out) {
    Found *sums = calloc((size_t)(tensors ? tensors : 1), sizeof *sums);
    if (sums == NULL) return -1;
    for (int64_t c = 0; c < w->count; c++) {
        Found *sum = &sums[w->chunks[c].tensor];
        const Found *part = &w->chunks[c].found;
        sum->squares += part->squares;
        if (!(part->abs_max <= sum->abs_max) && !isnan(sum->abs_max)) sum->abs_max = part->abs_max;
        sum->nonfinite += part->nonfinite;
        sum->zeros += part->zeros;
    }
    for (int64_t t = 0; t < tensors; t++) {
        const Found *sum = &sums[t];
        double norm = sqrt(sum->squares);
        if (w->types[t] == FLOAT64 && !sum->nonfinite && sum->abs_max > 0 && (isinf(norm) || sum->abs_max < 1e-150))
            norm = careful_norm(w->entries[t], sizes[t], sum->abs_max);
        out[STATS * t + NORM] = norm;
        out[STATS * t + ABS_MAX] = sum->abs_max;
        out[STATS * t + NONFINITE] = (double)sum->nonfinite;
        out[STATS * t + ZEROS] = (double)sum->zeros;
    }
    free(sums);
    return 0;
}

/* Measure `tensors` gradients into `out`, STATS doubles each. Returns 0, or -1 where there is no memory. */
int gradwatch_measure(const void *const *entries, const int64_t *sizes, const int8_t *types, int64_t tensors,
                      Parallel parallel, unsigned threads, double *out) {
    Work w;
    if (plan(&w, entries, sizes, types, tensors)) return -1;
    int64_t total = 0;
    for (int64_t t = 0; t < tensors; t++) total += sizes[t];
    if (parallel != NULL && threads > 1 && total > 2 * CHUNK && w.count > 1)
        parallel(work, &w, threads, 0);
    else
        work(&w);
    const __typeof__(keep_denormals()) before = keep_denormals();
    const int failed = add_up(&w, sizes, tensors, out);
    restore_mode(before);
    free(w.chunks);
    return failed;
}

/* The thread that reads while the one that trains does something else. It is started for the first reading, and waits
 * for the next one as long as the process lives. */
static struct {
    pthread_mutex_t lock;
    pthread_cond_t begun, ended;
    Work *work;               /* that may be taken; NULL: none */
    int is_taken, is_running; /* by the helper */
    int is_started;
} helper = {.lock = PTHREAD_MUTEX_INITIALIZER, .begun = PTHREAD_COND_INITIALIZER, .ended = PTHREAD_COND_INITIALIZER};

static void *help(void *unused) {
    (void)unused;
    pthread_mutex_lock(&helper.lock);
    for (;;) {
        while (helper.work == NULL || helper.is_taken) pthread_cond_wait(&helper.begun, &helper.lock);
        Work *w = helper.work;
        helper.is_taken = helper.is_running = 1;
        pthread_mutex_unlock(&helper.lock);
        work(w);
        pthread_mutex_lock(&helper.lock);
        helper.is_running = 0;
        pthread_cond_signal(&helper.ended);
    }
    return NULL;
}

/* A forked child has no helper, and whoever held the lock is not there either. */
static void forget_helper(void) {
    pthread_mutex_init(&helper.lock, NULL);
    pthread_cond_init(&helper.begun, NULL);
    pthread_cond_init(&helper.ended, NULL);
    helper.work = NULL;
    helper.is_taken = helper.is_running = helper.is_started = 0;
}

static void expect_forks(void) { pthread_atfork(NULL, NULL, forget_helper); }

/* Start the helper, which takes no signal of the process: their handlers belong to Python's threads. */
static int start_helper(void) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, expect_forks);
    sigset_t all, before;
    sigfillset(&all);
    if (pthread_sigmask(SIG_SETMASK, &all, &before)) return -1;
    pthread_t thread;
    const int failed = pthread_create(&thread, NULL, help, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed) return -1;
    pthread_detach(thread);
    helper.is_started = 1;
    return 0;
}

/* Begin to measure in the helper, what is passed staying as it is until `gradwatch_finish_reading`, which takes what
 * `begun` points to; that stays NULL where it can't be. It is written here, since an interrupt (Ctrl-C) may keep the
 * caller from what a function returns. */
void gradwatch_begin_reading(const void *const *entries, const int64_t *sizes, const int8_t *types, int64_t tensors,
                             void **begun) {
    Work *w = malloc(sizeof *w);
    if (w == NULL) return;
    if (plan(w, entries, sizes, types, tensors)) {
        free(w);
        return;
    }
    pthread_mutex_lock(&helper.lock);
    const int is_free = helper.work == NULL && (helper.is_started || !start_helper());
    if (is_free) {
        helper.work = w;
        *begun = w;
        pthread_cond_signal(&helper.begun);
    }
    pthread_mutex_unlock(&helper.lock);
    if (is_free) return;
    free(w->chunks);
    free(w);
}

/* Read what the helper has not, wait for what it is reading, and write the results to `out`; with NULL, only let go of
 * everything. Leaves NULL in `begun`, and does nothing where it finds that. Returns 0, or -1 where there is no
 * memory. */
int gradwatch_finish_reading(void **begun, const int64_t *sizes, int64_t tensors, double *out) {
    Work *w = *begun;
    if (w == NULL) return 0;
    if (out == NULL) atomic_store(&w->next, w->count);
    work(w);
    pthread_mutex_lock(&helper.lock);
    if (helper.work == w) { /* not in a forked child */
        helper.work = NULL;
        while (helper.is_running) pthread_cond_wait(&helper.ended, &helper.lock);
        helper.is_taken = 0;
    }
    pthread_mutex_unlock(&helper.lock);
    const __typeof__(keep_denormals()) before = keep_denormals();
    const int failed = out == NULL ? 0 : add_up(w, sizes, tensors, out);
    restore_mode(before);
    free(w->chunks);
    free(w);
    *begun = NULL;
    return failed;
}

/* The update of an optimizer as its state says right after the step, in one read of gradient, moments and weights.
 *
 * Adam:  d = m / (sqrt(v) * root_scale + eps), with the largest v so far where amsgrad keeps one
 * SGD:   d = of_gradient * g + of_moment * m, where g has the sign of the objective
 * Both:  w_before = (w + rate * d) / (1 - rate * decay), and the update is rate * (d + decay * w_before)
 *
 * `decay` is the weight decay that is added to the step itself. `coupled` is the one that is added to the gradient
 * before the moments, which contain it.
 */
enum { UPDATE_NORM, WEIGHT_NORM, RMS_RATIO, SECOND_MOMENT, UPDATE_STATS };

typedef struct {
    const void *weight, *gradient, *moment, *square, *largest; /* the last three: null where there is none */
    int64_t type, runs, length, stride; /* reads `runs` times `length` entries that begin `stride` apart */
    int64_t size;                       /* entries of the whole, of which the last run may be cut off */
    double rate, decay, coupled, sign, of_gradient, of_moment, root_scale, square_scale, eps;
} Update;

typedef struct {
    double update, weight, ratio, square;
} Sums;

#define SMALLEST 1.2e-38 /* the smallest normal float32 */
#define LOAD_FLOAT32(p) (p)
#define LOAD_BFLOAT16(p) float_of((uint32_t)(p) << 16)

/* Sums over one run in the precision of REAL. */
#define DEFINE_RUN(NAME, TYPE, LOAD, REAL, ROOT)                                                                       \
    EVERY_PROCESSOR static void NAME(const Update *u, int64_t at, int32_t n, Sums *sums) {                            \
        const TYPE *restrict w = (const TYPE *)u->weight + at, *restrict g = (const TYPE *)u->gradient + at;          \
        const REAL rate = (REAL)u->rate, decay = (REAL)u->decay, sign = (REAL)u->sign;                                \
        const REAL inverse = (REAL)(1.0 / (1.0 - u->rate * u->decay));                                                \
        REAL update = 0, weight = 0, ratio = 0, square = 0;                                                           \
        if (u->square != NULL) {                                                                                      \
            const TYPE *restrict m = (const TYPE *)u->moment + at, *restrict v = (const TYPE *)u->square + at;        \
            const TYPE *restrict l = (const TYPE *)(u->largest != NULL ? u->largest : u->square) + at;                \
            const REAL root_scale = (REAL)u->root_scale, eps = (REAL)u->eps, coupled = (REAL)u->coupled;              \
            const REAL scale = (REAL)u->square_scale;                                                                 \
            const REAL floor = (REAL)(u->eps * u->eps > SMALLEST ? u->eps * u->eps : SMALLEST);                       \
            for (int32_t i = 0; i < n; i++) {                                                                         \
                const REAL d = (REAL)LOAD(m[i]) / (ROOT((REAL)LOAD(l[i])) * root_scale + eps);                        \
                const REAL before = ((REAL)LOAD(w[i]) + rate * d) * inverse, step = d + decay * before;               \
                const REAL x = sign * (REAL)LOAD(g[i]) + coupled * before, s = (REAL)LOAD(v[i]) * scale;              \
                update += step * step;                                                                                \
                weight += before * before;                                                                            \
                ratio += x * x / (s <= floor ? floor : s);                                                            \
                square += s;                                                                                          \
            }                                                                                                         \
        } else {                                                                                                      \
            const TYPE *restrict m = (const TYPE *)(u->moment != NULL ? u->moment : u->gradient) + at;                \
            const REAL of_gradient = (REAL)(u->of_gradient * u->sign), of_moment = (REAL)u->of_moment;                \
            for (int32_t i = 0; i < n; i++) {                                                                         \
                const REAL d = of_gradient * (REAL)LOAD(g[i]) + of_moment * (REAL)LOAD(m[i]);                         \
                const REAL before = ((REAL)LOAD(w[i]) + rate * d) * inverse, step = d + decay * before;               \
                update += step * step;                                                                                \
                weight += before * before;                                                                            \
            }                                                                                                         \
        }                                                                                                             \
        sums->update += update;                                                                                       \
        sums->weight += weight;                                                                                       \
        sums->ratio += ratio;                                                                                         \
        sums->square += square;                                                                                       \
    }

DEFINE_RUN(run_float32, float, LOAD_FLOAT32, float, sqrtf)
DEFINE_RUN(careful_float32, float, LOAD_FLOAT32, double, sqrt)
DEFINE_RUN(run_bfloat16, uint16_t, LOAD_BFLOAT16, float, sqrtf)
DEFINE_RUN(careful_bfloat16, uint16_t, LOAD_BFLOAT16, double, sqrt)

static int is_doubtful(double sum) { return !isfinite(sum) || (sum > 0 && sum < 1e-25); }

static void sum_run(const Update *u, int64_t at, int32_t n, Sums *sums) {
    Sums own = {0, 0, 0, 0};
    (u->type == BFLOAT16 ? run_bfloat16 : run_float32)(u, at, n, &own);
    /* Squares that overflow or lose digits in float32 are summed again. */
    if (is_doubtful(own.update) || is_doubtful(own.weight) || is_doubtful(own.ratio) || is_doubtful(own.square)) {
        own = (Sums){0, 0, 0, 0};
        (u->type == BFLOAT16 ? careful_bfloat16 : careful_float32)(u, at, n, &own);
    }
    sums->update += own.update;
    sums->weight += own.weight;
    sums->ratio += own.ratio;
    sums->square += own.square;
}

typedef struct {
    int64_t tensor, first, runs;
    Sums sums;
} Share;

typedef struct {
    const Update *updates;
    Share *shares;
    int64_t count;
    atomic_llong next;
} UpdateWork;

/* Ask for the memory of a run while those before it are read: a sampled run lies on pages of its own, which the
 * processor does not foresee. Inlined, since GCC drops the call of a function that only asks. */
static inline __attribute__((always_inline)) void expect_run(const Update *u, int64_t at) {
    const void *const arrays[] = {u->weight, u->gradient, u->moment, u->square, u->largest};
    const int64_t bytes = u->type == BFLOAT16 ? 2 : 4;
    for (size_t a = 0; a < sizeof arrays / sizeof *arrays; a++)
        if (arrays[a] != NULL)
            for (int64_t i = 0; i < u->length * bytes; i += LINE)
                __builtin_prefetch((const char *)arrays[a] + at * bytes + i);
}

APART static void take_shares(UpdateWork *w) {
    for (;;) {
        const int64_t i = atomic_fetch_add_explicit(&w->next, 1, memory_order_relaxed);
        if (i >= w->count) return;
        Share *share = &w->shares[i];
        const Update *u = &w->updates[share->tensor];
        for (int64_t run = share->first; run < share->first + share->runs; run++) {
            const int64_t at = run * u->stride, left = u->size - at;
            if (u->stride > u->length && run + RUNS_AHEAD < share->first + share->runs)
                expect_run(u, at + RUNS_AHEAD * u->stride);
            sum_run(u, at, (int32_t)(left < u->length ? left : u->length), &share->sums);
        }
    }
}

static void update_work(void *data) {
    const __typeof__(keep_denormals()) before = keep_denormals();
    take_shares(data);
    restore_mode(before);
}

APART static int measure_updates(const Update *updates, int64_t tensors, Parallel parallel, unsigned threads,
                                 double *out) {
    int64_t count = 0, total = 0;
    for (int64_t t = 0; t < tensors; t++) {
        const int64_t runs = CHUNK / updates[t].length / 4;
        count += (updates[t].runs + runs - 1) / runs;
        total += updates[t].runs * updates[t].length;
    }
    Share *shares = calloc((size_t)(count ? count : 1), sizeof *shares);
    if (shares == NULL) return -1;
    int64_t s = 0;
    for (int64_t t = 0; t < tensors; t++) {
        const int64_t runs = CHUNK / updates[t].length / 4;
        for (int64_t first = 0; first < updates[t].runs; first += runs, s++) {
            shares[s].tensor = t;
            shares[s].first = first;
            shares[s].runs = updates[t].runs - first < runs ? updates[t].runs - first : runs;
        }
    }
    UpdateWork w = {.updates = updates, .shares = shares, .count = count};
    atomic_init(&w.next, 0);
    if (parallel != NULL && threads > 1 && total > CHUNK / 2 && count > 1)
        parallel(update_work, &w, threads, 0);
    else
        update_work(&w);
    for (int64_t i = 0; i < UPDATE_STATS * tensors; i++) out[i] = 0.0;
    for (s = 0; s < count; s++) {
        double *sum = out + UPDATE_STATS * shares[s].tensor;
        sum[UPDATE_NORM] += shares[s].sums.update;
        sum[WEIGHT_NORM] += shares[s].sums.weight;
        sum[RMS_RATIO] += shares[s].sums.ratio;
        sum[SECOND_MOMENT] += shares[s].sums.square;
    }
    for (int64_t t = 0; t < tensors; t++) {
        const Update *u = &updates[t];
        double *sum = out + UPDATE_STATS * t;
        const int64_t last = u->size - (u->runs - 1) * u->stride;
        const double read = (double)((u->runs - 1) * u->length + (last < u->length ? last : u->length));
        const double whole = u->runs ? (double)u->size / read : 0.0;
        sum[UPDATE_NORM] = fabs(u->rate) * sqrt(sum[UPDATE_NORM] * whole);
        sum[WEIGHT_NORM] = sqrt(sum[WEIGHT_NORM] * whole);
        sum[RMS_RATIO] = u->square == NULL || !u->runs ? (double)NAN : sqrt(sum[RMS_RATIO] / read);
        sum[SECOND_MOMENT] = u->square == NULL ? (double)NAN : sqrt(sum[SECOND_MOMENT] * whole);
    }
    free(shares);
    return 0;
}

/* Measure the updates of `tensors` parameters into `out`, UPDATE_STATS doubles each. Returns 0, or -1 where there is
 * no memory. */
int gradwatch_measure_updates(const Update *updates, int64_t tensors, Parallel parallel, unsigned threads,
                              double *out) {
    const __typeof__(keep_denormals()) before = keep_denormals();
    const int failed = measure_updates(updates, tensors, parallel, threads, out);
    restore_mode(before);
    return failed;
}

/* Rows of a table whose results do not depend on each other, by as many threads as there are. */
typedef struct {
    void (*measure_row)(const void *rows, int64_t at, void *out);
    const void *rows;
    void *out;
    int64_t count;
    atomic_llong next;
} Rows;

APART static void take_rows(Rows *r) {
    for (int64_t at; (at = atomic_fetch_add_explicit(&r->next, 1, memory_order_relaxed)) < r->count;)
        r->measure_row(r->rows, at, r->out);
}

static void row_work(void *data) {
    const __typeof__(keep_denormals()) before = keep_denormals();
    take_rows(data);
    restore_mode(before);
}

static void measure_rows(Rows r, int64_t entries, Parallel parallel, unsigned threads) {
    atomic_init(&r.next, 0);
    if (parallel != NULL && threads > 1 && entries > CHUNK / 2 && r.count > 1)
        parallel(row_work, &r, threads, 0);
    else
        row_work(&r);
}

#define PIECE 256 /* entries that are made float64 at a time */

static inline float float_of_half(uint16_t p) {
    const uint32_t bits = BITS_FLOAT16(p) | ((uint32_t)p & 0x8000u) << 16;
    return float_of((p & 0x7c00u) == 0x7c00u ? bits | 0x7f800000u : bits) * SCALE_FLOAT16;
}

/* Read `n` entries that lie `stride` apart, the first of them at `from`. */
EVERY_PROCESSOR static void load(const void *entries, int64_t type, int64_t from, int64_t stride, int32_t n,
                                 double *restrict to) {
#define LOAD_EACH(TYPE, VALUE)                                                                                         \
    {                                                                                                                 \
        const TYPE *restrict p = (const TYPE *)entries + from;                                                        \
        for (int32_t i = 0; i < n; i++) to[i] = VALUE(p[i * stride]);                                                 \
    }
    switch (type) {
    case FLOAT32:
        LOAD_EACH(float, LOAD_FLOAT32) break;
    case BFLOAT16:
        LOAD_EACH(uint16_t, LOAD_BFLOAT16) break;
    case FLOAT16:
        LOAD_EACH(uint16_t, float_of_half) break;
    default:
        LOAD_EACH(double, LOAD_FLOAT32)
    }
#undef LOAD_EACH
}

/* What a step did to entries of a parameter: the share that changed, the cosines of the gradient with the momentum and
 * with the weights before, and the norm of the change, estimated for the whole parameter. */
enum { MOVED, MOMENTUM_COSINE, WEIGHT_COSINE, CHANGE_NORM, STEP_STATS };
enum { OLD, CHANGE, GRADIENT, MOMENTUM, VECTORS };

typedef struct {
    const void *old, *weight, *gradient, *momentum; /* old: the entries alone; the last two: null where there is none */
    int64_t type, gradient_type, momentum_type;
    int64_t count, stride, size; /* entries that are compared, `stride` apart, of how many */
} Step;

typedef struct {
    double squares[VECTORS], largest[VECTORS], of_momentum, of_weight;
    int64_t moved;
} Compared;

EVERY_PROCESSOR static void compare_piece(double x[VECTORS][PIECE], const double *scales, int32_t n, Compared *found) {
    double of_momentum = 0.0, of_weight = 0.0;
    int64_t moved = 0;
    for (int32_t i = 0; i < n; i++) {
        moved += x[OLD][i] != x[CHANGE][i];
        x[CHANGE][i] -= x[OLD][i];
    }
    for (int v = 0; v < VECTORS; v++) {
        double squares = 0.0, largest = 0.0;
        if (scales != NULL)
            for (int32_t i = 0; i < n; i++) x[v][i] /= scales[v];
        for (int32_t i = 0; i < n; i++) {
            const double magnitude = fabs(x[v][i]);
            squares += magnitude * magnitude;
            largest = magnitude > largest ? magnitude : largest;
        }
        found->squares[v] += squares;
        if (largest > found->largest[v]) found->largest[v] = largest;
    }
    for (int32_t i = 0; i < n; i++) {
        of_momentum += x[GRADIENT][i] * x[MOMENTUM][i];
        of_weight += x[GRADIENT][i] * x[OLD][i];
    }
    found->of_momentum += of_momentum;
    found->of_weight += of_weight;
    found->moved += moved;
}

static Compared compare(const Step *s, const double *scales) {
    Compared found = {.moved = 0};
    double x[VECTORS][PIECE] = {{0}}; /* what is not there is 0, which has no cosine */
    for (int64_t i = 0; i < s->count; i += PIECE) {
        const int32_t n = (int32_t)(s->count - i < PIECE ? s->count - i : PIECE);
        load(s->old, s->type, i, 1, n, x[OLD]);
        load(s->weight, s->type, i * s->stride, s->stride, n, x[CHANGE]);
        if (s->gradient != NULL) load(s->gradient, s->gradient_type, i * s->stride, s->stride, n, x[GRADIENT]);
        if (s->momentum != NULL) load(s->momentum, s->momentum_type, i * s->stride, s->stride, n, x[MOMENTUM]);
        compare_piece(x, scales, n, &found);
    }
    return found;
}

static void compare_row(const void *steps, int64_t at, void *out) {
    const Step *s = (const Step *)steps + at;
    Compared found = compare(s, NULL);
    double scales[VECTORS] = {1.0, 1.0, 1.0, 1.0};
    int is_doubtful = 0;
    for (int v = 0; v < VECTORS; v++) {
        /* Squares of float64 that overflow or underflow are summed again, of entries divided by the largest. */
        const double largest = found.largest[v];
        if (largest > 0.0 && isfinite(largest) && !(found.squares[v] > 1e-280 && found.squares[v] < 1e280)) {
            scales[v] = largest;
            is_doubtful = 1;
        }
    }
    if (is_doubtful) found = compare(s, scales);
    const double *squares = found.squares, gradient = sqrt(squares[GRADIENT]);
    double *result = (double *)out + STEP_STATS * at;
    result[MOVED] = (double)found.moved / (double)s->count;
    result[MOMENTUM_COSINE] = found.of_momentum / (gradient * sqrt(squares[MOMENTUM]));
    result[WEIGHT_COSINE] = found.of_weight / (gradient * sqrt(squares[OLD]));
    result[CHANGE_NORM] = s->count ? sqrt(squares[CHANGE] * ((double)s->size / (double)s->count)) * scales[CHANGE] : 0.0;
}

/* Compare the entries of `parameters` before and after a step, STEP_STATS doubles each. */
void gradwatch_compare(const Step *steps, int64_t parameters, Parallel parallel, unsigned threads, double *out) {
    int64_t entries = 0;
    for (int64_t at = 0; at < parameters; at++) entries += steps[at].count;
    const Rows rows = {.measure_row = compare_row, .rows = steps, .out = out, .count = parameters};
    measure_rows(rows, entries, parallel, threads);
}

/* How many entries have which magnitude: the bin of each follows from its exponent, but for zero and NaN. */
typedef struct {
    const void *entries;
    int64_t type, count, stride;
    double scale;        /* that they were multiplied by */
    const uint8_t *bins; /* of each of the 2,048 exponents of float64; then that of zero, of NaN, and how many there are */
} Sample;

static void count_row(const void *samples, int64_t at, void *out) {
    const Sample *s = (const Sample *)samples + at;
    const uint8_t zero = s->bins[2048], nan = s->bins[2049], length = s->bins[2050];
    int64_t counts[256] = {0};
    double x[PIECE];
    for (int64_t i = 0; i < s->count; i += PIECE) {
        const int32_t n = (int32_t)(s->count - i < PIECE ? s->count - i : PIECE);
        load(s->entries, s->type, i * s->stride, s->stride, n, x);
        /* In the precision in which they are divided elsewhere. */
        if (s->scale != 1.0)
            for (int32_t j = 0; j < n; j++)
                x[j] = s->type == FLOAT64 ? x[j] / s->scale : (double)((float)x[j] / (float)s->scale);
        for (int32_t j = 0; j < n; j++) {
            uint64_t bits;
            memcpy(&bits, &x[j], sizeof bits);
            bits &= 0x7fffffffffffffffu;
            counts[bits == 0 ? zero : bits > 0x7ff0000000000000u ? nan : s->bins[bits >> 52]]++;
        }
    }
    for (int bin = 0; bin < length; bin++) ((float *)out)[length * at + bin] = (float)counts[bin];
}

/* Count the entries of `samples` by magnitude, a float for each bin. */
void gradwatch_count(const Sample *samples, int64_t count, Parallel parallel, unsigned threads, float *out) {
    int64_t entries = 0;
    for (int64_t at = 0; at < count; at++) entries += samples[at].count;
    const Rows rows = {.measure_row = count_row, .rows = samples, .out = out, .count = count};
    measure_rows(rows, entries, parallel, threads);
}

/* A tensor as DLPack's C interface describes it (`DLTensor`, https://dmlc.github.io/dlpack/latest/c_api.html). */
typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t dimensions;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t offset;
} Described;

typedef int (*Describe)(void *tensor, Described *found);
typedef void *(*Item)(void *list, ptrdiff_t at);

enum { DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4 };

static int64_t type_of(const Described *one) {
    if (one->lanes != 1) return -1;
    if (one->code == DLPACK_BFLOAT) return one->bits == 16 ? BFLOAT16 : -1;
    if (one->code != DLPACK_FLOAT) return -1;
    return one->bits == 32 ? FLOAT32 : one->bits == 16 ? FLOAT16 : one->bits == 64 ? FLOAT64 : -1;
}

/* Whether the last of `dimensions` changes fastest; without entries any layout will do. Counts the entries. */
static int is_contiguous(const Described *one, int64_t *size) {
    int fits = 1;
    *size = 1;
    for (int32_t at = one->dimensions - 1; at >= 0; at--) {
        if (one->shape[at] != 1 && one->strides != NULL && one->strides[at] != *size) fits = 0;
        *size *= one->shape[at];
    }
    return fits || *size == 0;
}

/* Write addresses, sizes and types of the tensors in a Python list, a row of each.
 *
 * Returns the device of all by its number in DLPack; 0 where one has gaps, entries without an address, another type,
 * or lies on another device than the first; or -1 with a Python exception. Call it with Python's lock. */
int gradwatch_describe(Describe describe, Item item, void *tensors, int64_t count, int64_t *table) {
    Described first = {0};
    for (int64_t at = 0; at < count; at++) {
        Described one;
        void *tensor = item(tensors, (ptrdiff_t)at);
        if (tensor == NULL || describe(tensor, &one) != 0) return -1;
        if (at == 0) first = one;
        int64_t size;
        const int is_whole = is_contiguous(&one, &size);
        const int64_t address = (int64_t)((uintptr_t)one.data + one.offset), type = type_of(&one);
        if (!is_whole || (address == 0 && size != 0) || type < 0) return 0;
        if (one.device_type != first.device_type || one.device_id != first.device_id) return 0;
        table[at] = address;
        table[count + at] = size;
        table[2 * count + at] = type;
    }
    return first.device_type;
}
