/* NVML functions on GPU instances: profiles, placements, creation, destruction. */
#include <string.h>

#include "session.h"

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

/* How many more instances the profile's own count and the GPU's compute slices allow, whatever their placement. */
static unsigned int allowance(const struct call *c, const struct gi_profile *profile)
{
	unsigned int by_count = profile->instances - instances_of(c, profile);
	unsigned int by_slices = (COMPUTE_SLICES - compute_slices_used(c)) / profile->slices;

	return by_count < by_slices ? by_count : by_slices;
}

static const struct gi_profile *profile_by_id(const struct call *c, unsigned int id)
{
	for (unsigned int i = 0; i < c->gpu->board.profiles; i++)
		if (c->gpu->board.profile[i].id == id)
			return &c->gpu->board.profile[i];
	return NULL;
}

static const struct gi_profile *profile_by_enumerator(const struct call *c, unsigned int enumerator)
{
	for (unsigned int i = 0; i < c->gpu->board.profiles; i++)
		if (c->gpu->board.profile[i].enumerator == enumerator)
			return &c->gpu->board.profile[i];
	return NULL;
}

/* GPU instance ids follow the span: 0 is the whole GPU, then the halves, the quarters and the eighths. */
static unsigned int instance_id(const struct board *board, uint32_t start, uint32_t size)
{
	uint32_t whole = 0;

	for (unsigned int i = 0; i < board->profiles; i++)
		if (board->profile[i].size > whole)
			whole = board->profile[i].size;
	return whole / size - 1 + start / size;
}

static void fill_v1(nvmlGpuInstanceProfileInfo_t *info, const struct gi_profile *profile)
{
	*info = (nvmlGpuInstanceProfileInfo_t){
		.id = profile->id,
		.sliceCount = profile->slices,
		.instanceCount = profile->instances,
		.multiprocessorCount = profile->sm,
		.copyEngineCount = profile->copy_engines,
		.decoderCount = profile->decoders,
		.encoderCount = profile->encoders,
		.jpegCount = profile->jpegs,
		.ofaCount = profile->ofas,
		.memorySizeMB = profile->memory_mib,
	};
}

static void fill_v2(nvmlGpuInstanceProfileInfo_v2_t *info, const struct gi_profile *profile)
{
	nvmlGpuInstanceProfileInfo_t plain;

	fill_v1(&plain, profile);
	/* The middle of the second version is the first version, member by member. */
	memcpy(&info->id, &plain.id, offsetof(nvmlGpuInstanceProfileInfo_t, memorySizeMB));
	info->memorySizeMB = plain.memorySizeMB;
	set_text(info->name, sizeof(info->name), profile->name);
}

static void fill_v3(nvmlGpuInstanceProfileInfo_v3_t *info, const struct gi_profile *profile)
{
	*info = (nvmlGpuInstanceProfileInfo_v3_t){
		.version = info->version,
		.id = profile->id,
		.sliceCount = profile->slices,
		.instanceCount = profile->instances,
		.multiprocessorCount = profile->sm,
		.copyEngineCount = profile->copy_engines,
		.decoderCount = profile->decoders,
		.encoderCount = profile->encoders,
		.jpegCount = profile->jpegs,
		.ofaCount = profile->ofas,
		.memorySizeMB = profile->memory_mib,
	};
	set_text(info->name, sizeof(info->name), profile->name);
}

static nvmlReturn_t fill_versioned(nvmlGpuInstanceProfileInfo_v2_t *info, const struct gi_profile *profile)
{
	if (info->version == NVMLSIM_VERSION(nvmlGpuInstanceProfileInfo_v2_t, 2))
		fill_v2(info, profile);
	else if (info->version == NVMLSIM_VERSION(nvmlGpuInstanceProfileInfo_v3_t, 3))
		fill_v3((nvmlGpuInstanceProfileInfo_v3_t *)info, profile);
	else
		return NVML_ERROR_INVALID_ARGUMENT;
	return NVML_SUCCESS;
}

/* Profiles can be listed with MIG off on drivers that answer field 199. */
static nvmlReturn_t may_list(const struct call *c)
{
	const struct board *board = &c->gpu->board;

	return board->mig_capable && (c->mig->current || board->mig_query_when_off) ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}

/* Begins a call on a profile given by its enumerator: INVALID_ARGUMENT past the last one, NOT_SUPPORTED for a hole. */
static nvmlReturn_t call_enumerator(struct call *c, nvmlDevice_t device, unsigned int enumerator,
				    const struct gi_profile **profile, const char *function)
{
	nvmlReturn_t result = call_gpu(c, device, function);

	if (result)
		return result;
	if (enumerator >= NVML_GPU_INSTANCE_PROFILE_COUNT)
		return call_end(c, NVML_ERROR_INVALID_ARGUMENT);
	*profile = profile_by_enumerator(c, enumerator);
	result = *profile ? may_list(c) : NVML_ERROR_NOT_SUPPORTED;
	return result ? call_end(c, result) : NVML_SUCCESS;
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfo(nvmlDevice_t device, unsigned int profile, nvmlGpuInstanceProfileInfo_t *info)
{
	struct call c;
	const struct gi_profile *found;
	nvmlReturn_t result = call_enumerator(&c, device, profile, &found, __func__);

	if (result)
		return result;
	if (!info)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	fill_v1(info, found);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoV(nvmlDevice_t device, unsigned int profile, nvmlGpuInstanceProfileInfo_v2_t *info)
{
	struct call c;
	const struct gi_profile *found;
	nvmlReturn_t result = call_enumerator(&c, device, profile, &found, __func__);

	if (result)
		return result;
	return call_end(&c, info ? fill_versioned(info, found) : NVML_ERROR_INVALID_ARGUMENT);
}

nvmlReturn_t nvmlDeviceGetGpuInstanceProfileInfoByIdV(nvmlDevice_t device, unsigned int profileId,
						      nvmlGpuInstanceProfileInfo_v2_t *info)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	profile = profile_by_id(&c, profileId);
	if (!info || !profile)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	result = may_list(&c);
	return call_end(&c, result ? result : fill_versioned(info, profile));
}

nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements_v2(nvmlDevice_t device, unsigned int profileId,
							   nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
	struct call c;
	const struct gi_profile *profile;
	nvmlReturn_t result = call_gpu(&c, device, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	profile = profile_by_id(&c, profileId);
	result = call_privileged(&c);
	if (!result && (!profile || !c.gpu->board.mig_capable))
		result = NVML_ERROR_NOT_SUPPORTED;
	if (!result && placements && *count < profile->placements)
		result = NVML_ERROR_INSUFFICIENT_SIZE;
	if (result)
		return call_end(&c, result);
	*count = profile->placements;
	for (unsigned int i = 0; placements && i < profile->placements; i++)
		placements[i] = (nvmlGpuInstancePlacement_t){ .start = profile->start[i], .size = profile->size };
	return call_end(&c, NVML_SUCCESS);
}

/* The first version does not look at the size of the buffer. */
nvmlReturn_t nvmlDeviceGetGpuInstancePossiblePlacements(nvmlDevice_t device, unsigned int profileId,
							nvmlGpuInstancePlacement_t *placements, unsigned int *count)
{
	if (count)
		*count = MAX_PLACEMENTS;
	return nvmlDeviceGetGpuInstancePossiblePlacements_v2(device, profileId, placements, count);
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
	*profile = profile_by_id(c, id);
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
