/* Threads that share the pieces of one thing after the other. */
#ifndef POOL_H
#define POOL_H

typedef struct exact_pool exact_pool;
typedef void (*exact_piece)(void *context, int number);

/* `threads` in all, the caller's among them; NULL where there are none to be had. */
exact_pool *exact_open(int threads);
void exact_close(exact_pool *pool);

/* Threads of a pool; 1 without one. */
int exact_threads(const exact_pool *pool);

/* Calls `piece` with 0 .. count - 1, each once, on any of the threads, and returns when all are
 * done. One caller at a time. */
void exact_share(exact_pool *pool, exact_piece piece, void *context, int count);

#endif
