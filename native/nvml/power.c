/* NVML functions about power, and how far the GPU is from being too hot. */
#include "session.h"

GPU_VALUE(nvmlDeviceGetPowerUsage, unsigned int, telemetry_of(c.gpu).power_mw)
GPU_VALUE(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, telemetry_of(c.gpu).energy_mj)
GPU_VALUE(nvmlDeviceGetPowerManagementMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)
GPU_VALUE(nvmlDeviceGetPowerManagementLimit, unsigned int, c.gpu->power_limit_mw)
GPU_VALUE(nvmlDeviceGetEnforcedPowerLimit, unsigned int, c.gpu->power_limit_mw)
GPU_VALUE(nvmlDeviceGetPowerManagementDefaultLimit, unsigned int, c.gpu->board.power_default_mw)
GPU_VALUE(nvmlDeviceGetPowerSource, nvmlPowerSource_t, NVML_POWER_SOURCE_AC)

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

static nvmlReturn_t set_limit(nvmlDevice_t device, unsigned int limit, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

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

nvmlReturn_t nvmlDeviceSetPowerManagementLimit(nvmlDevice_t device, unsigned int limit)
{
	return set_limit(device, limit, __func__);
}

/* Only the GPU's own limit is modelled, not that of a module that it shares with a CPU. */
nvmlReturn_t nvmlDeviceSetPowerManagementLimit_v2(nvmlDevice_t device, nvmlPowerValue_v2_t *powerValue)
{
	if (!powerValue)
		return NVML_ERROR_INVALID_ARGUMENT;
	if (powerValue->version != NVMLSIM_VERSION(nvmlPowerValue_v2_t, 2))
		return NVML_ERROR_ARGUMENT_VERSION_MISMATCH;
	if (powerValue->powerScope != NVML_POWER_SCOPE_GPU)
		return NVML_ERROR_NOT_SUPPORTED;
	return set_limit(device, powerValue->powerValueMw, __func__);
}

/* Degrees below the temperature at which the driver begins to slow the GPU down. */
nvmlReturn_t nvmlDeviceGetMarginTemperature(nvmlDevice_t device, nvmlMarginTemperature_t *marginTempInfo)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!marginTempInfo)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (marginTempInfo->version != NVMLSIM_VERSION(nvmlMarginTemperature_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	if (c.gpu->board.architecture < NVML_DEVICE_ARCH_HOPPER)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	marginTempInfo->marginTemperature = (int)c.gpu->board.temperature_gpu_max_c - (int)telemetry_of(c.gpu).temperature_c;
	return call_end(&c, NVML_SUCCESS);
}
