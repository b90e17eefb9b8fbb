/* NVML functions about memory: how much there is and who has it. */
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

/* With confidential computing off no memory is protected. Sizes are in KiB. */
nvmlReturn_t nvmlDeviceGetConfComputeMemSizeInfo(nvmlDevice_t device, nvmlConfComputeMemSizeInfo_t *memInfo)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!memInfo)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (c.gpu->board.architecture < NVML_DEVICE_ARCH_HOPPER)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*memInfo = (nvmlConfComputeMemSizeInfo_t){ .unprotectedMemSizeKib = c.gpu->board.memory_mib * 1024 };
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetConfComputeProtectedMemoryUsage(nvmlDevice_t device, nvmlMemory_t *memory)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!memory)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (c.gpu->board.architecture < NVML_DEVICE_ARCH_HOPPER)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*memory = (nvmlMemory_t){ .total = 0 };
	return call_end(&c, NVML_SUCCESS);
}
