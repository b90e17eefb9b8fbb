/* NVML functions on GPU instances: room, creation, destruction, listing. */
#include "mig.h"

static uint32_t span(uint32_t start, uint32_t size)
{
	return ((1U << size) - 1U) << start;
}

static uint32_t occupied(const struct mig_layout *layout)
{
	uint32_t slices = 0;

	for (int i = 0; i < MAX_GIS; i++)
		if (layout->gi[i].used)
			slices |= span(layout->gi[i].start, layout->gi[i].size);
	return slices;
}

static unsigned int compute_slices_used(const struct call *c)
{
	unsigned int slices = 0;

	for (int i = 0; i < MAX_GIS; i++)
		if (c->mig->gi[i].used)
			slices += c->gpu->board.profile[c->mig->gi[i].profile].slices;
	return slices;
}

static unsigned int instances_of(const struct call *c, const struct gi_profile *profile)
{
	unsigned int count = 0;

	for (int i = 0; i < MAX_GIS; i++)
		count += c->mig->gi[i].used && &c->gpu->board.profile[c->mig->gi[i].profile] == profile;
	return count;
}

static int has_all_media(const struct gi_profile *profile)
{
	return profile->enumerator == NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME
	       || profile->enumerator == NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME;
}

static int has_no_media(const struct gi_profile *profile)
{
	return profile->enumerator == NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME
	       || profile->enumerator == NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME;
}

/* Beside +me.all, which has every media engine of the GPU, only -me profiles fit (nvml.h, GPU instance profiles). */
static int is_excluded(const struct call *c, const struct gi_profile *profile)
{
	for (int i = 0; i < MAX_GIS; i++) {
		const struct gi_profile *other = &c->gpu->board.profile[c->mig->gi[i].profile];

		if (!c->mig->gi[i].used)
			continue;
		if ((has_all_media(other) && !has_no_media(profile)) || (has_all_media(profile) && !has_no_media(other)))
			return 1;
	}
	return 0;
}

/* Media engines in the order of struct gi_profile: decoders, encoders, jpegs, ofas. */
enum { MEDIA_KINDS = 4 };

/*
 * How many more instances the media engines allow: a GPU instance has its engines to itself, so an A30, which has one JPEG
 * engine and one OFA, has room for 1g+me or 2g+me and not for both. (MIG User Guide, A30 MIG profiles, hardware units;
 * NVIDIA/open-gpu-kernel-modules kernel_mig_manager.c, kmigmgrAllocateInstanceEngines.)
 */
static unsigned int allowance_of_media(const struct call *c, const struct gi_profile *profile)
{
	const uint32_t *there = &whole_profile(&c->gpu->board)->decoders, *each = &profile->decoders;
	unsigned int allowed = MAX_GIS;

	for (int kind = 0; kind < MEDIA_KINDS; kind++) {
		unsigned int taken = 0, room;

		for (int i = 0; i < MAX_GIS; i++)
			if (c->mig->gi[i].used)
				taken += (&c->gpu->board.profile[c->mig->gi[i].profile].decoders)[kind];
		room = there[kind] > taken ? there[kind] - taken : 0;
		if (each[kind] && room / each[kind] < allowed)
			allowed = room / each[kind];
	}
	return allowed;
}

/* How many more instances the profile's own count and the GPU's slices and engines allow, whatever their placement. */
static unsigned int allowance(const struct call *c, const struct gi_profile *profile)
{
	unsigned int by_count = profile->instances - instances_of(c, profile);
	unsigned int by_slices = (whole_profile(&c->gpu->board)->slices - compute_slices_used(c)) / profile->slices;

	unsigned int by_media = allowance_of_media(c, profile);
	unsigned int fewest = by_count < by_slices ? by_count : by_slices;

	if (is_excluded(c, profile))
		return 0;
	return fewest < by_media ? fewest : by_media;
}

/* GPU instance ids follow the span: 0 is the whole GPU, then the halves, the quarters and the eighths. */
static unsigned int instance_id(const struct board *board, uint32_t start, uint32_t size)
{
	return whole_profile(board)->size / size - 1 + start / size;
}

/* Begins a privileged call on a profile id of a GPU whose MIG mode is on. */
static nvmlReturn_t call_profile(struct call *c, nvmlDevice_t device, unsigned int id, const struct gi_profile **profile,
				 const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (result)
		return result;
	result = call_privileged(c);
	if (!result && !c->mig->current)
		result = NVML_ERROR_NOT_SUPPORTED;
	*profile = gi_profile_by_id(c, id);
	if (!result && !*profile)
		result = NVML_ERROR_INVALID_ARGUMENT;
	return result ? call_end(c, result) : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceRemainingCapacity(nvmlDevice_t device, unsigned int profileId, unsigned int *count)
{
	struct call c;
	const struct gi_profile *profile;
	unsigned int room = 0, allowed;
	nvmlReturn_t result = call_profile(&c, device, profileId, &profile, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	for (unsigned int i = 0; i < profile->placements; i++)
		room += !(occupied(c.mig) & span(profile->start[i], profile->size));
	allowed = allowance(&c, profile);
	*count = room < allowed ? room : allowed;
	return call_end(&c, NVML_SUCCESS);
}

/* A workload on the whole GPU (a profiler, a monitor) stands in the way of the first partition only. */
static nvmlReturn_t may_create(const struct call *c, const struct gi_profile *profile)
{
	if (!occupied(c->mig) && gpu_has_processes(c->machine, c->index, NO_INSTANCE, NO_INSTANCE))
		return NVML_ERROR_IN_USE;
	return allowance(c, profile) ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_RESOURCES;
}

static nvmlGpuInstance_t create(struct call *c, const struct gi_profile *profile, uint32_t start)
{
	unsigned int id = instance_id(&c->gpu->board, start, profile->size);

	mig_change(c->gpu)->gi[id] = (struct gi){
		.used = 1,
		.profile = (uint32_t)(profile - c->gpu->board.profile),
		.start = start,
		.size = profile->size,
	};
	mig_commit(c->gpu);
	mig_post_change(c->machine, c->index);
	return gi_handle(c, id);
}

/* The driver takes the first free place in its own order of preference, which may waste room: placing is the caller's business. */
nvmlReturn_t nvmlDeviceCreateGpuInstance(nvmlDevice_t device, unsigned int profileId, nvmlGpuInstance_t *gpuInstance)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_profile(&c, device, profileId, &profile, __func__);

	if (result)
		return result;
	result = gpuInstance ? may_create(&c, profile) : NVML_ERROR_INVALID_ARGUMENT;
	if (result)
		return call_end(&c, result);
	for (unsigned int i = 0; i < profile->placements; i++) {
		if (occupied(c.mig) & span(profile->preference[i], profile->size))
			continue;
		*gpuInstance = create(&c, profile, profile->preference[i]);
		return call_end(&c, NVML_SUCCESS);
	}
	return call_end(&c, NVML_ERROR_INSUFFICIENT_RESOURCES);
}

static int is_legal(const struct gi_profile *profile, const nvmlGpuInstancePlacement_t *placement)
{
	for (unsigned int i = 0; i < profile->placements; i++)
		if (placement->start == profile->start[i] && placement->size == profile->size)
			return 1;
	return 0;
}

nvmlReturn_t nvmlDeviceCreateGpuInstanceWithPlacement(nvmlDevice_t device, unsigned int profileId,
						      const nvmlGpuInstancePlacement_t *placement,
						      nvmlGpuInstance_t *gpuInstance)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_profile(&c, device, profileId, &profile, __func__);

	if (result)
		return result;
	if (!placement || !gpuInstance || !is_legal(profile, placement))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = may_create(&c, profile);
	if (!result && occupied(c.mig) & span(placement->start, placement->size))
		result = NVML_ERROR_INSUFFICIENT_RESOURCES;
	if (!result)
		*gpuInstance = create(&c, profile, placement->start);
	return call_end(&c, result);
}

static int has_compute_instances(const struct gi *gi)
{
	for (int i = 0; i < MAX_CIS; i++)
		if (gi->ci[i].used)
			return 1;
	return 0;
}

nvmlReturn_t nvmlGpuInstanceDestroy(nvmlGpuInstance_t gpuInstance)
{
	struct call c;
	nvmlReturn_t result = call_gi(&c, gpuInstance, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result && (has_compute_instances(c.gi) || gpu_has_processes(c.machine, c.index, c.gi_id, NO_INSTANCE)))
		result = NVML_ERROR_IN_USE;
	if (result)
		return call_end(&c, result);
	mig_change(c.gpu)->gi[c.gi_id].used = 0;
	mig_commit(c.gpu);
	mig_post_change(c.machine, c.index);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstances(nvmlDevice_t device, unsigned int profileId, nvmlGpuInstance_t *gpuInstances,
				       unsigned int *count)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_profile(&c, device, profileId, &profile, __func__);

	if (result)
		return result;
	if (!gpuInstances || !count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*count = 0;
	for (unsigned int i = 0; i < MAX_GIS; i++)
		if (c.mig->gi[i].used && &c.gpu->board.profile[c.mig->gi[i].profile] == profile)
			gpuInstances[(*count)++] = gi_handle(&c, i);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceById(nvmlDevice_t device, unsigned int id, nvmlGpuInstance_t *gpuInstance)
{
	struct call c;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result && !c.mig->current)
		result = NVML_ERROR_NOT_SUPPORTED;
	if (!result && !gpuInstance)
		result = NVML_ERROR_INVALID_ARGUMENT;
	if (!result && (id >= MAX_GIS || !c.mig->gi[id].used))
		result = NVML_ERROR_NOT_FOUND;
	if (!result)
		*gpuInstance = gi_handle(&c, id);
	return call_end(&c, result);
}

nvmlReturn_t nvmlGpuInstanceGetInfo(nvmlGpuInstance_t gpuInstance, nvmlGpuInstanceInfo_t *info)
{
	struct call c;
	nvmlReturn_t result = call_gi(&c, gpuInstance, __func__);

	if (result)
		return result;
	if (!info)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*info = (nvmlGpuInstanceInfo_t){
		.device = gpu_handle(&c, c.index),
		.id = c.gi_id,
		.profileId = c.gpu->board.profile[c.gi->profile].id,
		.placement = { .start = c.gi->start, .size = c.gi->size },
	};
	return call_end(&c, NVML_SUCCESS);
}
