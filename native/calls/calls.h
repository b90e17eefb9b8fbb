/* SPDX-License-Identifier: Apache-2.0 */
/* Many NVML calls from one: what is called, and with what, is a table of the caller's. */
#ifndef NODEAGENT_CALLS_H
#define NODEAGENT_CALLS_H

#include <stdint.h>

/* How a function takes its arguments; `first` is the GPU's handle where it is NULL. */
enum nodeagent_shape {
	NODEAGENT_VALUE, /* f(first, void *) */
	NODEAGENT_TWO_VALUES, /* f(first, unsigned *, unsigned *): the second one behind the first */
	NODEAGENT_CHOSEN, /* f(first, unsigned, void *) */
	NODEAGENT_SIZED, /* f(first, void *, unsigned) */
	NODEAGENT_ALONE, /* f(void *) */
	NODEAGENT_COUNTED, /* f(first, 0...number - 1, unsigned *) until one fails: how many, and their values */
};

struct nodeagent_call {
	void *function;
	void *first;
	void **chain; /* where an earlier call puts the first argument, else NULL; nothing there: not made, NOT_FOUND */
	void *out;
	uint64_t tolerated; /* bit n: with code n the calls after it are made all the same */
	uint32_t shape;
	uint32_t number;
	uint32_t cost; /* index of its function's cost */
};

struct nodeagent_cost {
	uint64_t nanoseconds;
	uint64_t calls;
};

/* The address of a function of the libnvidia-ml.so.1 that is loaded, NULL where it has none. */
void *nodeagent_symbol(const char *name);

struct nodeagent_batch {
	struct nodeagent_call *calls;
	uint32_t *codes; /* an answer for each call */
	struct nodeagent_cost *costs; /* one for each function */
	uint32_t number;
	uint32_t functions;
};

/* Make the calls in order; returns the first whose code is neither 0 nor tolerated, else their number. */
uint32_t nodeagent_run(const struct nodeagent_batch *batch, void *handle);

/*
 * What nvmlDeviceGetFieldValues filled in. Whole numbers from 0 on go to ids and numbers, returned is how many. In `odd`
 * are the places of others that have a value, in `lasting` of those that the GPU will never have (code in the mask);
 * `others` receives how many of each.
 */
uint32_t nodeagent_fields(const void *fields, uint32_t number, uint64_t lasting_codes, uint32_t *ids, uint64_t *numbers,
			  uint32_t *odd, uint32_t *lasting, uint32_t *others);

/* The metrics in an nvmlGpmMetricsGet_t that have a finite value; returns how many. */
uint32_t nodeagent_gpm(const void *request, uint32_t *ids, double *values);

#endif
