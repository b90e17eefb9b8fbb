/* NVML functions that look back: samples of the last seconds, and what each process did in them. */
#include "session.h"

enum { PERIOD_NS = 100000000, SAMPLES = 100 };

/* One sample as the driver's ring would have it, computed for the moment it was taken. */
static unsigned int sample_value(const struct gpu *gpu, nvmlSamplingType_t type, uint64_t when_ns)
{
	const struct telemetry telemetry = telemetry_at(gpu, when_ns);

	switch (type) {
	case NVML_TOTAL_POWER_SAMPLES:
	case NVML_MODULE_POWER_SAMPLES: return telemetry.power_mw;
	case NVML_GPU_UTILIZATION_SAMPLES: return telemetry.utilization;
	case NVML_MEMORY_UTILIZATION_SAMPLES: return telemetry.memory_utilization;
	case NVML_PROCESSOR_CLK_SAMPLES: return telemetry.sm_clock_mhz;
	case NVML_MEMORY_CLK_SAMPLES: return (unsigned int)gpu->board.memory_clock_mhz;
	default: return 0; /* media engines stand still */
	}
}

static int is_utilization(nvmlSamplingType_t type)
{
	return (type >= NVML_GPU_UTILIZATION_SAMPLES && type <= NVML_DEC_UTILIZATION_SAMPLES)
	       || type == NVML_JPG_UTILIZATION_SAMPLES || type == NVML_OFA_UTILIZATION_SAMPLES;
}

/* Oldest first, at whole periods of the clock, none from before the present load. */
static unsigned int fill(const struct gpu *gpu, nvmlSamplingType_t type, uint64_t after_us, nvmlSample_t *samples, unsigned int room)
{
	const uint64_t now = now_ns(), last = now - now % PERIOD_NS, since = load_now(gpu)->since_ns;
	unsigned int found = 0;

	for (unsigned int i = SAMPLES; i-- > 0;) {
		uint64_t at = last - (uint64_t)i * PERIOD_NS;

		if (last < (uint64_t)i * PERIOD_NS || at < since || wall_us(at) <= after_us)
			continue;
		if (samples && found < room)
			samples[found] = (nvmlSample_t){ .timeStamp = wall_us(at),
							 .sampleValue.uiVal = sample_value(gpu, type, at) };
		found++;
	}
	return found;
}

static nvmlReturn_t may_sample(const struct call *c, nvmlSamplingType_t type)
{
	if (type > NVML_OFA_UTILIZATION_SAMPLES)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (type == NVML_MODULE_POWER_SAMPLES && !c->gpu->board.c2c_mbps)
		return NVML_ERROR_NOT_SUPPORTED;
	return is_utilization(type) && c->mig->current ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

/* Without a buffer: how many the ring holds. NOT_FOUND: nothing newer than what was seen. */
nvmlReturn_t nvmlDeviceGetSamples(nvmlDevice_t device, nvmlSamplingType_t type, unsigned long long lastSeenTimeStamp,
				  nvmlValueType_t *sampleValType, unsigned int *sampleCount, nvmlSample_t *samples)
{
	struct call c;
	unsigned int found;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	result = sampleValType && sampleCount ? may_sample(&c, type) : NVML_ERROR_INVALID_ARGUMENT;
	if (result)
		return call_end(&c, result);
	*sampleValType = NVML_VALUE_TYPE_UNSIGNED_INT;
	if (!samples) {
		*sampleCount = SAMPLES;
		return call_end(&c, NVML_SUCCESS);
	}
	found = fill(c.gpu, type, lastSeenTimeStamp, samples, *sampleCount);
	*sampleCount = found < *sampleCount ? found : *sampleCount;
	return call_end(&c, found ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND);
}

/* The processes of the GPU share its load in equal parts. */
static unsigned int list(const struct call *c, nvmlProcessUtilizationInfo_v1_t *infos, unsigned int room)
{
	const struct telemetry telemetry = telemetry_of(c->gpu);
	const uint64_t now = wall_us(now_ns());
	unsigned int found = 0;

	machine_reap(c->machine);
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *process = &c->machine->process[i];

		if (!atomic_load(&process->used) || process->gpu != c->index)
			continue;
		if (infos && found < room)
			infos[found] = (nvmlProcessUtilizationInfo_v1_t){ .timeStamp = now, .pid = process->owner.pid };
		found++;
	}
	for (unsigned int i = 0; infos && i < found && i < room; i++) {
		infos[i].smUtil = telemetry.utilization / found;
		infos[i].memUtil = telemetry.memory_utilization / found;
	}
	return found;
}

/* Begins a call that the driver answers for GPUs without MIG only, and with NOT_FOUND when nothing ran. */
static nvmlReturn_t call_busy(struct call *c, nvmlDevice_t device, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (result)
		return result;
	if (c->mig->current)
		return call_end(c, NVML_ERROR_NOT_SUPPORTED);
	return list(c, NULL, 0) && load_now(c->gpu)->percent ? NVML_SUCCESS : call_end(c, NVML_ERROR_NOT_FOUND);
}

nvmlReturn_t nvmlDeviceGetProcessUtilization(nvmlDevice_t device, nvmlProcessUtilizationSample_t *utilization,
					     unsigned int *processSamplesCount, unsigned long long lastSeenTimeStamp)
{
	struct call c;
	nvmlProcessUtilizationInfo_v1_t infos[MAX_PROCESSES];
	unsigned int found, room;
	nvmlReturn_t result = call_busy(&c, device, __func__);

	(void)lastSeenTimeStamp; /* the present is newer than whatever was seen */
	if (result)
		return result;
	if (!processSamplesCount)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	found = list(&c, infos, MAX_PROCESSES);
	room = *processSamplesCount;
	*processSamplesCount = found;
	if (!utilization || room < found)
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	for (unsigned int i = 0; i < found; i++)
		utilization[i] = (nvmlProcessUtilizationSample_t){
			.pid = infos[i].pid,
			.timeStamp = infos[i].timeStamp,
			.smUtil = infos[i].smUtil,
			.memUtil = infos[i].memUtil,
		};
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetProcessesUtilizationInfo(nvmlDevice_t device, nvmlProcessesUtilizationInfo_t *procesesUtilInfo)
{
	struct call c;
	unsigned int room;
	nvmlReturn_t result = call_busy(&c, device, __func__);

	if (result)
		return result;
	if (!procesesUtilInfo)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (procesesUtilInfo->version != NVMLSIM_VERSION(nvmlProcessesUtilizationInfo_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	room = procesesUtilInfo->procUtilArray ? procesesUtilInfo->processSamplesCount : 0;
	procesesUtilInfo->processSamplesCount = list(&c, procesesUtilInfo->procUtilArray, room);
	return call_end(&c, procesesUtilInfo->processSamplesCount > room ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_SUCCESS);
}
