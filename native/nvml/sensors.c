/* NVML functions that read telemetry. */
#include "session.h"

GPU_VALUE(nvmlDeviceGetPcieReplayCounter, unsigned int, c.gpu->pcie_replays)

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
