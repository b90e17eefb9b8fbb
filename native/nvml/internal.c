/*
 * The private door of NVIDIA's own programs: nvidia-smi asks for a table of functions that no header describes and does not
 * start without one. Ours has room for all it was seen to call, and every entry answers NOT_SUPPORTED, which it takes as
 * "this GPU does not have that". The first word is the size in bytes, as in the tables of the CUDA driver.
 */
#include <stddef.h>

#include "abi.h"

enum { ENTRIES = 512 };

typedef nvmlReturn_t entry(void);

struct table {
	size_t size;
	entry *entries[ENTRIES];
};

__attribute__((visibility("default"))) nvmlReturn_t nvmlInternalGetExportTable(const void **table, const void *identifier);

static nvmlReturn_t not_supported(void)
{
	return NVML_ERROR_NOT_SUPPORTED;
}

nvmlReturn_t nvmlInternalGetExportTable(const void **table, const void *identifier)
{
	static const struct table private_table = {
		.size = sizeof(private_table),
		.entries = { [0 ... ENTRIES - 1] = not_supported },
	};

	if (!table || !identifier)
		return NVML_ERROR_INVALID_ARGUMENT;
	*table = &private_table;
	return NVML_SUCCESS;
}
