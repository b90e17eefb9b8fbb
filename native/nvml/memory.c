/* NVML functions about memory: how much, how healthy. */
#include "session.h"

struct usage {
	uint64_t total, reserved, allocated;
};

/* Of a whole GPU, or of the GPU instance that a MIG device belongs to; all compute instances of one share its memory. */
static struct usage usage_of(const struct call *c)
{
	const struct board *board = &c->gpu->board;
	struct usage usage = { .total = board->memory_mib * MIB, .reserved = board->reserved_mib * MIB };

	if (c->ci)
		usage = (struct usage){ .total = board->profile[c->gi->profile].memory_mib * MIB, .reserved = 3 * MIB };
	machine_reap(c->machine);
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *process = &c->machine->process[i];

		if (atomic_load(&process->used) && process->gpu == c->index && (!c->ci || process->gi == c->gi_id))
			usage.allocated += process->memory_bytes;
	}
	if (usage.allocated > usage.total - usage.reserved)
		usage.allocated = usage.total - usage.reserved;
	return usage;
}

nvmlReturn_t nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory)
{
	struct call c;
	struct usage usage;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!memory)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	usage = usage_of(&c);
	memory->total = usage.total;
	memory->used = usage.reserved + usage.allocated; /* the first version counts both as used */
	memory->free = usage.total - memory->used;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory)
{
	struct call c;
	struct usage usage;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!memory)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (memory->version != NVMLSIM_VERSION(nvmlMemory_v2_t, 2))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	usage = usage_of(&c);
	memory->total = usage.total;
	memory->reserved = usage.reserved;
	memory->used = usage.allocated;
	memory->free = usage.total - usage.reserved - usage.allocated;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetBAR1MemoryInfo(nvmlDevice_t device, nvmlBAR1Memory_t *bar1Memory)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!bar1Memory)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	bar1Memory->bar1Total = c.gpu->board.bar1_mib * MIB;
	bar1Memory->bar1Used = MIB;
	bar1Memory->bar1Free = bar1Memory->bar1Total - bar1Memory->bar1Used;
	return call_end(&c, NVML_SUCCESS);
}

GPU_VALUE(nvmlDeviceGetDefaultEccMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!current || !pending)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*current = (nvmlEnableState_t)c.gpu->ecc;
	*pending = (nvmlEnableState_t)c.gpu->ecc_pending;
	return call_end(&c, NVML_SUCCESS);
}

/* Takes effect at the next reset or driver load. */
nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, nvmlEnableState_t ecc)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (ecc > NVML_FEATURE_ENABLED)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->ecc_pending = ecc;
	return call_end(&c, result);
}

/* Volatile and aggregate counters are one here. */
static nvmlReturn_t ecc_errors(nvmlDevice_t device, nvmlMemoryErrorType_t type, unsigned long long *count, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (!count || type >= NVML_MEMORY_ERROR_TYPE_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!c.gpu->ecc)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*count = type == NVML_MEMORY_ERROR_TYPE_CORRECTED ? c.gpu->ecc_corrected : c.gpu->ecc_uncorrected;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType, nvmlEccCounterType_t counterType,
					 unsigned long long *eccCounts)
{
	if (counterType >= NVML_ECC_COUNTER_TYPE_COUNT)
		return NVML_ERROR_INVALID_ARGUMENT;
	return ecc_errors(device, errorType, eccCounts, __func__);
}

/* Every simulated error is one of device memory. */
nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
					     nvmlEccCounterType_t counterType, nvmlMemoryLocation_t locationType,
					     unsigned long long *count)
{
	nvmlReturn_t result;

	if (counterType >= NVML_ECC_COUNTER_TYPE_COUNT || locationType >= NVML_MEMORY_LOCATION_COUNT)
		return NVML_ERROR_INVALID_ARGUMENT;
	result = ecc_errors(device, errorType, count, __func__);
	if (result || locationType == NVML_MEMORY_LOCATION_DRAM)
		return result;
	*count = 0;
	return locationType == NVML_MEMORY_LOCATION_SRAM ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* The driver cannot say while MIG instances live. */
static int has_instances(const struct call *c)
{
	for (int i = 0; i < MAX_GIS; i++)
		if (c->mig->gi[i].used)
			return 1;
	return 0;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrRows, unsigned int *uncRows,
				       unsigned int *isPending, unsigned int *failureOccurred)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!corrRows || !uncRows || !isPending || !failureOccurred)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (has_instances(&c))
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*corrRows = (unsigned int)c.gpu->remapped_correctable;
	*uncRows = (unsigned int)c.gpu->remapped_uncorrectable;
	*isPending = (unsigned int)c.gpu->remap_pending;
	*failureOccurred = (unsigned int)c.gpu->remap_failed;
	return call_end(&c, NVML_SUCCESS);
}

/* 640 banks with all their spare rows, less one bank for each row used. */
nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *values)
{
	struct call c;
	unsigned int used;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!values)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	used = (unsigned int)(c.gpu->remapped_correctable + c.gpu->remapped_uncorrectable);
	*values = (nvmlRowRemapperHistogramValues_t){ .max = 640 - (used < 640 ? used : 640), .high = used < 640 ? used : 640 };
	return call_end(&c, NVML_SUCCESS);
}
