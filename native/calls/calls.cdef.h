/* What the Python side uses of calls.h; nothing more. */

enum nodeagent_shape {
	NODEAGENT_VALUE, NODEAGENT_TWO_VALUES, NODEAGENT_CHOSEN, NODEAGENT_SIZED, NODEAGENT_ALONE, NODEAGENT_COUNTED
};

struct nodeagent_call {
	void *function;
	void *first;
	void **chain;
	void *out;
	uint64_t tolerated;
	uint32_t shape;
	uint32_t number;
	uint32_t cost;
};

struct nodeagent_cost {
	uint64_t nanoseconds;
	uint64_t calls;
};

struct nodeagent_batch {
	struct nodeagent_call *calls;
	uint32_t *codes;
	struct nodeagent_cost *costs;
	uint32_t number;
	uint32_t functions;
};

void *nodeagent_symbol(const char *name);
uint32_t nodeagent_run(const struct nodeagent_batch *batch, void *handle);
uint32_t nodeagent_fields(const void *fields, uint32_t number, uint64_t lasting_codes, uint32_t *ids, uint64_t *numbers,
			  uint32_t *odd, uint32_t *lasting, uint32_t *others);
uint32_t nodeagent_gpm(const void *request, uint32_t *ids, double *values);
