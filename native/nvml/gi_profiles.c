/* NVML functions on GPU instance profiles: what a board can be cut into, and where. */
#include "mig.h"

const struct gi_profile *gi_profile_by_id(const struct call *c, unsigned int id)
{
	for (unsigned int i = 0; i < c->gpu->board.profiles; i++)
		if (c->gpu->board.profile[i].id == id)
			return &c->gpu->board.profile[i];
	return NULL;
}

/* Of several (with and without graphics) the first; a board that cannot do MIG has none and is never asked. */
const struct gi_profile *whole_profile(const struct board *board)
{
	const struct gi_profile *whole = board->profile;

	for (unsigned int i = 1; i < board->profiles; i++)
		if (board->profile[i].size > whole->size)
			whole = &board->profile[i];
	return whole;
}

int gi_has_graphics(const struct gi_profile *profile)
{
	const unsigned int e = profile->enumerator;

	return (e >= NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX && e <= NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX)
	       || e == NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX;
}

static const struct gi_profile *profile_by_enumerator(const struct call *c, unsigned int enumerator)
{
	for (unsigned int i = 0; i < c->gpu->board.profiles; i++)
		if (c->gpu->board.profile[i].enumerator == enumerator)
			return &c->gpu->board.profile[i];
	return NULL;
}

/* What all versions of the structure have in common. */
#define COUNTS(profile)                                                                                                      \
	.id = (profile)->id, .sliceCount = (profile)->slices, .instanceCount = (profile)->instances,                         \
	.multiprocessorCount = (profile)->sm, .copyEngineCount = (profile)->copy_engines, .decoderCount = (profile)->decoders, \
	.encoderCount = (profile)->encoders, .jpegCount = (profile)->jpegs, .ofaCount = (profile)->ofas,                     \
	.memorySizeMB = (profile)->memory_mib

static void fill_v1(nvmlGpuInstanceProfileInfo_t *info, const struct gi_profile *profile)
{
	*info = (nvmlGpuInstanceProfileInfo_t){ COUNTS(profile) };
}

static void fill_v2(nvmlGpuInstanceProfileInfo_v2_t *info, const struct gi_profile *profile)
{
	*info = (nvmlGpuInstanceProfileInfo_v2_t){
		.version = info->version,
		COUNTS(profile),
	};
	set_text(info->name, sizeof(info->name), profile->name);
}

static void fill_v3(nvmlGpuInstanceProfileInfo_v3_t *info, const struct gi_profile *profile)
{
	*info = (nvmlGpuInstanceProfileInfo_v3_t){
		.version = info->version,
		COUNTS(profile),
		.capabilities = gi_has_graphics(profile) ? NVML_GPU_INSTANCE_PROFILE_CAPS_GFX : 0,
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
	profile = gi_profile_by_id(&c, profileId);
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
	profile = gi_profile_by_id(&c, profileId);
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
