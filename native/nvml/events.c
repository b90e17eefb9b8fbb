/* NVML event sets over the machine's ring of events; waiters sleep on the ring's counter as a futex. */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "session.h"

struct nvmlEventSet_st {
	unsigned long long types[MAX_GPUS];
	uint32_t seen; /* events read so far, by the machine's count */
};

#define SUPPORTED_EVENTS                                                                                                 \
	(nvmlEventTypeSingleBitEccError | nvmlEventTypeDoubleBitEccError | nvmlEventTypePState                           \
	 | nvmlEventTypeXidCriticalError | nvmlEventTypeClock | nvmlEventMigConfigChange                                 \
	 | nvmlEventTypeGpuUnavailableError | nvmlEventTypeGpuRecoveryAction)

GPU_VALUE(nvmlDeviceGetSupportedEventTypes, unsigned long long, SUPPORTED_EVENTS)

nvmlReturn_t nvmlEventSetCreate(nvmlEventSet_t *set)
{
	struct call c;
	nvmlReturn_t result = call_system(&c, __func__);

	if (result)
		return result;
	if (!set)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*set = calloc(1, sizeof(**set));
	if (*set)
		(*set)->seen = atomic_load(&c.machine->events);
	return call_end(&c, *set ? NVML_SUCCESS : NVML_ERROR_MEMORY);
}

nvmlReturn_t nvmlEventSetFree(nvmlEventSet_t set)
{
	if (!set)
		return NVML_ERROR_INVALID_ARGUMENT;
	free(set);
	return NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceRegisterEvents(nvmlDevice_t device, unsigned long long eventTypes, nvmlEventSet_t set)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!set)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (eventTypes & ~(unsigned long long)SUPPORTED_EVENTS)
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	set->types[c.index] |= eventTypes;
	return call_end(&c, NVML_SUCCESS);
}

/* The next event that the set asked for; 0 where there is none yet. What the ring has overwritten is lost. */
static int next_event(struct call *c, nvmlEventSet_t set, nvmlEventData_t *data)
{
	uint32_t written = atomic_load(&c->machine->events);

	if (written - set->seen > MAX_EVENTS)
		set->seen = written - MAX_EVENTS;
	while (set->seen != written) {
		const struct event *event = &c->machine->event[set->seen++ % MAX_EVENTS];

		if (!(set->types[event->gpu] & event->type))
			continue;
		*data = (nvmlEventData_t){
			.device = gpu_handle(c, event->gpu),
			.eventType = event->type,
			.eventData = event->data,
			.gpuInstanceId = event->gi,
			.computeInstanceId = event->ci,
		};
		return 1;
	}
	return 0;
}

/* Sleep until an event is written or the deadline passes. */
static void sleep_for_event(struct machine *machine, uint32_t seen, uint64_t left_ns)
{
	const struct timespec left = { .tv_sec = (time_t)(left_ns / 1000000000ULL), .tv_nsec = (long)(left_ns % 1000000000ULL) };

	syscall(SYS_futex, &machine->events, FUTEX_WAIT, seen, &left, NULL, 0);
}

nvmlReturn_t nvmlEventSetWait_v2(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
	const uint64_t deadline = now_ns() + timeoutms * 1000000ULL;
	struct call c;

	if (!set || !data)
		return NVML_ERROR_INVALID_ARGUMENT;
	for (;;) {
		nvmlReturn_t result = call_system(&c, __func__);
		uint64_t now = now_ns();

		if (result)
			return result;
		if (next_event(&c, set, data))
			return call_end(&c, NVML_SUCCESS);
		machine_unlock(c.machine);
		if (now >= deadline)
			return NVML_ERROR_TIMEOUT;
		sleep_for_event(c.machine, set->seen, deadline - now);
	}
}

nvmlReturn_t nvmlEventSetWait(nvmlEventSet_t set, nvmlEventData_t *data, unsigned int timeoutms)
{
	return nvmlEventSetWait_v2(set, data, timeoutms);
}
