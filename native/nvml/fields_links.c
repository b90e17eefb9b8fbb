/* Field values about NVLinks and the link to the CPU of the Grace boards. */
#include "fields.h"

enum { ALL_LINKS = -1, C2C_LINKS = 10, PACKET_BYTES = 256 };

/* Which link a field is about: the scope, all for UINT_MAX. -2 where there is no such link. */
static int scope_of(const struct gpu *gpu, const nvmlFieldValue_t *field)
{
	if (field->scopeId == ~0U)
		return ALL_LINKS;
	return field->scopeId < gpu->board.nvlinks ? (int)field->scopeId : -2;
}

static unsigned long long errors(const struct gpu *gpu, int link, nvmlNvLinkErrorCounter_t counter)
{
	unsigned long long sum = 0;

	for (unsigned int i = 0; i < gpu->board.nvlinks; i++)
		if (link == ALL_LINKS || (int)i == link)
			sum += gpu->link_errors[i][counter];
	return sum;
}

static unsigned int links_up(const struct gpu *gpu, int link)
{
	unsigned int count = 0;

	for (unsigned int i = 0; i < gpu->board.nvlinks; i++)
		count += (unsigned int)((link == ALL_LINKS || (int)i == link) && link_is_up(gpu, i));
	return count;
}

/* Bytes each way since the driver was loaded. */
static double bytes(const struct gpu *gpu, int link)
{
	return telemetry_of(gpu).work_percent_s * NVLINK_KIB * 1024.0 * links_up(gpu, link);
}

/* Error counters of Ampere: runs of six lanes with their total, and six more lanes elsewhere. */
static nvmlReturn_t read_lane(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	static const struct {
		unsigned int first, sixth;
		nvmlNvLinkErrorCounter_t counter;
	} runs[] = {
		{ NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L0, NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L6, NVML_NVLINK_ERROR_DL_CRC_FLIT },
		{ NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_L0, NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_L6, NVML_NVLINK_ERROR_DL_CRC_DATA },
		{ NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L0, NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L6, NVML_NVLINK_ERROR_DL_REPLAY },
		{ NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_L0, NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_L6,
		  NVML_NVLINK_ERROR_DL_RECOVERY },
	};

	for (unsigned int i = 0; i < sizeof(runs) / sizeof(*runs); i++) {
		unsigned int low = field->fieldId - runs[i].first, high = field->fieldId - runs[i].sixth;

		if (low == 6)
			return field_big(field, errors(gpu, ALL_LINKS, runs[i].counter));
		if (low < 6)
			return field_big(field, errors(gpu, (int)low, runs[i].counter));
		if (high < 6)
			return field_big(field, errors(gpu, (int)high + 6, runs[i].counter));
	}
	if (field->fieldId == NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL)
		return field_big(field, errors(gpu, ALL_LINKS, NVML_NVLINK_ERROR_DL_ECC_DATA));
	if (field->fieldId - NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_L0 < 12)
		return field_big(field, errors(gpu, (int)field->fieldId - NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_L0,
					       NVML_NVLINK_ERROR_DL_ECC_DATA));
	return NVML_ERROR_NOT_SUPPORTED;
}

static nvmlReturn_t read_speed(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const unsigned int id = field->fieldId;
	unsigned int link = id < NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON ? id - NVML_FI_DEV_NVLINK_SPEED_MBPS_L0
								     : id - NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 + 6;

	if (id == NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON)
		link = 0;
	return field_number(field, link_is_up(gpu, link) ? gpu->board.nvlink_mbps : 0);
}

/* Counters and states by scope, Hopper's and the earlier ones; protocol takes a ninth more than the data. */
static nvmlReturn_t read_scoped(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const int link = scope_of(gpu, field);

	if (link < ALL_LINKS)
		return NVML_ERROR_INVALID_ARGUMENT;
	switch (field->fieldId) {
	case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX:
	case NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX: return field_big(field, (unsigned long long)(bytes(gpu, link) / 1024.0));
	case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX:
	case NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX: return field_big(field, (unsigned long long)(bytes(gpu, link) / 921.6));
	case NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID: return field_number(field, field->scopeId);
	case NVML_FI_DEV_NVLINK_GET_SPEED: return field_number(field, links_up(gpu, link) ? gpu->board.nvlink_mbps : 0);
	case NVML_FI_DEV_NVLINK_GET_STATE: return field_number(field, links_up(gpu, link) != 0);
	case NVML_FI_DEV_NVLINK_GET_VERSION: return field_number(field, gpu->board.nvlink_version);
	case NVML_FI_DEV_NVLINK_GET_POWER_STATE: return field_number(field, 0);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

/* Error counters by scope: of Hopper only, void from Blackwell on. */
static nvmlReturn_t read_hopper(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const int link = scope_of(gpu, field);

	if (gpu->board.architecture != NVML_DEVICE_ARCH_HOPPER || link < ALL_LINKS)
		return NVML_ERROR_NOT_SUPPORTED;
	switch (field->fieldId) {
	case NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY: return field_big(field, errors(gpu, link, NVML_NVLINK_ERROR_DL_REPLAY));
	case NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY: return field_big(field, errors(gpu, link, NVML_NVLINK_ERROR_DL_RECOVERY));
	case NVML_FI_DEV_NVLINK_ERROR_DL_CRC:
		return field_big(field, errors(gpu, link, NVML_NVLINK_ERROR_DL_CRC_FLIT)
						+ errors(gpu, link, NVML_NVLINK_ERROR_DL_CRC_DATA));
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

/* Counters of Blackwell's links. */
static nvmlReturn_t read_blackwell(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const unsigned int id = field->fieldId;
	const int link = scope_of(gpu, field);

	if (gpu->board.architecture < NVML_DEVICE_ARCH_BLACKWELL || link < ALL_LINKS)
		return NVML_ERROR_NOT_SUPPORTED;
	switch (id) {
	case NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES:
	case NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES: return field_big(field, (unsigned long long)bytes(gpu, link));
	case NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS:
	case NVML_FI_DEV_NVLINK_COUNT_RCV_PACKETS:
		return field_big(field, (unsigned long long)(bytes(gpu, link) / PACKET_BYTES));
	case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS:
	case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS:
		return field_big(field, errors(gpu, link, NVML_NVLINK_ERROR_DL_RECOVERY));
	case NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS: return field_big(field, 0);
	case NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS:
	case NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS:
		return field_big(field, errors(gpu, link, NVML_NVLINK_ERROR_DL_CRC_DATA));
	default:
		if (id >= NVML_FI_DEV_NVLINK_COUNT_MALFORMED_PACKET_ERRORS && id <= NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS)
			return field_big(field, 0);
		if (id >= NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_0 && id <= NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_15)
			return field_big(field, 0);
		return NVML_ERROR_NOT_SUPPORTED;
	}
}

static nvmlReturn_t read_c2c(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	if (!gpu->board.c2c_mbps)
		return NVML_ERROR_NOT_SUPPORTED;
	switch (field->fieldId) {
	case NVML_FI_DEV_C2C_LINK_COUNT: return field_number(field, C2C_LINKS);
	case NVML_FI_DEV_C2C_LINK_GET_STATUS: return field_number(field, 1);
	case NVML_FI_DEV_C2C_LINK_GET_MAX_BW: return field_number(field, gpu->board.c2c_mbps);
	default: return NVML_ERROR_NOT_SUPPORTED;
	}
}

nvmlReturn_t read_link_field(const struct gpu *gpu, nvmlFieldValue_t *field)
{
	const unsigned int id = field->fieldId;
	nvmlReturn_t result;

	if (id == NVML_FI_DEV_NVLINK_LINK_COUNT)
		return field_number(field, gpu->board.nvlinks);
	result = read_c2c(gpu, field);
	if (!result || !gpu->board.nvlinks)
		return result;
	if (id == NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT)
		return field_number(field, gpu->board.nvlink_to_switch ? links_up(gpu, ALL_LINKS) : 0);
	if ((id >= NVML_FI_DEV_NVLINK_SPEED_MBPS_L0 && id <= NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON)
	    || (id >= NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 && id <= NVML_FI_DEV_NVLINK_SPEED_MBPS_L11))
		return read_speed(gpu, field);
	result = read_lane(gpu, field);
	if (result)
		result = read_scoped(gpu, field);
	if (result)
		result = read_hopper(gpu, field);
	return result ? read_blackwell(gpu, field) : result;
}
