/* nvmlDeviceGetFieldValues: many values in one call, each with a result of its own. */
#include "fields.h"

nvmlReturn_t field_number(nvmlFieldValue_t *field, unsigned long long value)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_INT;
	field->value.uiVal = (unsigned int)value;
	return NVML_SUCCESS;
}

nvmlReturn_t field_big(nvmlFieldValue_t *field, unsigned long long value)
{
	field->valueType = NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
	field->value.ullVal = value;
	return NVML_SUCCESS;
}

nvmlReturn_t field_signed(nvmlFieldValue_t *field, int value)
{
	field->valueType = NVML_VALUE_TYPE_SIGNED_INT;
	field->value.siVal = value;
	return NVML_SUCCESS;
}

nvmlReturn_t field_real(nvmlFieldValue_t *field, double value)
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
		return field_number(field, telemetry_of(gpu).power_mw);
	case NVML_FI_DEV_POWER_INSTANT: return field_number(field, telemetry_of(gpu).power_mw);
	case NVML_FI_DEV_POWER_MIN_LIMIT: return field_number(field, board->power_min_mw);
	case NVML_FI_DEV_POWER_MAX_LIMIT: return field_number(field, board->power_max_mw);
	case NVML_FI_DEV_POWER_DEFAULT_LIMIT: return field_number(field, board->power_default_mw);
	case NVML_FI_DEV_POWER_CURRENT_LIMIT:
	case NVML_FI_DEV_POWER_REQUESTED_LIMIT: return field_number(field, gpu->power_limit_mw);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

/* T.Limit: how far below the highest temperature of operation; negative ones lie above it. Hopper and later. */
static nvmlReturn_t read_limits(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const struct board *board = &gpu->board;
	const int high = (int)board->temperature_gpu_max_c;

	if (board->architecture < NVML_DEVICE_ARCH_HOPPER)
		return NVML_ERROR_NOT_SUPPORTED;
	switch (field->fieldId) {
	case NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT: return field_signed(field, high - (int)board->temperature_shutdown_c);
	case NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT: return field_signed(field, high - (int)board->temperature_slowdown_c);
	case NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT:
	case NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT: return field_signed(field, 0);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

static nvmlReturn_t read_thermal(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const struct telemetry telemetry = telemetry_of(gpu);

	switch (field->fieldId) {
	case NVML_FI_DEV_MEMORY_TEMP: return field_number(field, telemetry.memory_temperature_c);
	case NVML_FI_DEV_GPU_TEMP: return field_real(field, telemetry.temperature_c);
	case NVML_FI_DEV_ENERGY:
	case NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION: return field_big(field, telemetry.energy_mj);
	case NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED: return field_number(field, gpu->board.mig_resetless);
	case NVML_FI_DEV_IS_MIG_MODE_INDEPENDENT_MIG_QUERY_CAPABLE: return field_number(field, gpu->board.mig_query_when_off);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

typedef nvmlReturn_t family(const struct gpu *gpu, nvmlFieldValue_t *field);

/* The first family that knows the field has it. */
static nvmlReturn_t read_field(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	static family *const families[] = { read_thermal, read_power, read_limits, read_health_field, read_link_field };
	nvmlReturn_t result = NVML_ERROR_NOT_SUPPORTED;

	for (unsigned int i = 0; i < sizeof(families) / sizeof(*families) && result == NVML_ERROR_NOT_SUPPORTED; i++)
		result = families[i](gpu, field);
	return result;
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
		values[i].timestamp = (long long)wall_us(now_ns());
		values[i].latencyUsec = 0;
	}
	return call_end(&c, NVML_SUCCESS);
}
