/* Divides the calls of an exported network among threads of POSIX, with the same results:

     nnc export examples/cnn_digits.nn --to digits_c --threads 4
     cc threads.c -o threads -pthread -Idigits_c -Ldigits_c -ldigits -Wl,-rpath,$PWD/digits_c
     ./threads digits_c/weights.bin 4

   The threads wait for work between the parts; the one that calls computes as well. */
#include "digits.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t begin, end;
    void (*part)(void *data, int number);
    void *data;
    int next, parts, running, stop;
};

/* Takes parts until there are none; the lock is held. */
static void work(struct pool *pool) {
    while (pool->next < pool->parts) {
        int number = pool->next++;
        pool->running++;
        pthread_mutex_unlock(&pool->lock);
        pool->part(pool->data, number);
        pthread_mutex_lock(&pool->lock);
        pool->running--;
    }
    if (!pool->running) pthread_cond_broadcast(&pool->end);
}

static void *thread(void *given) {
    struct pool *pool = given;
    pthread_mutex_lock(&pool->lock);
    while (!pool->stop) {
        work(pool);
        if (!pool->stop) pthread_cond_wait(&pool->begin, &pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

/* The hook: all parts, each once. */
static void run(void *context, int parts, void (*part)(void *, int), void *data) {
    struct pool *pool = context;
    pthread_mutex_lock(&pool->lock);
    pool->part = part, pool->data = data, pool->next = 0, pool->parts = parts;
    pthread_cond_broadcast(&pool->begin);
    work(pool);
    while (pool->running) pthread_cond_wait(&pool->end, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

static _Alignas(DIGITS_ALIGNMENT) unsigned char weights[DIGITS_WEIGHTS_BYTES];
static _Alignas(DIGITS_ALIGNMENT) unsigned char values[DIGITS_VALUES_BYTES];
static _Alignas(DIGITS_ALIGNMENT) unsigned char arena[DIGITS_TRAIN_STEP_ARENA_BYTES];

int main(int count, char **given) {
    int threads = count > 2 ? atoi(given[2]) : 1;
    FILE *file = count > 2 ? fopen(given[1], "rb") : NULL;
    if (threads < 1 || threads > DIGITS_THREADS || !file ||
        fread(weights, 1, sizeof weights, file) != sizeof weights) {
        fprintf(stderr, "usage: threads weights.bin 1-%d\n", DIGITS_THREADS);
        return 1;
    }
    static struct pool pool = {.lock = PTHREAD_MUTEX_INITIALIZER,
                               .begin = PTHREAD_COND_INITIALIZER,
                               .end = PTHREAD_COND_INITIALIZER};
    pthread_t others[DIGITS_THREADS];
    for (int n = 1; n < threads; n++)
        if (pthread_create(&others[n], NULL, thread, &pool)) return 1;
    digits_threads team = {run, &pool, threads};
    int code = digits_init(values, sizeof values, weights, sizeof weights);
    for (int step = 1; step <= 20 && !code; step++) {
        for (int n = 0; n < 64 * DIGITS_BATCH; n++)
            digits_train_step_image(arena)[n] = (n * step) % 17 / 16.0f;
        for (int n = 0; n < DIGITS_BATCH; n++) digits_train_step_label(arena)[n] = n % 10;
        code = digits_train_step(arena, sizeof arena, values, sizeof values, &team);
    }
    if (code) fprintf(stderr, "%s\n", digits_message(code));
    unsigned sum = 0; /* of all bytes: the same for every number of threads */
    for (size_t n = 0; n < sizeof values; n++) sum = 31 * sum + values[n];
    printf("loss %.9g, values %08x\n", *digits_train_step_loss(arena), sum);
    pthread_mutex_lock(&pool.lock);
    pool.stop = 1;
    pthread_cond_broadcast(&pool.begin);
    pthread_mutex_unlock(&pool.lock);
    for (int n = 1; n < threads; n++) pthread_join(others[n], NULL);
    return code;
}
