// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <string.h>
#include <time.h>

#include "abi.h"
#include "calls.h"

enum { LAST_CODE_OF_MASK = 63, FIRST_ECC_TOTAL = 3, LAST_ECC_TOTAL = 6 };

typedef uint32_t (*value_function)(void *, void *);
typedef uint32_t (*two_values_function)(void *, uint32_t *, uint32_t *);
typedef uint32_t (*chosen_function)(void *, uint32_t, void *);
typedef uint32_t (*sized_function)(void *, void *, uint32_t);
typedef uint32_t (*alone_function)(void *);

void *nodeagent_symbol(const char *name)
{
	void *library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_NOLOAD);
	void *found = NULL;

	if (library) {
		found = dlsym(library, name);
		dlclose(library); /* whoever loaded it holds it still */
	}
	return found;
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

/* The first one's failure is the call's; a later one is the end. */
static uint32_t counted(const struct nodeagent_call *call, void *first, uint64_t *made)
{
	uint32_t *out = call->out;
	uint32_t code = NVML_SUCCESS;

	for (out[0] = 0; out[0] < call->number; out[0]++) {
		code = ((chosen_function)call->function)(first, out[0], &out[1 + out[0]]);
		++*made;
		if (code)
			break;
	}
	if (out[0] && (code == NVML_ERROR_INVALID_ARGUMENT || code == NVML_ERROR_NOT_SUPPORTED))
		return NVML_SUCCESS;
	return code;
}

static uint32_t make(const struct nodeagent_call *call, void *handle, uint64_t *made)
{
	void *first = call->first ? call->first : handle;

	if (call->chain) {
		first = *call->chain;
		if (!first)
			return NVML_ERROR_NOT_FOUND;
	}
	if (call->shape == NODEAGENT_COUNTED)
		return counted(call, first, made);
	++*made;
	switch (call->shape) {
	case NODEAGENT_TWO_VALUES:
		return ((two_values_function)call->function)(first, call->out, (uint32_t *)call->out + 1);
	case NODEAGENT_CHOSEN:
		return ((chosen_function)call->function)(first, call->number, call->out);
	case NODEAGENT_SIZED:
		return ((sized_function)call->function)(first, call->out, call->number);
	case NODEAGENT_ALONE:
		return ((alone_function)call->function)(call->out);
	default:
		return ((value_function)call->function)(first, call->out);
	}
}

static int goes_on(uint32_t code, uint64_t mask)
{
	return !code || (code <= LAST_CODE_OF_MASK && mask >> code & 1);
}

uint32_t nodeagent_run(const struct nodeagent_batch *batch, void *handle)
{
	uint64_t before = now();
	uint64_t after;
	uint32_t i;

	memset(batch->costs, 0, batch->functions * sizeof(*batch->costs));
	for (i = 0; i < batch->number; i++) {
		const struct nodeagent_call *call = &batch->calls[i];
		struct nodeagent_cost *cost = &batch->costs[call->cost];

		batch->codes[i] = make(call, handle, &cost->calls);
		after = now();
		cost->nanoseconds += after - before;
		before = after;
		if (!goes_on(batch->codes[i], call->tolerated))
			break;
	}
	return i;
}

/* With ECC off its totals look read, but are not: no time, or a double. */
static int is_read(const nvmlFieldValue_t *field)
{
	if (field->fieldId < FIRST_ECC_TOTAL || field->fieldId > LAST_ECC_TOTAL)
		return 1;
	return field->timestamp && field->valueType;
}

/* Whether it is a whole number from 0 on. */
static int is_plain(const nvmlFieldValue_t *field, uint64_t *number)
{
	switch (field->valueType) {
	case NVML_VALUE_TYPE_UNSIGNED_INT:
		*number = field->value.uiVal;
		return 1;
	case NVML_VALUE_TYPE_UNSIGNED_LONG:
	case NVML_VALUE_TYPE_UNSIGNED_LONG_LONG:
		*number = field->value.ullVal;
		return 1;
	default:
		return 0;
	}
}

uint32_t nodeagent_fields(const void *fields, uint32_t number, uint64_t lasting_codes, uint32_t *ids, uint64_t *numbers,
			  uint32_t *odd, uint32_t *lasting, uint32_t *others)
{
	const nvmlFieldValue_t *all = fields;
	uint32_t found = 0;

	others[0] = others[1] = 0;
	for (uint32_t i = 0; i < number; i++) {
		if (all[i].nvmlReturn) {
			if (goes_on(all[i].nvmlReturn, lasting_codes))
				lasting[others[1]++] = i;
		} else if (is_read(&all[i])) {
			ids[found] = all[i].fieldId;
			if (is_plain(&all[i], &numbers[found]))
				found++;
			else
				odd[others[0]++] = i;
		}
	}
	return found;
}

uint32_t nodeagent_gpm(const void *request, uint32_t *ids, double *values)
{
	const nvmlGpmMetricsGet_t *answer = request;
	uint32_t found = 0;

	for (uint32_t i = 0; i < answer->numMetrics; i++)
		if (!answer->metrics[i].nvmlReturn && isfinite(answer->metrics[i].value)) {
			ids[found] = answer->metrics[i].metricId;
			values[found++] = answer->metrics[i].value;
		}
	return found;
}
