/* NVML functions about clocks: what they are, what bounds them, and why they are no higher. */
#include "session.h"

GPU_VALUE(nvmlDeviceGetPerformanceState, nvmlPstates_t, NVML_PSTATE_0)
GPU_VALUE(nvmlDeviceGetPowerState, nvmlPstates_t, NVML_PSTATE_0)

#define ALL_REASONS                                                                                                      \
	(nvmlClocksEventReasonGpuIdle | nvmlClocksEventReasonApplicationsClocksSetting | nvmlClocksEventReasonSwPowerCap \
	 | nvmlClocksThrottleReasonHwSlowdown | nvmlClocksEventReasonSyncBoost | nvmlClocksEventReasonSwThermalSlowdown  \
	 | nvmlClocksThrottleReasonHwThermalSlowdown | nvmlClocksThrottleReasonHwPowerBrakeSlowdown)

/* Idle, held by the power limit, by the user's clocks, or by what the controller says. */
static unsigned long long clock_reasons(const struct gpu *gpu)
{
	unsigned long long reasons = gpu->event_reasons & ALL_REASONS;

	if (!load_now(gpu)->percent)
		return reasons | nvmlClocksEventReasonGpuIdle;
	if (power_is_capped(gpu))
		reasons |= nvmlClocksEventReasonSwPowerCap;
	if (gpu->application_clock_mhz || gpu->locked_max_mhz)
		reasons |= nvmlClocksEventReasonApplicationsClocksSetting;
	return reasons;
}

GPU_VALUE(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, clock_reasons(c.gpu))
GPU_VALUE(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, clock_reasons(c.gpu))
GPU_VALUE(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, ALL_REASONS)
GPU_VALUE(nvmlDeviceGetSupportedClocksThrottleReasons, unsigned long long, ALL_REASONS)

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

/* Target, default and customer boost clocks are all the maximum. */
nvmlReturn_t nvmlDeviceGetClock(nvmlDevice_t device, nvmlClockType_t clockType, nvmlClockId_t clockId, unsigned int *clockMHz)
{
	if (clockId >= NVML_CLOCK_ID_COUNT)
		return NVML_ERROR_INVALID_ARGUMENT;
	return clock_value(device, clockType, clockMHz, clockId != NVML_CLOCK_ID_CURRENT, __func__);
}

nvmlReturn_t nvmlDeviceGetMaxCustomerBoostClock(nvmlDevice_t device, nvmlClockType_t clockType, unsigned int *clockMHz)
{
	return clock_value(device, clockType, clockMHz, 1, __func__);
}

nvmlReturn_t nvmlDeviceGetDefaultApplicationsClock(nvmlDevice_t device, nvmlClockType_t clockType, unsigned int *clockMHz)
{
	return clock_value(device, clockType, clockMHz, 1, __func__);
}

nvmlReturn_t nvmlDeviceGetApplicationsClock(nvmlDevice_t device, nvmlClockType_t clockType, unsigned int *clockMHz)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!clockMHz || clockType >= NVML_CLOCK_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*clockMHz = clock_mhz(c.gpu, clockType, 1);
	if (c.gpu->application_clock_mhz && clockType <= NVML_CLOCK_SM)
		*clockMHz = (unsigned int)c.gpu->application_clock_mhz;
	return call_end(&c, NVML_SUCCESS);
}

enum { CLOCK_STEP_MHZ = 15 };

static int is_supported(const struct board *board, unsigned int mhz)
{
	return mhz <= board->sm_clock_max_mhz && mhz >= board->sm_clock_idle_mhz && !((board->sm_clock_max_mhz - mhz) % CLOCK_STEP_MHZ);
}

nvmlReturn_t nvmlDeviceSetApplicationsClocks(nvmlDevice_t device, unsigned int memClockMHz, unsigned int graphicsClockMHz)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (memClockMHz != c.gpu->board.memory_clock_mhz || !is_supported(&c.gpu->board, graphicsClockMHz))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (!result)
		c.gpu->application_clock_mhz = graphicsClockMHz;
	return call_end(&c, result);
}

/* Locks the clock between two values, both 0 for not at all. */
static nvmlReturn_t lock_clocks(nvmlDevice_t device, unsigned int low, unsigned int high, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (low > high || high > c.gpu->board.sm_clock_max_mhz)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = call_privileged(&c);
	if (result)
		return call_end(&c, result);
	c.gpu->locked_min_mhz = low;
	c.gpu->locked_max_mhz = high;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceSetGpuLockedClocks(nvmlDevice_t device, unsigned int minGpuClockMHz, unsigned int maxGpuClockMHz)
{
	return maxGpuClockMHz ? lock_clocks(device, minGpuClockMHz, maxGpuClockMHz, __func__) : NVML_ERROR_INVALID_ARGUMENT;
}

nvmlReturn_t nvmlDeviceResetGpuLockedClocks(nvmlDevice_t device)
{
	return lock_clocks(device, 0, 0, __func__);
}

nvmlReturn_t nvmlDeviceResetApplicationsClocks(nvmlDevice_t device)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result)
		c.gpu->application_clock_mhz = 0;
	return call_end(&c, result);
}

/* The memory has one clock, so locking it changes nothing. */
static nvmlReturn_t lock_memory(nvmlDevice_t device, int within, unsigned int low, unsigned int high, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, function);

	if (result)
		return result;
	if (within && (low > c.gpu->board.memory_clock_mhz || high < c.gpu->board.memory_clock_mhz))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	return call_end(&c, call_privileged(&c));
}

nvmlReturn_t nvmlDeviceSetMemoryLockedClocks(nvmlDevice_t device, unsigned int minMemClockMHz, unsigned int maxMemClockMHz)
{
	return lock_memory(device, 1, minMemClockMHz, maxMemClockMHz, __func__);
}

nvmlReturn_t nvmlDeviceResetMemoryLockedClocks(nvmlDevice_t device)
{
	return lock_memory(device, 0, 0, 0, __func__);
}

nvmlReturn_t nvmlDeviceGetSupportedMemoryClocks(nvmlDevice_t device, unsigned int *count, unsigned int *clocksMHz)
{
	struct call c;
	unsigned int room;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	room = *count;
	*count = 1;
	if (!room || !clocksMHz)
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	*clocksMHz = (unsigned int)c.gpu->board.memory_clock_mhz;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetSupportedGraphicsClocks(nvmlDevice_t device, unsigned int memoryClockMHz, unsigned int *count,
						  unsigned int *clocksMHz)
{
	struct call c;
	unsigned int room, high;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (memoryClockMHz != c.gpu->board.memory_clock_mhz)
		return call_end(&c, NVML_ERROR_NOT_FOUND);
	room = *count;
	high = (unsigned int)c.gpu->board.sm_clock_max_mhz;
	*count = (high - (unsigned int)c.gpu->board.sm_clock_idle_mhz) / CLOCK_STEP_MHZ + 1;
	if (room < *count || !clocksMHz)
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	for (unsigned int i = 0; i < *count; i++)
		clocksMHz[i] = high - i * CLOCK_STEP_MHZ;
	return call_end(&c, NVML_SUCCESS);
}

/* There is one performance state. */
nvmlReturn_t nvmlDeviceGetMinMaxClockOfPState(nvmlDevice_t device, nvmlClockType_t type, nvmlPstates_t pstate,
					      unsigned int *minClockMHz, unsigned int *maxClockMHz)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!minClockMHz || !maxClockMHz || type >= NVML_CLOCK_COUNT || pstate != NVML_PSTATE_0)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*maxClockMHz = clock_mhz(c.gpu, type, 1);
	*minClockMHz = type == NVML_CLOCK_MEM ? *maxClockMHz : (unsigned int)c.gpu->board.sm_clock_idle_mhz;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetSupportedPerformanceStates(nvmlDevice_t device, nvmlPstates_t *pstates, unsigned int size)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!pstates || size < sizeof(*pstates))
		return call_end(&c, pstates ? NVML_ERROR_INSUFFICIENT_SIZE : NVML_ERROR_INVALID_ARGUMENT);
	for (unsigned int i = 0; i < size / sizeof(*pstates); i++)
		pstates[i] = i ? NVML_PSTATE_UNKNOWN : NVML_PSTATE_0;
	return call_end(&c, NVML_SUCCESS);
}

/* Time in nanoseconds for which a policy held the clocks down, as the field values of the same name have it. */
unsigned long long violation_ns(const struct gpu *gpu, nvmlPerfPolicyType_t policy)
{
	const unsigned long long capped = telemetry_of(gpu).capped_ns;
	const unsigned long long thermal = gpu->sw_thermal_ns + gpu->hw_thermal_ns;

	switch (policy) {
	case NVML_PERF_POLICY_POWER: return capped;
	case NVML_PERF_POLICY_THERMAL: return thermal;
	case NVML_PERF_POLICY_SYNC_BOOST: return gpu->sync_boost_ns;
	case NVML_PERF_POLICY_BOARD_LIMIT: return gpu->board_limit_ns;
	case NVML_PERF_POLICY_LOW_UTILIZATION: return gpu->low_utilization_ns;
	case NVML_PERF_POLICY_RELIABILITY: return gpu->reliability_ns;
	default: return capped + thermal + gpu->board_limit_ns + gpu->reliability_ns;
	}
}

nvmlReturn_t nvmlDeviceGetViolationStatus(nvmlDevice_t device, nvmlPerfPolicyType_t perfPolicyType, nvmlViolationTime_t *violTime)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!violTime || perfPolicyType > NVML_PERF_POLICY_TOTAL_BASE_CLOCKS
	    || (perfPolicyType > NVML_PERF_POLICY_RELIABILITY && perfPolicyType < NVML_PERF_POLICY_TOTAL_APP_CLOCKS))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*violTime = (nvmlViolationTime_t){ .referenceTime = wall_us(now_ns()), .violationTime = violation_ns(c.gpu, perfPolicyType) };
	return call_end(&c, NVML_SUCCESS);
}
