/* Nobody waits in a loop, and nobody waits for a thread that has not begun: where other programs
 * have the processors, the caller does the pieces that no helper came for. What it may wait for is
 * the one piece that each helper is at. */
#include "pool.h"

#include <pthread.h>
#include <stdlib.h>

struct exact_pool {
  pthread_mutex_t lock;
  pthread_cond_t work, done;
  exact_piece piece;  /* NULL when there is nothing to do */
  void *context;
  int count, next, active, stop;
  unsigned turn;
  int helpers;
  pthread_t ids[];
};

static void take_pieces(exact_pool *pool) {
  exact_piece piece = pool->piece;
  void *context = pool->context;
  int count = pool->count, number;
  while ((number = __atomic_fetch_add(&pool->next, 1, __ATOMIC_RELAXED)) < count)
    piece(context, number);
}

static void *help(void *argument) {
  exact_pool *pool = argument;
  unsigned seen = 0;
  pthread_mutex_lock(&pool->lock);
  for (;;) {
    while (!pool->stop && (!pool->piece || pool->turn == seen))
      pthread_cond_wait(&pool->work, &pool->lock);
    if (pool->stop) break;
    seen = pool->turn;
    pool->active++;
    pthread_mutex_unlock(&pool->lock);
    take_pieces(pool);
    pthread_mutex_lock(&pool->lock);
    if (!--pool->active) pthread_cond_signal(&pool->done);
  }
  pthread_mutex_unlock(&pool->lock);
  return NULL;
}

exact_pool *exact_open(int threads) {
  exact_pool *pool = calloc(1, sizeof *pool + (size_t)threads * sizeof pool->ids[0]);
  if (!pool) return NULL;
  pthread_mutex_init(&pool->lock, NULL);
  pthread_cond_init(&pool->work, NULL);
  pthread_cond_init(&pool->done, NULL);
  while (pool->helpers < threads - 1 &&
         !pthread_create(&pool->ids[pool->helpers], NULL, help, pool))
    pool->helpers++;
  return pool;
}

void exact_close(exact_pool *pool) {
  pthread_mutex_lock(&pool->lock);
  pool->stop = 1;
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->lock);
  for (int n = 0; n < pool->helpers; n++) pthread_join(pool->ids[n], NULL);
  pthread_cond_destroy(&pool->work);
  pthread_cond_destroy(&pool->done);
  pthread_mutex_destroy(&pool->lock);
  free(pool);
}

int exact_threads(const exact_pool *pool) { return pool ? pool->helpers + 1 : 1; }

void exact_share(exact_pool *pool, exact_piece piece, void *context, int count) {
  if (exact_threads(pool) == 1 || count < 2) {
    for (int number = 0; number < count; number++) piece(context, number);
    return;
  }
  pthread_mutex_lock(&pool->lock);
  pool->piece = piece;
  pool->context = context;
  pool->count = count;
  pool->next = 0;
  pool->turn++;
  pthread_cond_broadcast(&pool->work);
  pthread_mutex_unlock(&pool->lock);
  take_pieces(pool);
  pthread_mutex_lock(&pool->lock);
  while (pool->active) pthread_cond_wait(&pool->done, &pool->lock);
  pool->piece = NULL;
  pthread_mutex_unlock(&pool->lock);
}
