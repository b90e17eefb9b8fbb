/* Field values about errors, remapped memory and what held the clocks down. */
#include "fields.h"

static nvmlReturn_t read_ecc(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	switch (field->fieldId) {
	case NVML_FI_DEV_ECC_SBE_VOL_TOTAL: return field_big(field, ecc_errors(gpu, 1, 0, ECC_TOTAL));
	case NVML_FI_DEV_ECC_DBE_VOL_TOTAL: return field_big(field, ecc_errors(gpu, 0, 0, ECC_TOTAL));
	case NVML_FI_DEV_ECC_SBE_AGG_TOTAL: return field_big(field, ecc_errors(gpu, 1, 1, ECC_TOTAL));
	case NVML_FI_DEV_ECC_DBE_AGG_TOTAL: return field_big(field, ecc_errors(gpu, 0, 1, ECC_TOTAL));
	case NVML_FI_DEV_ECC_SBE_VOL_DEV: return field_big(field, ecc_errors(gpu, 1, 0, ECC_DRAM));
	case NVML_FI_DEV_ECC_DBE_VOL_DEV: return field_big(field, ecc_errors(gpu, 0, 0, ECC_DRAM));
	case NVML_FI_DEV_ECC_SBE_AGG_DEV: return field_big(field, ecc_errors(gpu, 1, 1, ECC_DRAM));
	case NVML_FI_DEV_ECC_DBE_AGG_DEV: return field_big(field, ecc_errors(gpu, 0, 1, ECC_DRAM));
	case NVML_FI_DEV_ECC_SBE_VOL_L2: return field_big(field, ecc_errors(gpu, 1, 0, ECC_SRAM));
	case NVML_FI_DEV_ECC_DBE_VOL_L2: return field_big(field, ecc_errors(gpu, 0, 0, ECC_SRAM));
	case NVML_FI_DEV_ECC_SBE_AGG_L2: return field_big(field, ecc_errors(gpu, 1, 1, ECC_SRAM));
	case NVML_FI_DEV_ECC_DBE_AGG_L2: return field_big(field, ecc_errors(gpu, 0, 1, ECC_SRAM));
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

static nvmlReturn_t read_rows(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	switch (field->fieldId) {
	case NVML_FI_DEV_REMAPPED_COR: return field_number(field, gpu->remapped_correctable);
	case NVML_FI_DEV_REMAPPED_UNC: return field_number(field, gpu->remapped_uncorrectable);
	case NVML_FI_DEV_REMAPPED_PENDING: return field_number(field, gpu->remap_pending);
	case NVML_FI_DEV_REMAPPED_FAILURE: return field_number(field, gpu->remap_failed);
	case NVML_FI_DEV_REMAPPED_ROWS_COR_INACTIVE: return field_number(field, 0);
	case NVML_FI_DEV_REMAPPED_ROWS_UNC_INACTIVE:
		return field_number(field, gpu->remap_pending && gpu->remapped_uncorrectable);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

static nvmlReturn_t read_policy(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const unsigned int policy = field->fieldId - NVML_FI_DEV_PERF_POLICY_POWER;

	switch (field->fieldId) {
	case NVML_FI_DEV_PERF_POLICY_TOTAL_APP_CLOCKS:
		return field_big(field, violation_ns(gpu, NVML_PERF_POLICY_TOTAL_APP_CLOCKS));
	case NVML_FI_DEV_PERF_POLICY_TOTAL_BASE_CLOCKS:
		return field_big(field, violation_ns(gpu, NVML_PERF_POLICY_TOTAL_BASE_CLOCKS));
	case NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN: return field_big(field, gpu->sw_thermal_ns);
	case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN: return field_big(field, gpu->hw_thermal_ns);
	case NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN: return field_big(field, gpu->power_brake_ns);
	default: return field_big(field, violation_ns(gpu, policy));
	}
}

static int is_policy(unsigned int id)
{
	return (id >= NVML_FI_DEV_PERF_POLICY_POWER && id <= NVML_FI_DEV_PERF_POLICY_TOTAL_BASE_CLOCKS)
	       || (id >= NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN
		   && id <= NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN);
}

/* All PCIe errors of the controller count as correctable ones. */
static nvmlReturn_t read_pcie(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const double work = telemetry_of(gpu).work_percent_s;

	switch (field->fieldId) {
	case NVML_FI_DEV_PCIE_REPLAY_COUNTER: return field_number(field, gpu->pcie_replays);
	case NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER:
	case NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER: return field_number(field, 0);
	case NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS: return field_number(field, gpu->pcie_errors);
	case NVML_FI_DEV_PCIE_COUNT_TX_BYTES: return field_big(field, (unsigned long long)(work * PCIE_TX_KIB * 1024.0));
	case NVML_FI_DEV_PCIE_COUNT_RX_BYTES: return field_big(field, (unsigned long long)(work * PCIE_RX_KIB * 1024.0));
	default:
		if (field->fieldId > NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS
		    && field->fieldId <= NVML_FI_DEV_PCIE_COUNT_LANE_ERROR)
			return field_number(field, 0);
		return NVML_ERROR_NOT_SUPPORTED;
	}
}

nvmlReturn_t read_health_field(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	nvmlReturn_t result;

	if (field->fieldId == NVML_FI_DEV_ECC_CURRENT)
		return field_number(field, gpu->ecc);
	if (field->fieldId == NVML_FI_DEV_ECC_PENDING)
		return field_number(field, gpu->ecc_pending);
	if (field->fieldId == NVML_FI_DEV_GET_GPU_RECOVERY_ACTION)
		return field_number(field, gpu->recovery_action);
	if (is_policy(field->fieldId))
		return read_policy(gpu, field);
	result = gpu->ecc ? read_ecc(gpu, field) : NVML_ERROR_NOT_SUPPORTED;
	if (result)
		result = read_rows(gpu, field);
	return result ? read_pcie(gpu, field) : result;
}
