/* NVML functions of process accounting. Only live processes are told of; MIG mode has no accounting, as in the driver. */
#include "session.h"

/* Begins a call on a GPU that can keep accounts. */
static nvmlReturn_t call_accounting(struct call *c, nvmlDevice_t device, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (!result && c->mig->current)
		return call_end(c, NVML_ERROR_NOT_SUPPORTED);
	return result;
}

nvmlReturn_t nvmlDeviceGetAccountingMode(nvmlDevice_t device, nvmlEnableState_t *mode)
{
	struct call c;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	if (result)
		return result;
	if (!mode)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*mode = (nvmlEnableState_t)c.gpu->accounting;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetAccountingMode(nvmlDevice_t device, nvmlEnableState_t mode)
{
	struct call c;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	if (result)
		return result;
	if (mode > NVML_FEATURE_ENABLED)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->accounting = mode;
	return call_end(&c, result);
}

nvmlReturn_t nvmlDeviceGetAccountingBufferSize(nvmlDevice_t device, unsigned int *bufferSize)
{
	struct call c;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	if (result)
		return result;
	if (!bufferSize)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*bufferSize = 4000;
	return call_end(&c, NVML_SUCCESS);
}

/* The n-th process of the GPU, NULL after the last; none while no accounts are kept. */
static const struct process *account(const struct call *c, unsigned int n)
{
	for (int i = 0; c->gpu->accounting && i < MAX_PROCESSES; i++) {
		const struct process *process = &c->machine->process[i];

		if (atomic_load(&process->used) && process->gpu == c->index && n-- == 0)
			return process;
	}
	return NULL;
}

nvmlReturn_t nvmlDeviceGetAccountingPids(nvmlDevice_t device, unsigned int *count, unsigned int *pids)
{
	struct call c;
	const struct process *process;
	unsigned int room, found = 0;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	if (result)
		return result;
	if (!count || (*count && !pids))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	machine_reap(c.machine);
	for (room = *count; (process = account(&c, found)); found++)
		if (found < room)
			pids[found] = process->owner.pid;
	*count = found;
	return call_end(&c, found > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetAccountingStats(nvmlDevice_t device, unsigned int pid, nvmlAccountingStats_t *stats)
{
	struct call c;
	const struct process *process;
	struct telemetry telemetry;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	if (result)
		return result;
	if (!stats)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	machine_reap(c.machine);
	telemetry = telemetry_of(c.gpu);
	for (unsigned int i = 0; (process = account(&c, i)); i++) {
		if (process->owner.pid != pid)
			continue;
		*stats = (nvmlAccountingStats_t){
			.gpuUtilization = telemetry.utilization,
			.memoryUtilization = telemetry.memory_utilization,
			.maxMemoryUsage = process->memory_bytes,
			.startTime = process->started_us,
			.isRunning = 1, /* and time stays 0 while it runs, as nvml.h says */
		};
		return call_end(&c, NVML_SUCCESS);
	}
	return call_end(&c, NVML_ERROR_NOT_FOUND);
}

/* The accounts are those of live processes: there is nothing to forget. */
nvmlReturn_t nvmlDeviceClearAccountingPids(nvmlDevice_t device)
{
	struct call c;
	nvmlReturn_t result = call_accounting(&c, device, __func__);

	return result ? result : call_end(&c, call_privileged(&c));
}
