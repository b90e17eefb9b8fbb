/* NVML functions that list the processes on a GPU or MIG device. */
#include "session.h"

enum wanted { COMPUTE = 0, GRAPHICS = 1, MPS = 2 };

/* Writes the process at a position of the caller's array, whichever of the two layouts it has. */
static void put(void *infos, unsigned int position, int legacy, const struct process *process)
{
	if (legacy)
		((nvmlProcessInfo_v1_t *)infos)[position] = (nvmlProcessInfo_v1_t){
			.pid = process->owner.pid,
			.usedGpuMemory = process->memory_bytes,
		};
	else
		((nvmlProcessInfo_v2_t *)infos)[position] = (nvmlProcessInfo_v2_t){
			.pid = process->owner.pid,
			.usedGpuMemory = process->memory_bytes,
			.gpuInstanceId = process->gi,
			.computeInstanceId = process->ci,
		};
}

static int is_wanted(const struct call *c, const struct process *process, enum wanted wanted)
{
	if (!atomic_load(&process->used) || process->gpu != c->index || process->graphics != (uint32_t)wanted)
		return 0;
	return !c->ci || (process->gi == c->gi_id && process->ci == c->ci_id);
}

static unsigned int walk(const struct call *c, enum wanted wanted, void *infos, int legacy)
{
	unsigned int found = 0;

	for (int i = 0; i < MAX_PROCESSES; i++) {
		if (!is_wanted(c, &c->machine->process[i], wanted))
			continue;
		if (infos)
			put(infos, found, legacy, &c->machine->process[i]);
		found++;
	}
	return found;
}

/* INSUFFICIENT_SIZE with the number needed, as nvml.h has it; no processes at all is a success. */
static nvmlReturn_t list(nvmlDevice_t device, enum wanted wanted, unsigned int *count, void *infos, int legacy)
{
	struct call c;
	unsigned int found, room;
	nvmlReturn_t result = call_device(&c, device, wanted == GRAPHICS ? "nvmlDeviceGetGraphicsRunningProcesses"
							: wanted == MPS	 ? "nvmlDeviceGetMPSComputeRunningProcesses"
									 : "nvmlDeviceGetComputeRunningProcesses");

	if (result)
		return result;
	if (!count || (*count && !infos))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	machine_reap(c.machine);
	room = *count;
	found = walk(&c, wanted, NULL, legacy);
	*count = found;
	if (found > room)
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	if (found)
		walk(&c, wanted, infos, legacy);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
	return list(device, COMPUTE, infoCount, infos, 1);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
	return list(device, COMPUTE, infoCount, infos, 0);
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
	return list(device, COMPUTE, infoCount, infos, 0);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
	return list(device, GRAPHICS, infoCount, infos, 1);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v2(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
	return list(device, GRAPHICS, infoCount, infos, 0);
}

nvmlReturn_t nvmlDeviceGetGraphicsRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
	return list(device, GRAPHICS, infoCount, infos, 0);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v1_t *infos)
{
	return list(device, MPS, infoCount, infos, 1);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v2(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_v2_t *infos)
{
	return list(device, MPS, infoCount, infos, 0);
}

nvmlReturn_t nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *infoCount, nvmlProcessInfo_t *infos)
{
	return list(device, MPS, infoCount, infos, 0);
}
