/*
 * NVML functions on GPU performance metrics: averages between two samples, of a GPU or of one of its GPU instances.
 *
 * A sample holds the time and the work done until then; a metric is a share of the work between two samples. The shares are
 * those of a training job: they move with the load and stay in proportion to each other. Hopper and later only.
 */
#include <stdlib.h>

#include "session.h"

struct nvmlGpmSample_st {
	unsigned int gpu, gi; /* NO_INSTANCE: the whole GPU */
	uint64_t taken_ns;
	double work_percent_s;
	unsigned int sm_clock_max_mhz, links;
	int has_ci, is_busy, is_taken;
};

/* Parts of a hundred of the utilisation. */
static const unsigned int shares[NVML_GPM_METRIC_FP16_UTIL + 1] = {
	[NVML_GPM_METRIC_GRAPHICS_UTIL] = 100,
	[NVML_GPM_METRIC_SM_UTIL] = 90,
	[NVML_GPM_METRIC_SM_OCCUPANCY] = 55,
	[NVML_GPM_METRIC_INTEGER_UTIL] = 20,
	[NVML_GPM_METRIC_ANY_TENSOR_UTIL] = 50,
	[NVML_GPM_METRIC_DFMA_TENSOR_UTIL] = 0,
	[NVML_GPM_METRIC_HMMA_TENSOR_UTIL] = 45,
	[NVML_GPM_METRIC_DMMA_TENSOR_UTIL] = 0,
	[NVML_GPM_METRIC_IMMA_TENSOR_UTIL] = 5,
	[NVML_GPM_METRIC_DRAM_BW_UTIL] = 60,
	[NVML_GPM_METRIC_FP64_UTIL] = 2,
	[NVML_GPM_METRIC_FP32_UTIL] = 25,
	[NVML_GPM_METRIC_FP16_UTIL] = 10,
};

/* What share of the time the cycles from SM_CYCLES_ACTIVE on are counted in; PCIe traffic stands among them. */
static const unsigned int ratio_of_cycles[] = {
	NVML_GPM_METRIC_SM_UTIL,
	NVML_GPM_METRIC_ANY_TENSOR_UTIL,
	NVML_GPM_METRIC_DMMA_TENSOR_UTIL,
	NVML_GPM_METRIC_HMMA_TENSOR_UTIL,
	NVML_GPM_METRIC_IMMA_TENSOR_UTIL,
	NVML_GPM_METRIC_DFMA_TENSOR_UTIL,
	[NVML_GPM_METRIC_INTEGER_CYCLES_ACTIVE - NVML_GPM_METRIC_SM_CYCLES_ACTIVE] = NVML_GPM_METRIC_INTEGER_UTIL,
	NVML_GPM_METRIC_FP64_UTIL,
	NVML_GPM_METRIC_FP32_UTIL,
	NVML_GPM_METRIC_FP16_UTIL,
};

static int is_supported(const struct gpu *gpu)
{
	return gpu->board.architecture >= NVML_DEVICE_ARCH_HOPPER;
}

nvmlReturn_t nvmlGpmQueryDeviceSupport(nvmlDevice_t device, nvmlGpmSupport_t *gpmSupport)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	if (result)
		return result;
	if (!gpmSupport)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (gpmSupport->version != NVML_GPM_SUPPORT_VERSION)
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	gpmSupport->isSupportedDevice = (unsigned int)is_supported(c.gpu);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpmSampleAlloc(nvmlGpmSample_t *gpmSample)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!gpmSample)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*gpmSample = calloc(1, sizeof(**gpmSample));
	return call_end(&c, *gpmSample ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

nvmlReturn_t nvmlGpmSampleFree(nvmlGpmSample_t gpmSample)
{
	if (!gpmSample)
		return NVML_ERROR_INVALID_ARGUMENT;
	free(gpmSample);
	return NVML_SUCCESS;
}

static int has_compute_instance(const struct gi *gi)
{
	for (int i = 0; i < MAX_CIS; i++)
		if (gi->ci[i].used)
			return 1;
	return 0;
}

/* The load belongs to the instances that have processes; to all where no process says otherwise. */
static int is_busy(const struct call *c, unsigned int gi)
{
	int any = 0;

	machine_reap(c->machine);
	for (int i = 0; i < MAX_PROCESSES; i++) {
		const struct process *process = &c->machine->process[i];

		if (!atomic_load(&process->used) || process->gpu != c->index)
			continue;
		if (gi == NO_INSTANCE || process->gi == gi)
			return 1;
		any = 1;
	}
	return !any;
}

static nvmlReturn_t take(struct call *c, unsigned int gi, nvmlGpmSample_t sample)
{
	if (!sample)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	if (!is_supported(c->gpu))
		return call_end(c, NVML_ERROR_NOT_SUPPORTED);
	*sample = (struct nvmlGpmSample_st){
		.gpu = c->index,
		.gi = gi,
		.taken_ns = now_ns(),
		.work_percent_s = telemetry_of(c->gpu).work_percent_s,
		.sm_clock_max_mhz = (unsigned int)c->gpu->board.sm_clock_max_mhz,
		.links = (unsigned int)c->gpu->board.nvlinks,
		.has_ci = gi == NO_INSTANCE || has_compute_instance(&c->mig->gi[gi]),
		.is_busy = is_busy(c, gi),
		.is_taken = 1,
	};
	return call_end(c, NVML_SUCCESS);
}

/* Of a GPU, or of the GPU instance that a MIG device belongs to. */
nvmlReturn_t nvmlGpmSampleGet(nvmlDevice_t device, nvmlGpmSample_t gpmSample)
{
	struct call c;
	nvmlReturn_t result = call_device(&c, device, __func__);

	return result ? result : take(&c, c.ci ? c.gi_id : NO_INSTANCE, gpmSample);
}

nvmlReturn_t nvmlGpmMigSampleGet(nvmlDevice_t device, unsigned int gpuInstanceId, nvmlGpmSample_t gpmSample)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!c.mig->current)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	if (gpuInstanceId >= MAX_GIS || !c.mig->gi[gpuInstanceId].used)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	return take(&c, gpuInstanceId, gpmSample);
}

static int is_between(unsigned int id, unsigned int first, unsigned int last)
{
	return id >= first && id <= last;
}

/* Traffic in MiB per second while `busy` percent of the time is spent working; negative for no such metric of a whole GPU. */
static double traffic(const struct nvmlGpmSample_st *sample, unsigned int id, double busy)
{
	const double link = busy * NVLINK_KIB / 1024.0;

	if (id == NVML_GPM_METRIC_PCIE_TX_PER_SEC)
		return busy * PCIE_TX_KIB / 1024.0;
	if (id == NVML_GPM_METRIC_PCIE_RX_PER_SEC)
		return busy * PCIE_RX_KIB / 1024.0;
	if (id == NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC || id == NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC)
		return link * sample->links;
	if (is_between(id, NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC, NVML_GPM_METRIC_NVLINK_L17_TX_PER_SEC))
		return (id - NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC) / 2 < sample->links ? link : -1.0;
	return -1.0;
}

/* Bytes until the second sample. */
static double total(const struct nvmlGpmSample_st *sample, unsigned int id)
{
	const double work = sample->work_percent_s;

	if (id == NVML_GPM_METRIC_PCIE_TX)
		return work * PCIE_TX_KIB * 1024.0;
	if (id == NVML_GPM_METRIC_PCIE_RX)
		return work * PCIE_RX_KIB * 1024.0;
	if (is_between(id, NVML_GPM_METRIC_NVLINK_L0_RX, NVML_GPM_METRIC_NVLINK_L17_TX))
		return (id - NVML_GPM_METRIC_NVLINK_L0_RX) / 2 < sample->links ? work * NVLINK_KIB * 1024.0 : -1.0;
	return -1.0;
}

/* Cycles since the driver was loaded are counted at the highest clock. */
static double cycles(const struct nvmlGpmSample_st *sample, unsigned int id)
{
	const double hertz = sample->sm_clock_max_mhz * 1e6;

	if (id == NVML_GPM_METRIC_SM_CYCLES_ELAPSED)
		return (double)sample->taken_ns / 1e9 * hertz;
	if (!is_between(id, NVML_GPM_METRIC_SM_CYCLES_ACTIVE, NVML_GPM_METRIC_FP16_CYCLES_ACTIVE))
		return -1.0;
	return sample->work_percent_s / 100.0 * shares[ratio_of_cycles[id - NVML_GPM_METRIC_SM_CYCLES_ACTIVE]] / 100.0 * hertz;
}

static int is_media(unsigned int id)
{
	return is_between(id, NVML_GPM_METRIC_NVDEC_0_UTIL, NVML_GPM_METRIC_NVDEC_7_UTIL)
	       || is_between(id, NVML_GPM_METRIC_NVJPG_0_UTIL, NVML_GPM_METRIC_NVJPG_7_UTIL)
	       || is_between(id, NVML_GPM_METRIC_NVOFA_0_UTIL, NVML_GPM_METRIC_NVOFA_1_UTIL);
}

/* The metric's value, negative where this GPU or instance has none. */
static double value_of(const struct nvmlGpmSample_st *second, unsigned int id, double busy)
{
	double value;

	if (is_between(id, NVML_GPM_METRIC_GRAPHICS_UTIL, NVML_GPM_METRIC_FP16_UTIL))
		return busy * shares[id] / 100.0;
	if (is_media(id))
		return 0.0;
	if (second->gi != NO_INSTANCE) /* links are those of the GPU */
		return -1.0;
	value = traffic(second, id, busy);
	if (value < 0.0)
		value = total(second, id);
	return value < 0.0 ? cycles(second, id) : value;
}

static void fill(nvmlGpmMetric_t *metric, const struct nvmlGpmSample_st *second, double busy)
{
	double value = value_of(second, metric->metricId, busy);

	metric->metricInfo.shortName = metric->metricInfo.longName = metric->metricInfo.unit = (char *)"";
	metric->nvmlReturn = value < 0.0 ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
	metric->value = value < 0.0 || !second->has_ci ? __builtin_nan("") : value;
}

static int are_a_pair(const struct nvmlGpmSample_st *first, const struct nvmlGpmSample_st *second)
{
	return first && second && first->is_taken && second->is_taken && first->gpu == second->gpu && first->gi == second->gi
	       && second->taken_ns > first->taken_ns;
}

/* Each metric has a result of its own. An instance without compute instances has no values: they are not numbers. */
nvmlReturn_t nvmlGpmMetricsGet(nvmlGpmMetricsGet_t *metricsGet)
{
	struct call c;
	const struct nvmlGpmSample_st *first, *second;
	double busy;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!metricsGet || metricsGet->numMetrics > NVML_GPM_METRIC_MAX)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (metricsGet->version != NVML_GPM_METRICS_GET_VERSION)
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	first = metricsGet->sample1;
	second = metricsGet->sample2;
	if (!are_a_pair(first, second))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	busy = (second->work_percent_s - first->work_percent_s) * 1e9 / (double)(second->taken_ns - first->taken_ns);
	if (busy < 0.0 || !second->is_busy)
		busy = 0.0;
	for (unsigned int i = 0; i < metricsGet->numMetrics; i++)
		fill(&metricsGet->metrics[i], second, busy < 100.0 ? busy : 100.0);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpmQueryIfStreamingEnabled(nvmlDevice_t device, unsigned int *state)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!state)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*state = NVML_FEATURE_DISABLED;
	return call_end(&c, is_supported(c.gpu) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}
