/* NVML functions about the health of memory: ECC mode and errors, remapped rows. */
#include "session.h"

GPU_VALUE(nvmlDeviceGetDefaultEccMode, nvmlEnableState_t, NVML_FEATURE_ENABLED)

nvmlReturn_t nvmlDeviceGetEccMode(nvmlDevice_t device, nvmlEnableState_t *current, nvmlEnableState_t *pending)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!current || !pending)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*current = (nvmlEnableState_t)c.gpu->ecc;
	*pending = (nvmlEnableState_t)c.gpu->ecc_pending;
	return call_end(&c, NVML_SUCCESS);
}

/* Takes effect at the next reset or driver load. */
nvmlReturn_t nvmlDeviceSetEccMode(nvmlDevice_t device, nvmlEnableState_t ecc)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (ecc > NVML_FEATURE_ENABLED)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->ecc_pending = ecc;
	return call_end(&c, result);
}

/* Errors of one kind: those of device memory, or of the SRAMs inside the GPU. Aggregate ones outlive a driver load. */
static unsigned long long errors(const struct gpu *gpu, int corrected, int aggregate, int sram)
{
	if (sram && aggregate)
		return corrected ? gpu->sram_corrected_aggregate : gpu->sram_uncorrected_aggregate;
	if (sram)
		return corrected ? gpu->sram_corrected : gpu->sram_uncorrected;
	if (aggregate)
		return corrected ? gpu->ecc_corrected_aggregate : gpu->ecc_uncorrected_aggregate;
	return corrected ? gpu->ecc_corrected : gpu->ecc_uncorrected;
}

unsigned long long ecc_errors(const struct gpu *gpu, int corrected, int aggregate, enum ecc_place place)
{
	unsigned long long found = 0;

	if (place != ECC_SRAM)
		found += errors(gpu, corrected, aggregate, 0);
	if (place != ECC_DRAM)
		found += errors(gpu, corrected, aggregate, 1);
	return found;
}

static nvmlReturn_t call_ecc(struct call *c, nvmlDevice_t device, unsigned int type, unsigned int counter, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (result)
		return result;
	if (type >= NVML_MEMORY_ERROR_TYPE_COUNT || counter >= NVML_ECC_COUNTER_TYPE_COUNT)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	return c->gpu->ecc ? NVML_SUCCESS : call_end(c, NVML_ERROR_NOT_SUPPORTED);
}

nvmlReturn_t nvmlDeviceGetTotalEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType, nvmlEccCounterType_t counterType,
					 unsigned long long *eccCounts)
{
	struct call c;
	nvmlReturn_t result = call_ecc(&c, device, errorType, counterType, __func__);

	if (result)
		return result;
	if (!eccCounts)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*eccCounts = ecc_errors(c.gpu, errorType == NVML_MEMORY_ERROR_TYPE_CORRECTED, counterType != NVML_VOLATILE_ECC, ECC_TOTAL);
	return call_end(&c, NVML_SUCCESS);
}

/* The errors inside the GPU count as those of its L2 cache. */
nvmlReturn_t nvmlDeviceGetDetailedEccErrors(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
					    nvmlEccCounterType_t counterType, nvmlEccErrorCounts_t *eccCounts)
{
	struct call c;
	const int corrected = errorType == NVML_MEMORY_ERROR_TYPE_CORRECTED, aggregate = counterType != NVML_VOLATILE_ECC;
	nvmlReturn_t result = call_ecc(&c, device, errorType, counterType, __func__);

	if (result)
		return result;
	if (!eccCounts)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*eccCounts = (nvmlEccErrorCounts_t){
		.l2Cache = ecc_errors(c.gpu, corrected, aggregate, ECC_SRAM),
		.deviceMemory = ecc_errors(c.gpu, corrected, aggregate, ECC_DRAM),
	};
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetMemoryErrorCounter(nvmlDevice_t device, nvmlMemoryErrorType_t errorType,
					     nvmlEccCounterType_t counterType, nvmlMemoryLocation_t locationType,
					     unsigned long long *count)
{
	struct call c;
	nvmlReturn_t result = call_ecc(&c, device, errorType, counterType, __func__);

	if (result)
		return result;
	if (!count || locationType >= NVML_MEMORY_LOCATION_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (locationType != NVML_MEMORY_LOCATION_DRAM && locationType != NVML_MEMORY_LOCATION_SRAM)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*count = ecc_errors(c.gpu, errorType == NVML_MEMORY_ERROR_TYPE_CORRECTED, counterType != NVML_VOLATILE_ECC,
			    locationType == NVML_MEMORY_LOCATION_DRAM ? ECC_DRAM : ECC_SRAM);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceClearEccErrorCounts(nvmlDevice_t device, nvmlEccCounterType_t counterType)
{
	struct call c;
	nvmlReturn_t result = call_ecc(&c, device, NVML_MEMORY_ERROR_TYPE_CORRECTED, counterType, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (result)
		return call_end(&c, result);
	if (counterType == NVML_VOLATILE_ECC)
		c.gpu->ecc_corrected = c.gpu->ecc_uncorrected = c.gpu->sram_corrected = c.gpu->sram_uncorrected = 0;
	else
		c.gpu->ecc_corrected_aggregate = c.gpu->ecc_uncorrected_aggregate = c.gpu->sram_corrected_aggregate =
			c.gpu->sram_uncorrected_aggregate = 0;
	return call_end(&c, NVML_SUCCESS);
}

/* The driver's thresholds are not published; a test needs one that can be passed. */
#define SRAM_THRESHOLD 4

nvmlReturn_t nvmlDeviceGetSramEccErrorStatus(nvmlDevice_t device, nvmlEccSramErrorStatus_t *status)
{
	struct call c;
	nvmlReturn_t result = call_ecc(&c, device, NVML_MEMORY_ERROR_TYPE_CORRECTED, NVML_VOLATILE_ECC, __func__);

	if (result)
		return result;
	if (!status)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (status->version != NVMLSIM_VERSION(nvmlEccSramErrorStatus_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	*status = (nvmlEccSramErrorStatus_t){
		.version = status->version,
		.aggregateUncSecDed = c.gpu->sram_uncorrected_aggregate,
		.aggregateCor = c.gpu->sram_corrected_aggregate,
		.volatileUncSecDed = c.gpu->sram_uncorrected,
		.volatileCor = c.gpu->sram_corrected,
		.aggregateUncBucketL2 = c.gpu->sram_uncorrected_aggregate,
		.bThresholdExceeded = c.gpu->sram_uncorrected_aggregate >= SRAM_THRESHOLD,
	};
	return call_end(&c, NVML_SUCCESS);
}

/* The driver cannot say while MIG instances live. */
static int has_instances(const struct call *c)
{
	for (int i = 0; i < MAX_GIS; i++)
		if (c->mig->gi[i].used)
			return 1;
	return 0;
}

nvmlReturn_t nvmlDeviceGetRemappedRows(nvmlDevice_t device, unsigned int *corrRows, unsigned int *uncRows,
				       unsigned int *isPending, unsigned int *failureOccurred)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!corrRows || !uncRows || !isPending || !failureOccurred)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (has_instances(&c))
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	*corrRows = (unsigned int)c.gpu->remapped_correctable;
	*uncRows = (unsigned int)c.gpu->remapped_uncorrectable;
	*isPending = (unsigned int)c.gpu->remap_pending;
	*failureOccurred = (unsigned int)c.gpu->remap_failed;
	return call_end(&c, NVML_SUCCESS);
}

/* Inactive ones, which wait for a reset, are those that are pending. */
nvmlReturn_t nvmlDeviceGetRemappedRows_v2(nvmlDevice_t device, nvmlRemappedRowsInfo_v2_t *info)
{
	unsigned int correctable, uncorrectable, pending, failed;
	nvmlReturn_t result;

	if (!info)
		return NVML_ERROR_INVALID_ARGUMENT;
	result = nvmlDeviceGetRemappedRows(device, &correctable, &uncorrectable, &pending, &failed);
	if (result)
		return result;
	*info = (nvmlRemappedRowsInfo_v2_t){
		.corrActiveRemaps = correctable,
		.uncActiveRemaps = uncorrectable - (pending && uncorrectable),
		.uncInactiveRemaps = pending && uncorrectable,
		.bPending = pending,
		.bFailureOccurred = failed,
	};
	return NVML_SUCCESS;
}

/* Nothing ever waits for repair. */
nvmlReturn_t nvmlDeviceGetRepairStatus(nvmlDevice_t device, nvmlRepairStatus_t *repairStatus)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!repairStatus)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (repairStatus->version != NVMLSIM_VERSION(nvmlRepairStatus_v1_t, 1))
		return call_end(&c, NVML_ERROR_ARGUMENT_VERSION_MISMATCH);
	*repairStatus = (nvmlRepairStatus_t){ .version = repairStatus->version };
	return call_end(&c, NVML_SUCCESS);
}

/* 640 banks with all their spare rows, less one bank for each row used. */
nvmlReturn_t nvmlDeviceGetRowRemapperHistogram(nvmlDevice_t device, nvmlRowRemapperHistogramValues_t *values)
{
	struct call c;
	unsigned int used;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!values)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	used = (unsigned int)(c.gpu->remapped_correctable + c.gpu->remapped_uncorrectable);
	*values = (nvmlRowRemapperHistogramValues_t){ .max = 640 - (used < 640 ? used : 640), .high = used < 640 ? used : 640 };
	return call_end(&c, NVML_SUCCESS);
}
