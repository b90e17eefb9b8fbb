/* nvmlDeviceGetFieldValues: many values in one call, each with a result of its own. */
#include <time.h>

#include "session.h"

static nvmlReturn_t number(nvmlFieldValue_t *field, unsigned int value)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
	field->value.uiVal = value;
	return NVML_SUCCESS;
}

static nvmlReturn_t big_number(nvmlFieldValue_t *field, unsigned long long value)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
	field->value.ullVal = value;
	return NVML_SUCCESS;
}

static nvmlReturn_t real_number(nvmlFieldValue_t *field, double value)
{
	field->valueType = NVML_VALUE_TYPE_DOUBLE;
	field->value.dVal = value;
	return NVML_SUCCESS;
}

static nvmlReturn_t read_power(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const struct board *board = &gpu->board;

	switch (field->fieldId) {
	case NVML_FI_DEV_POWER_AVERAGE:
		/* nvml.h: "Ampere (except GA100) or newer"; the only Ampere boards here are GA100 */
		if (board->architecture == NVML_DEVICE_ARCH_AMPERE)
			return NVML_ERROR_NOT_SUPPORTED;
		return number(field, telemetry_of(gpu).power_mw);
	case NVML_FI_DEV_POWER_INSTANT: return number(field, telemetry_of(gpu).power_mw);
	case NVML_FI_DEV_POWER_MIN_LIMIT: return number(field, (unsigned int)board->power_min_mw);
	case NVML_FI_DEV_POWER_MAX_LIMIT: return number(field, (unsigned int)board->power_max_mw);
	case NVML_FI_DEV_POWER_DEFAULT_LIMIT: return number(field, (unsigned int)board->power_default_mw);
	case NVML_FI_DEV_POWER_CURRENT_LIMIT:
	case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return number(field, (unsigned int)gpu->power_limit_mw);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

static nvmlReturn_t read_memory_health(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	switch (field->fieldId) {
	case NVML_FI_DEV_ECC_CURRENT: return number(field, (unsigned int)gpu->ecc);
	case NVML_FI_DEV_ECC_PENDING: return number(field, (unsigned int)gpu->ecc_pending);
	case NVML_FI_DEV_ECC_SBE_VOL_TOTAL:
	case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return big_number(field, gpu->ecc_corrected);
	case NVML_FI_DEV_ECC_DBE_VOL_TOTAL:
	case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return big_number(field, gpu->ecc_uncorrected);
	case NVML_FI_DEV_REMAPPED_COR: return number(field, (unsigned int)gpu->remapped_correctable);
	case NVML_FI_DEV_REMAPPED_UNC: return number(field, (unsigned int)gpu->remapped_uncorrectable);
	case NVML_FI_DEV_REMAPPED_PENDING: return number(field, (unsigned int)gpu->remap_pending);
	case NVML_FI_DEV_REMAPPED_FAILURE: return number(field, (unsigned int)gpu->remap_failed);
	default: return read_power(gpu, field);
	}
}

static nvmlReturn_t read_field(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	switch (field->fieldId) {
	case NVML_FI_DEV_MEMORY_TEMP: return number(field, telemetry_of(gpu).memory_temperature_c);
	case NVML_FI_DEV_GPU_TEMP: return real_number(field, telemetry_of(gpu).temperature_c);
	case NVML_FI_DEV_ENERGY:
	case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: return big_number(field, telemetry_of(gpu).energy_mj);
	case NVML_FI_DEV_NVLINK_LINK_COUNT: return number(field, (unsigned int)gpu->board.nvlinks);
	case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return number(field, (unsigned int)gpu->pcie_replays);
	case NVML_FI_DEV_PERF_POLICY_POWER:
	case NVML_FI_DEV_PERF_POLICY_THERMAL: return big_number(field, 0);
	case NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED: return number(field, (unsigned int)gpu->board.mig_resetless);
	case NVML_FI_DEV_IS_MIG_MODE_INDEPENDENT_MIG_QUERY_CAPABLE:
		return number(field, (unsigned int)gpu->board.mig_query_when_off);
	default: return read_memory_health(gpu, field);
	}
}

static long long wall_clock_us(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (long long)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

/* The call succeeds even where single fields do not: their nvmlReturn says so. */
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int valuesCount, nvmlFieldValue_t *values)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!values || valuesCount < 1)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	for (int i = 0; i < valuesCount; i++) {
		values[i].value.ullVal = 0;
		values[i].valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
		values[i].nvmlReturn = read_field(c.gpu, &values[i]);
		values[i].timestamp = wall_clock_us();
		values[i].latencyUsec = 0;
	}
	return call_end(&c, NVML_SUCCESS);
}
