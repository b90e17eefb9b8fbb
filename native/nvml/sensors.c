/* NVML functions that read telemetry. */
#include "session.h"

GPU_VALUE(nvmlDeviceGetPowerUsage, unsigned int, telemetry_of(c.gpu).power_mw)
GPU_VALUE(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, telemetry_of(c.gpu).energy_mj)
GPU_VALUE(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
GPU_VALUE(nvmlDeviceGetPowerManagementLimit, unsigned int, c.gpu->power_limit_mw)
GPU_VALUE(nvmlDeviceGetEnforcedPowerLimit, unsigned int, c.gpu->power_limit_mw)
GPU_VALUE(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, c.gpu->board.power_default_mw)
GPU_VALUE(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
GPU_VALUE(nvmlDeviceGetPowerState, nvmlPstates_t, NVML_PSTATE_0)
GPU_VALUE(nvmlDeviceGetPcieReplayCounter, unsigned int, c.gpu->pcie_replays)

/* Idle, or held by the power cap when the load would take more than the limit allows. */
static unsigned long long clock_reasons(const struct gpu *gpu)
{
	const struct telemetry telemetry = telemetry_of(gpu);

	if (!telemetry.utilization)
		return nvmlClocksEventReasonGpuIdle;
	return telemetry.power_mw >= 0.94 * (double)gpu->power_limit_mw ? nvmlClocksEventReasonSwPowerCap : 0;
}

#define ALL_REASONS (nvmlClocksEventReasonGpuIdle | nvmlClocksEventReasonSwPowerCap)

GPU_VALUE(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, clock_reasons(c.gpu))
GPU_VALUE(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, clock_reasons(c.gpu))
GPU_VALUE(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, ALL_REASONS)
GPU_VALUE(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, ALL_REASONS)

/* Boards without a fan of their own (SXM) have no fans to count. */
nvmlReturn_t nvmlDeviceGetNumFans(nvmlDevice_t device, unsigned int *numFans)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!numFans)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*numFans = (unsigned int)c.gpu->board.fans;
	return call_end(&c, c.gpu->board.fans ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED);
}

/* Begins a call whose value the driver cannot give per GPU while MIG is on. */
static nvmlReturn_t call_without_mig(struct call *c, nvmlDevice_t device, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (!result && c->mig->current)
		return call_end(c, NVML_ERROR_NOT_SUPPORTED);
	return result;
}

nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization)
{
	struct call c;
	struct telemetry telemetry;
	nvmlReturn_t result = call_without_mig(&c, device, __func__);

	if (result)
		return result;
	if (!utilization)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	telemetry = telemetry_of(c.gpu);
	*utilization = (nvmlUtilization_t){ .gpu = telemetry.utilization, .memory = telemetry.memory_utilization };
	return call_end(&c, NVML_SUCCESS);
}

/* The simulated load is computation: media engines stand still. */
static nvmlReturn_t media_utilization(nvmlDevice_t device, unsigned int *value, unsigned int *period_us, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_without_mig(&c, device, function);

	if (result)
		return result;
	if (!value || !period_us)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*value = 0;
	*period_us = 167000;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetEncoderUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs)
{
	return media_utilization(device, utilization, samplingPeriodUs, __func__);
}

nvmlReturn_t nvmlDeviceGetDecoderUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs)
{
	return media_utilization(device, utilization, samplingPeriodUs, __func__);
}

nvmlReturn_t nvmlDeviceGetJpgUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs)
{
	return media_utilization(device, utilization, samplingPeriodUs, __func__);
}

nvmlReturn_t nvmlDeviceGetOfaUtilization(nvmlDevice_t device, unsigned int *utilization, unsigned int *samplingPeriodUs)
{
	return media_utilization(device, utilization, samplingPeriodUs, __func__);
}

nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensorType, unsigned int *temp)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!temp || sensorType != NVML_TEMPERATURE_GPU)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*temp = telemetry_of(c.gpu).temperature_c;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetTemperatureV(nvmlDevice_t device, nvmlTemperature_t *temperature)
{
	unsigned int celsius = 0;
	nvmlReturn_t result;

	if (!temperature)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (temperature->version != NVMLSIM_VERSION(nvmlTemperature_v1_t, 1))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	result = nvmlDeviceGetTemperature(device, temperature->sensorType, &celsius);
	if (!result)
		temperature->temperature = (int)celsius;
	return result;
}

nvmlReturn_t nvmlDeviceGetTemperatureThreshold(nvmlDevice_t device, nvmlTemperatureThresholds_t thresholdType, unsigned int *temp)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!temp || thresholdType >= NVML_TEMPERATURE_THRESHOLD_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SHUTDOWN)
		*temp = (unsigned int)c.gpu->board.temperature_shutdown_c;
	else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_SLOWDOWN)
		*temp = (unsigned int)c.gpu->board.temperature_slowdown_c;
	else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_MEM_MAX)
		*temp = (unsigned int)c.gpu->board.temperature_memory_max_c;
	else if (thresholdType == NVML_TEMPERATURE_THRESHOLD_GPU_MAX)
		*temp = (unsigned int)c.gpu->board.temperature_gpu_max_c;
	else
		result = NVML_ERROR_NOT_SUPPORTED;
	return call_end(&c, result);
}

nvmlReturn_t nvmlDeviceGetPowerManagementLimitConstraints(nvmlDevice_t device, unsigned int *minLimit, unsigned int *maxLimit)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!minLimit || !maxLimit)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*minLimit = (unsigned int)c.gpu->board.power_min_mw;
	*maxLimit = (unsigned int)c.gpu->board.power_max_mw;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (limit < c.gpu->board.power_min_mw || limit > c.gpu->board.power_max_mw)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (result)
		return call_end(&c, result);
	telemetry_start(c.gpu, load_now(c.gpu)->percent); /* energy so far was drawn under the old limit */
	c.gpu->power_limit_mw = limit;
	return call_end(&c, NVML_SUCCESS);
}

static unsigned int clock_mhz(const struct gpu *gpu, nvmlClockType_t type, int maximum)
{
	const struct telemetry telemetry = telemetry_of(gpu);

	switch (type) {
	case NVML_CLOCK_MEM: return (unsigned int)gpu->board.memory_clock_mhz;
	case NVML_CLOCK_VIDEO: return maximum ? (unsigned int)gpu->board.video_clock_max_mhz : telemetry.video_clock_mhz;
	default: return maximum ? (unsigned int)gpu->board.sm_clock_max_mhz : telemetry.sm_clock_mhz;
	}
}

static nvmlReturn_t clock_value(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock, int maximum, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (!clock || type >= NVML_CLOCK_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*clock = clock_mhz(c.gpu, type, maximum);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
	return clock_value(device, type, clock, 0, __func__);
}

nvmlReturn_t nvmlDeviceGetMaxClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *clock)
{
	return clock_value(device, type, clock, 1, __func__);
}

/* Application clocks are not modelled: target, default and customer boost are all the maximum. */
nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t clockType, nvmlClockId_t clockId, unsigned int *clockMHz)
{
	if (clockId >= NVML_CLOCK_ID_COUNT)
		return NVML_ERROR_INVALID_ARGUMENT;
	return clock_value(device, clockType, clockMHz, clockId != NVML_CLOCK_ID_CURRENT, __func__);
}

nvmlReturn_t nvmlDeviceGetPcieThroughput(nvmlDevice_t device, nvmlPcieUtilCounter_t counter, unsigned int *value)
{
	struct call c;
	struct telemetry telemetry;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!value || counter >= NVML_PCIE_UTIL_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	telemetry = telemetry_of(c.gpu);
	*value = counter == NVML_PCIE_UTIL_TX_BYTES ? telemetry.pcie_tx_kbps : telemetry.pcie_rx_kbps;
	return call_end(&c, NVML_SUCCESS);
}
