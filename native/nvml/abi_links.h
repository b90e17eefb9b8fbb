/* NVLink, fabric and topology in NVML's binary interface; included by abi.h and checked with it. */
#ifndef NVMLSIM_ABI_LINKS_H
#define NVMLSIM_ABI_LINKS_H

typedef unsigned int nvmlNvLinkCapability_t;
typedef unsigned int nvmlNvLinkErrorCounter_t;
typedef unsigned int nvmlIntNvLinkDeviceType_t;
typedef unsigned int nvmlGpuP2PCapsIndex_t;
typedef unsigned int nvmlGpuP2PStatus_t;
typedef unsigned int nvmlGpuTopologyLevel_t;
typedef unsigned int nvmlAffinityScope_t;
typedef unsigned char nvmlGpuFabricState_t;

enum {
	NVML_NVLINK_MAX_LINKS = 36,
	NVML_NVLINK_CAP_P2P_SUPPORTED = 0,
	NVML_NVLINK_CAP_SYSMEM_ACCESS = 1,
	NVML_NVLINK_CAP_P2P_ATOMICS = 2,
	NVML_NVLINK_CAP_SLI_BRIDGE = 4,
	NVML_NVLINK_CAP_VALID = 5,
	NVML_NVLINK_ERROR_DL_REPLAY = 0,
	NVML_NVLINK_ERROR_DL_RECOVERY = 1,
	NVML_NVLINK_ERROR_DL_CRC_FLIT = 2,
	NVML_NVLINK_ERROR_DL_CRC_DATA = 3,
	NVML_NVLINK_ERROR_DL_ECC_DATA = 4,
	NVML_NVLINK_DEVICE_TYPE_GPU = 0,
	NVML_NVLINK_DEVICE_TYPE_SWITCH = 2,
};
enum {
	NVML_TOPOLOGY_INTERNAL = 0,
	NVML_TOPOLOGY_SINGLE = 10,
	NVML_TOPOLOGY_MULTIPLE = 20,
	NVML_TOPOLOGY_HOSTBRIDGE = 30,
	NVML_TOPOLOGY_NODE = 40,
	NVML_TOPOLOGY_SYSTEM = 50,
	NVML_P2P_STATUS_OK = 0,
	NVML_P2P_STATUS_DISABLED_BY_REGKEY = 4,
	NVML_P2P_STATUS_NOT_SUPPORTED = 5,
	NVML_P2P_CAPS_INDEX_NVLINK = 2,
	NVML_P2P_CAPS_INDEX_ATOMICS = 3,
	NVML_P2P_CAPS_INDEX_UNKNOWN = 5,
	NVML_AFFINITY_SCOPE_NODE = 0,
	NVML_AFFINITY_SCOPE_SOCKET = 1,
};

typedef struct {
	unsigned char clusterUuid[16];
	nvmlReturn_t status;
	unsigned int cliqueId;
	nvmlGpuFabricState_t state;
} nvmlGpuFabricInfo_t;

typedef struct {
	unsigned int version;
	unsigned char clusterUuid[16];
	nvmlReturn_t status;
	unsigned int cliqueId;
	nvmlGpuFabricState_t state;
	unsigned int healthMask;
} nvmlGpuFabricInfo_v2_t;

typedef struct {
	unsigned int version;
	unsigned char clusterUuid[16];
	nvmlReturn_t status;
	unsigned int cliqueId;
	nvmlGpuFabricState_t state;
	unsigned int healthMask;
	unsigned char healthSummary;
} nvmlGpuFabricInfo_v3_t;
typedef nvmlGpuFabricInfo_v3_t nvmlGpuFabricInfoV_t;

typedef struct {
	unsigned int isC2cEnabled;
} nvmlC2cModeInfo_v1_t;

/* Field identifiers of links; those of single lanes follow each other and are reckoned from the first. */
enum {
	NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L0 = 32,
	NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_L0 = 39,
	NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L0 = 46,
	NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_L0 = 53,
	NVML_FI_DEV_NVLINK_CRC_FLIT_ERROR_COUNT_L6 = 96,
	NVML_FI_DEV_NVLINK_CRC_DATA_ERROR_COUNT_L6 = 102,
	NVML_FI_DEV_NVLINK_REPLAY_ERROR_COUNT_L6 = 108,
	NVML_FI_DEV_NVLINK_RECOVERY_ERROR_COUNT_L6 = 114,
	NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_L0 = 148,
	NVML_FI_DEV_NVLINK_ECC_DATA_ERROR_COUNT_TOTAL = 160,
	NVML_FI_DEV_NVLINK_SPEED_MBPS_L0 = 84,
	NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON = 90,
	NVML_FI_DEV_NVLINK_SPEED_MBPS_L6 = 132,
	NVML_FI_DEV_NVLINK_SPEED_MBPS_L11 = 137,
	NVML_FI_DEV_NVLINK_LINK_COUNT = 91,
	NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX = 138,
	NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX = 139,
	NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_TX = 140,
	NVML_FI_DEV_NVLINK_THROUGHPUT_RAW_RX = 141,
	NVML_FI_DEV_NVLINK_REMOTE_NVLINK_ID = 146,
	NVML_FI_DEV_NVSWITCH_CONNECTED_LINK_COUNT = 147,
	NVML_FI_DEV_NVLINK_ERROR_DL_REPLAY = 161,
	NVML_FI_DEV_NVLINK_ERROR_DL_RECOVERY = 162,
	NVML_FI_DEV_NVLINK_ERROR_DL_CRC = 163,
	NVML_FI_DEV_NVLINK_GET_SPEED = 164,
	NVML_FI_DEV_NVLINK_GET_STATE = 165,
	NVML_FI_DEV_NVLINK_GET_VERSION = 166,
	NVML_FI_DEV_NVLINK_GET_POWER_STATE = 167,
	NVML_FI_DEV_C2C_LINK_COUNT = 170,
	NVML_FI_DEV_C2C_LINK_GET_STATUS = 171,
	NVML_FI_DEV_C2C_LINK_GET_MAX_BW = 172,
	NVML_FI_DEV_NVLINK_COUNT_XMIT_PACKETS = 201,
	NVML_FI_DEV_NVLINK_COUNT_XMIT_BYTES = 202,
	NVML_FI_DEV_NVLINK_COUNT_RCV_PACKETS = 203,
	NVML_FI_DEV_NVLINK_COUNT_RCV_BYTES = 204,
	NVML_FI_DEV_NVLINK_COUNT_MALFORMED_PACKET_ERRORS = 206,
	NVML_FI_DEV_NVLINK_COUNT_XMIT_DISCARDS = 212,
	NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_SUCCESSFUL_EVENTS = 213,
	NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_FAILED_EVENTS = 214,
	NVML_FI_DEV_NVLINK_COUNT_LINK_RECOVERY_EVENTS = 215,
	NVML_FI_DEV_NVLINK_COUNT_EFFECTIVE_ERRORS = 219,
	NVML_FI_DEV_NVLINK_COUNT_SYMBOL_ERRORS = 221,
	NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_0 = 235,
	NVML_FI_DEV_NVLINK_COUNT_FEC_HISTORY_15 = 250,
};

enum { NVML_NVLINK_FIRMWARE_VERSION_LENGTH = 100 };

typedef struct {
	unsigned char ucodeType;
	unsigned int major;
	unsigned int minor;
	unsigned int subMinor;
} nvmlNvlinkFirmwareVersion_t;

typedef struct {
	nvmlNvlinkFirmwareVersion_t firmwareVersion[NVML_NVLINK_FIRMWARE_VERSION_LENGTH];
	unsigned int numValidEntries;
} nvmlNvlinkFirmwareInfo_t;

typedef struct {
	unsigned int version;
	unsigned int isNvleEnabled;
	nvmlNvlinkFirmwareInfo_t firmwareInfo;
} nvmlNvLinkInfo_v2_t;
typedef nvmlNvLinkInfo_v2_t nvmlNvLinkInfo_t;

#endif
