/* NVML functions on compute instances: the parts that a GPU instance's multiprocessors are shared out in. */
#include <stdio.h>
#include <string.h>

#include "mig.h"

/* Width of each NVML_COMPUTE_INSTANCE_PROFILE_*; the profile id that create wants equals the enumerator. */
unsigned int ci_slices(unsigned int enumerator)
{
	static const unsigned int slices[NVML_COMPUTE_INSTANCE_PROFILE_COUNT] = { 1, 2, 3, 4, 7, 8, 6, 1, 7 };

	return slices[enumerator];
}

/* The narrow compute instance of a double-memory GPU instance; the wide one is profile REV1. */
static int is_narrow(const struct gi_profile *profile, unsigned int enumerator)
{
	return profile->wide && enumerator != NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1;
}

/* Widths on offer: 1, 2, 3, 4 and 7 slices that fit, save 3 in 4 (MIG User Guide, compute instance listings). */
static int is_offered(const struct gi_profile *profile, unsigned int enumerator)
{
	unsigned int width = ci_slices(enumerator);

	if (enumerator == NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1)
		return profile->wide != 0;
	if (enumerator > 4 || width > profile->slices)
		return 0;
	return !(profile->slices == 4 && width == 3);
}

static int fills(const struct gi_profile *profile, unsigned int enumerator)
{
	return ci_slices(enumerator) == profile->slices && !is_narrow(profile, enumerator);
}

unsigned int ci_multiprocessors(const struct board *board, const struct gi_profile *profile, unsigned int enumerator)
{
	return fills(profile, enumerator) ? profile->sm : ci_slices(enumerator) * (unsigned int)board->sm_per_slice;
}

void ci_name(const struct gi_profile *profile, unsigned int enumerator, char *text, size_t size)
{
	if (fills(profile, enumerator))
		set_text(text, size, profile->name);
	else
		snprintf(text, size, "MIG %uc.%s", ci_slices(enumerator), profile->name + strlen("MIG "));
}

/* Legal starts are multiples of the width, of 4 for three slices. */
static unsigned int stride(unsigned int width)
{
	return width == 3 ? 4 : width;
}

static unsigned int placements_of(const struct gi_profile *profile, unsigned int enumerator)
{
	unsigned int width = ci_slices(enumerator);

	return (profile->slices - width) / stride(width) + 1;
}

static unsigned int occupied(const struct gi *gi)
{
	unsigned int slices = 0;

	for (int i = 0; i < MAX_CIS; i++)
		if (gi->ci[i].used)
			slices |= ((1U << gi->ci[i].size) - 1U) << gi->ci[i].start;
	return slices;
}

static int is_free(const struct gi *gi, unsigned int start, unsigned int width)
{
	return !(occupied(gi) & ((1U << width) - 1U) << start);
}

static const struct gi_profile *profile_of(const struct call *c)
{
	return &c->gpu->board.profile[c->gi->profile];
}

static void fill(nvmlComputeInstanceProfileInfo_v3_t *info, const struct call *c, unsigned int enumerator)
{
	const struct gi_profile *profile = profile_of(c);

	*info = (nvmlComputeInstanceProfileInfo_v3_t){
		.id = enumerator,
		.sliceCount = ci_slices(enumerator),
		.instanceCount = placements_of(profile, enumerator),
		.multiprocessorCount = ci_multiprocessors(&c->gpu->board, profile, enumerator),
		.sharedCopyEngineCount = profile->copy_engines,
		.sharedDecoderCount = profile->decoders,
		.sharedEncoderCount = profile->encoders,
		.sharedJpegCount = profile->jpegs,
		.sharedOfaCount = profile->ofas,
		.capabilities = gi_has_graphics(profile) ? NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX : 0,
	};
	ci_name(profile, enumerator, info->name, sizeof(info->name));
}

static nvmlReturn_t profile_info(nvmlGpuInstance_t instance, unsigned int enumerator, unsigned int engine,
				 nvmlComputeInstanceProfileInfo_v3_t *info, const char *function)
{
	struct call c;
	nvmlReturn_t result = call_gi(&c, instance, function);

	if (result)
		return result;
	if (enumerator >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT || engine >= NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!is_offered(profile_of(&c), enumerator))
		return call_end(&c, NVML_ERROR_NOT_SUPPORTED);
	fill(info, &c, enumerator);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfo(nvmlGpuInstance_t gpuInstance, unsigned int profile,
							  unsigned int engProfile, nvmlComputeInstanceProfileInfo_t *info)
{
	nvmlComputeInstanceProfileInfo_v3_t all;
	nvmlReturn_t result;

	if (!info)
		return NVML_ERROR_INVALID_ARGUMENT;
	result = profile_info(gpuInstance, profile, engProfile, &all, __func__);
	if (!result)
		memcpy(info, &all.id, sizeof(*info)); /* the first version is what lies between version and name */
	return result;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceProfileInfoV(nvmlGpuInstance_t gpuInstance, unsigned int profile,
							   unsigned int engProfile, nvmlComputeInstanceProfileInfo_v2_t *info)
{
	nvmlComputeInstanceProfileInfo_v3_t all;
	unsigned int version;
	nvmlReturn_t result;

	if (!info)
		return NVML_ERROR_INVALID_ARGUMENT;
	version = info->version;
	if (version != NVMLSIM_VERSION(nvmlComputeInstanceProfileInfo_v2_t, 2)
	    && version != NVMLSIM_VERSION(nvmlComputeInstanceProfileInfo_v3_t, 3))
		return NVML_ERROR_INVALID_ARGUMENT;
	result = profile_info(gpuInstance, profile, engProfile, &all, __func__);
	if (result)
		return result;
	all.version = version;
	memcpy(info, &all, version & 0xffffff); /* the second version ends before the capabilities */
	return NVML_SUCCESS;
}

/* Begins a call on a compute instance profile id; those not on offer here are NOT_SUPPORTED. */
static nvmlReturn_t call_profile(struct call *c, nvmlGpuInstance_t instance, unsigned int id, const char *function)
{
	nvmlReturn_t result = call_gi(c, instance, function);

	if (result)
		return result;
	result = call_privileged(c);
	if (!result && id >= NVML_COMPUTE_INSTANCE_PROFILE_COUNT)
		result = NVML_ERROR_INVALID_ARGUMENT;
	if (!result && !is_offered(profile_of(c), id))
		result = NVML_ERROR_NOT_SUPPORTED;
	return result ? call_end(c, result) : NVML_SUCCESS;
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceRemainingCapacity(nvmlGpuInstance_t gpuInstance, unsigned int profileId,
								unsigned int *count)
{
	struct call c;
	unsigned int width, room = 0;
	nvmlReturn_t result = call_profile(&c, gpuInstance, profileId, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	width = ci_slices(profileId);
	for (unsigned int i = 0; i < placements_of(profile_of(&c), profileId); i++)
		room += (unsigned int)is_free(c.gi, i * stride(width), width);
	*count = room;
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstancePossiblePlacements(nvmlGpuInstance_t gpuInstance, unsigned int profileId,
								 nvmlComputeInstancePlacement_t *placements,
								 unsigned int *count)
{
	struct call c;
	unsigned int width, legal;
	nvmlReturn_t result = call_profile(&c, gpuInstance, profileId, __func__);

	if (result)
		return result;
	if (!count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	width = ci_slices(profileId);
	legal = placements_of(profile_of(&c), profileId);
	if (placements && *count < legal)
		return call_end(&c, NVML_ERROR_INSUFFICIENT_SIZE);
	*count = legal;
	for (unsigned int i = 0; placements && i < legal; i++)
		placements[i] = (nvmlComputeInstancePlacement_t){ .start = i * stride(width), .size = width };
	return call_end(&c, NVML_SUCCESS);
}

static uint64_t mix(uint64_t value)
{
	value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9ULL;
	value = (value ^ value >> 27) * 0x94d049bb133111ebULL;
	return value ^ value >> 31;
}

/* A UUID that was never used before: from the parent's and the number of instances ever made on this machine. */
static void new_uuid(const struct call *c, char *text, size_t size)
{
	uint64_t seed = 0xcbf29ce484222325ULL + atomic_fetch_add(&c->machine->instances_made, 1), high, low;

	for (const char *p = c->gpu->board.uuid; *p; p++)
		seed = (seed ^ (unsigned char)*p) * 0x100000001b3ULL;
	high = mix(seed);
	low = mix(high + 0x9e3779b97f4a7c15ULL);
	snprintf(text, size, "MIG-%08x-%04x-5%03x-%04x-%012llx", (unsigned int)(high >> 32), (unsigned int)(high >> 16 & 0xffff),
		 (unsigned int)(high & 0xfff), (unsigned int)((low >> 48 & 0x3fff) | 0x8000),
		 (unsigned long long)(low & 0xffffffffffffULL));
}

/* The lowest MIG device index that is free: destroying one leaves a hole, creating one fills it. */
static uint32_t free_mig_index(const struct mig_layout *layout)
{
	uint32_t taken = 0, index = 0;

	for (int i = 0; i < MAX_GIS; i++)
		for (int j = 0; layout->gi[i].used && j < MAX_CIS; j++)
			if (layout->gi[i].ci[j].used)
				taken |= 1U << layout->gi[i].ci[j].mig_index;
	while (taken & 1U << index)
		index++;
	return index;
}

static nvmlComputeInstance_t create(struct call *c, unsigned int enumerator, unsigned int start)
{
	struct ci ci = { .used = 1, .enumerator = enumerator, .start = start, .size = ci_slices(enumerator) };
	unsigned int id = 0;

	while (c->gi->ci[id].used)
		id++;
	ci.mig_index = free_mig_index(c->mig);
	new_uuid(c, ci.uuid, sizeof(ci.uuid));
	mig_change(c->gpu)->gi[c->gi_id].ci[id] = ci;
	mig_commit(c->gpu);
	mig_post_change(c->machine, c->index);
	return ci_handle(c, c->gi_id, id);
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstance(nvmlGpuInstance_t gpuInstance, unsigned int profileId,
						  nvmlComputeInstance_t *computeInstance)
{
	struct call c;
	unsigned int step;
	nvmlReturn_t result = call_profile(&c, gpuInstance, profileId, __func__);

	if (result)
		return result;
	if (!computeInstance)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	step = stride(ci_slices(profileId));
	for (unsigned int i = 0; i < placements_of(profile_of(&c), profileId); i++) {
		if (!is_free(c.gi, i * step, ci_slices(profileId)))
			continue;
		*computeInstance = create(&c, profileId, i * step);
		return call_end(&c, NVML_SUCCESS);
	}
	return call_end(&c, NVML_ERROR_INSUFFICIENT_RESOURCES);
}

nvmlReturn_t nvmlGpuInstanceCreateComputeInstanceWithPlacement(nvmlGpuInstance_t gpuInstance, unsigned int profileId,
							       const nvmlComputeInstancePlacement_t *placement,
							       nvmlComputeInstance_t *computeInstance)
{
	struct call c;
	unsigned int width;
	nvmlReturn_t result = call_profile(&c, gpuInstance, profileId, __func__);

	if (result)
		return result;
	width = ci_slices(profileId);
	if (!computeInstance || !placement || placement->size != width || placement->start % stride(width)
	    || placement->start / stride(width) >= placements_of(profile_of(&c), profileId))
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	if (!is_free(c.gi, placement->start, width))
		return call_end(&c, NVML_ERROR_INSUFFICIENT_RESOURCES);
	*computeInstance = create(&c, profileId, placement->start);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlComputeInstanceDestroy(nvmlComputeInstance_t computeInstance)
{
	struct call c;
	nvmlReturn_t result = call_ci(&c, computeInstance, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result && gpu_has_processes(c.machine, c.index, c.gi_id, c.ci_id))
		result = NVML_ERROR_IN_USE;
	if (result)
		return call_end(&c, result);
	mig_change(c.gpu)->gi[c.gi_id].ci[c.ci_id].used = 0;
	mig_commit(c.gpu);
	mig_post_change(c.machine, c.index);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstances(nvmlGpuInstance_t gpuInstance, unsigned int profileId,
						nvmlComputeInstance_t *computeInstances, unsigned int *count)
{
	struct call c;
	nvmlReturn_t result = call_profile(&c, gpuInstance, profileId, __func__);

	if (result)
		return result;
	if (!computeInstances || !count)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*count = 0;
	for (unsigned int i = 0; i < MAX_CIS; i++)
		if (c.gi->ci[i].used && c.gi->ci[i].enumerator == profileId)
			computeInstances[(*count)++] = ci_handle(&c, c.gi_id, i);
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlGpuInstanceGetComputeInstanceById(nvmlGpuInstance_t gpuInstance, unsigned int id,
						   nvmlComputeInstance_t *computeInstance)
{
	struct call c;
	nvmlReturn_t result = call_gi(&c, gpuInstance, __func__);

	if (result)
		return result;
	result = call_privileged(&c);
	if (!result && !computeInstance)
		result = NVML_ERROR_INVALID_ARGUMENT;
	if (!result && (id >= MAX_CIS || !c.gi->ci[id].used))
		result = NVML_ERROR_NOT_FOUND;
	if (!result)
		*computeInstance = ci_handle(&c, c.gi_id, id);
	return call_end(&c, result);
}

nvmlReturn_t nvmlComputeInstanceGetInfo_v2(nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info)
{
	struct call c;
	nvmlReturn_t result = call_ci(&c, computeInstance, __func__);

	if (result)
		return result;
	if (!info)
		return call_end(&c, NVML_ERROR_INVALID_ARGUMENT);
	*info = (nvmlComputeInstanceInfo_t){
		.device = mig_device_handle(&c, c.gi_id, c.ci_id), /* of the MIG device, not of the GPU */
		.gpuInstance = gi_handle(&c, c.gi_id),
		.id = c.ci_id,
		.profileId = c.ci->enumerator,
		.placement = { .start = c.ci->start, .size = c.ci->size },
	};
	return call_end(&c, NVML_SUCCESS);
}

nvmlReturn_t nvmlComputeInstanceGetInfo(nvmlComputeInstance_t computeInstance, nvmlComputeInstanceInfo_t *info)
{
	return nvmlComputeInstanceGetInfo_v2(computeInstance, info);
}
