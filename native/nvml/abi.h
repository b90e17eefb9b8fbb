/*
 * The part of NVML's binary interface that the simulator fills in: types and constants, declared by ourselves.
 *
 * Layouts and values follow nvml.h 13.5 (PyPI nvidia-nvml-dev); tests/unit/test_nvml_header.py compares every size, offset
 * and constant below with that header. Constants are enumerators, never macros, so that the test can rename them.
 */
#ifndef NVMLSIM_ABI_H
#define NVMLSIM_ABI_H

typedef unsigned int nvmlReturn_t;
typedef unsigned int nvmlEnableState_t;
typedef unsigned int nvmlBrandType_t;
typedef unsigned int nvmlClockType_t;
typedef unsigned int nvmlClockId_t;
typedef unsigned int nvmlComputeMode_t;
typedef unsigned int nvmlDeviceArchitecture_t;
typedef unsigned int nvmlBusType_t;
typedef unsigned int nvmlEccCounterType_t;
typedef unsigned int nvmlMemoryErrorType_t;
typedef unsigned int nvmlMemoryLocation_t;
typedef unsigned int nvmlPcieUtilCounter_t;
typedef unsigned int nvmlPstates_t;
typedef unsigned int nvmlTemperatureSensors_t;
typedef unsigned int nvmlTemperatureThresholds_t;
typedef unsigned int nvmlValueType_t;

typedef struct nvmlDevice_st *nvmlDevice_t;
typedef struct nvmlGpuInstance_st *nvmlGpuInstance_t;
typedef struct nvmlComputeInstance_st *nvmlComputeInstance_t;
typedef struct nvmlEventSet_st *nvmlEventSet_t;

enum {
	NVML_SUCCESS = 0,
	NVML_ERROR_UNINITIALIZED = 1,
	NVML_ERROR_INVALID_ARGUMENT = 2,
	NVML_ERROR_NOT_SUPPORTED = 3,
	NVML_ERROR_NO_PERMISSION = 4,
	NVML_ERROR_NOT_FOUND = 6,
	NVML_ERROR_INSUFFICIENT_SIZE = 7,
	NVML_ERROR_DRIVER_NOT_LOADED = 9,
	NVML_ERROR_TIMEOUT = 10,
	NVML_ERROR_GPU_IS_LOST = 15,
	NVML_ERROR_RESET_REQUIRED = 16,
	NVML_ERROR_OPERATING_SYSTEM = 17,
	NVML_ERROR_IN_USE = 19,
	NVML_ERROR_MEMORY = 20,
	NVML_ERROR_INSUFFICIENT_RESOURCES = 23,
	NVML_ERROR_ARGUMENT_VERSION_MISMATCH = 25,
	NVML_ERROR_UNKNOWN = 999,
};

enum { NVML_FEATURE_DISABLED = 0, NVML_FEATURE_ENABLED = 1 };
enum { NVML_DEVICE_ARCH_AMPERE = 7, NVML_DEVICE_ARCH_HOPPER = 9, NVML_DEVICE_ARCH_BLACKWELL = 10 };
enum { NVML_BUS_TYPE_PCIE = 2 };
enum { NVML_COMPUTEMODE_DEFAULT = 0 };
enum { NVML_PSTATE_0 = 0, NVML_PSTATE_UNKNOWN = 32 };
enum { NVML_CLOCK_GRAPHICS = 0, NVML_CLOCK_SM = 1, NVML_CLOCK_MEM = 2, NVML_CLOCK_VIDEO = 3, NVML_CLOCK_COUNT = 4 };
enum { NVML_CLOCK_ID_CURRENT = 0, NVML_CLOCK_ID_COUNT = 4 };
enum { NVML_TEMPERATURE_GPU = 0 };
enum {
	NVML_TEMPERATURE_THRESHOLD_SHUTDOWN = 0,
	NVML_TEMPERATURE_THRESHOLD_SLOWDOWN = 1,
	NVML_TEMPERATURE_THRESHOLD_MEM_MAX = 2,
	NVML_TEMPERATURE_THRESHOLD_GPU_MAX = 3,
	NVML_TEMPERATURE_THRESHOLD_COUNT = 8,
};
enum { NVML_MEMORY_ERROR_TYPE_CORRECTED = 0, NVML_MEMORY_ERROR_TYPE_COUNT = 2 };
enum { NVML_VOLATILE_ECC = 0, NVML_ECC_COUNTER_TYPE_COUNT = 2 };
enum { NVML_MEMORY_LOCATION_DRAM = 2, NVML_MEMORY_LOCATION_SRAM = 7, NVML_MEMORY_LOCATION_COUNT = 8 };
enum { NVML_PCIE_UTIL_TX_BYTES = 0, NVML_PCIE_UTIL_COUNT = 2 };
enum { NVML_UUID_TYPE_ASCII = 1, NVML_UUID_TYPE_BINARY = 2 };
enum {
	NVML_VALUE_TYPE_DOUBLE = 0,
	NVML_VALUE_TYPE_UNSIGNED_INT = 1,
	NVML_VALUE_TYPE_UNSIGNED_LONG = 2,
	NVML_VALUE_TYPE_UNSIGNED_LONG_LONG = 3,
	NVML_VALUE_TYPE_SIGNED_INT = 5,
};
enum {
	NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE = 16,
	NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE = 32,
	NVML_DEVICE_NAME_V2_BUFFER_SIZE = 96,
	NVML_DEVICE_UUID_ASCII_LEN = 41,
	NVML_DEVICE_UUID_BINARY_LEN = 16,
};
enum {
	NVML_GPU_INSTANCE_PROFILE_COUNT = 0x12,
	NVML_GPU_INSTANCE_PROFILE_1_SLICE_GFX = 0xA,
	NVML_GPU_INSTANCE_PROFILE_4_SLICE_GFX = 0xC,
	NVML_GPU_INSTANCE_PROFILE_1_SLICE_NO_ME = 0xD,
	NVML_GPU_INSTANCE_PROFILE_2_SLICE_NO_ME = 0xE,
	NVML_GPU_INSTANCE_PROFILE_1_SLICE_ALL_ME = 0xF,
	NVML_GPU_INSTANCE_PROFILE_2_SLICE_ALL_ME = 0x10,
	NVML_GPU_INSTANCE_PROFILE_3_SLICE_GFX = 0x11,
	NVML_GPU_INSTANCE_PROFILE_CAPS_GFX = 0x2,
	NVML_COMPUTE_INSTANCE_PROFILE_CAPS_GFX = 0x1,
	NVML_COMPUTE_INSTANCE_PROFILE_1_SLICE_REV1 = 7,
	NVML_COMPUTE_INSTANCE_PROFILE_COUNT = 9,
	NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_COUNT = 1,
};
enum {
	nvmlEventTypeSingleBitEccError = 0x1,
	nvmlEventTypeDoubleBitEccError = 0x2,
	nvmlEventTypePState = 0x4,
	nvmlEventTypeXidCriticalError = 0x8,
	nvmlEventTypeClock = 0x10,
	nvmlEventMigConfigChange = 0x100,
	nvmlEventTypeGpuUnavailableError = 0x4000,
	nvmlEventTypeGpuRecoveryAction = 0x8000,
	nvmlClocksEventReasonGpuIdle = 0x1,
	nvmlClocksEventReasonApplicationsClocksSetting = 0x2,
	nvmlClocksEventReasonSwPowerCap = 0x4,
	nvmlClocksThrottleReasonHwSlowdown = 0x8,
	nvmlClocksEventReasonSyncBoost = 0x10,
	nvmlClocksEventReasonSwThermalSlowdown = 0x20,
	nvmlClocksThrottleReasonHwThermalSlowdown = 0x40,
	nvmlClocksThrottleReasonHwPowerBrakeSlowdown = 0x80,
};

/* Field identifiers of nvmlDeviceGetFieldValues. */
enum {
	NVML_FI_DEV_ECC_CURRENT = 1,
	NVML_FI_DEV_ECC_PENDING = 2,
	NVML_FI_DEV_ECC_SBE_VOL_TOTAL = 3,
	NVML_FI_DEV_ECC_DBE_VOL_TOTAL = 4,
	NVML_FI_DEV_ECC_SBE_AGG_TOTAL = 5,
	NVML_FI_DEV_ECC_DBE_AGG_TOTAL = 6,
	NVML_FI_DEV_ECC_SBE_VOL_L2 = 9,
	NVML_FI_DEV_ECC_DBE_VOL_L2 = 10,
	NVML_FI_DEV_ECC_SBE_VOL_DEV = 11,
	NVML_FI_DEV_ECC_DBE_VOL_DEV = 12,
	NVML_FI_DEV_ECC_SBE_AGG_L2 = 20,
	NVML_FI_DEV_ECC_DBE_AGG_L2 = 21,
	NVML_FI_DEV_ECC_SBE_AGG_DEV = 22,
	NVML_FI_DEV_ECC_DBE_AGG_DEV = 23,
	NVML_FI_DEV_PERF_POLICY_POWER = 74,
	NVML_FI_DEV_PERF_POLICY_THERMAL = 75,
	NVML_FI_DEV_PERF_POLICY_SYNC_BOOST = 76,
	NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT = 77,
	NVML_FI_DEV_PERF_POLICY_LOW_UTILIZATION = 78,
	NVML_FI_DEV_PERF_POLICY_RELIABILITY = 79,
	NVML_FI_DEV_PERF_POLICY_TOTAL_APP_CLOCKS = 80,
	NVML_FI_DEV_PERF_POLICY_TOTAL_BASE_CLOCKS = 81,
	NVML_FI_DEV_MEMORY_TEMP = 82,
	NVML_FI_DEV_TOTAL_ENERGY_CONSUMPTION = 83,
	NVML_FI_DEV_PCIE_REPLAY_COUNTER = 94,
	NVML_FI_DEV_PCIE_REPLAY_ROLLOVER_COUNTER = 95,
	NVML_FI_DEV_REMAPPED_COR = 142,
	NVML_FI_DEV_REMAPPED_UNC = 143,
	NVML_FI_DEV_REMAPPED_PENDING = 144,
	NVML_FI_DEV_REMAPPED_FAILURE = 145,
	NVML_FI_DEV_PCIE_L0_TO_RECOVERY_COUNTER = 169,
	NVML_FI_DEV_PCIE_COUNT_CORRECTABLE_ERRORS = 173,
	NVML_FI_DEV_PCIE_COUNT_LANE_ERROR = 183,
	NVML_FI_DEV_IS_RESETLESS_MIG_SUPPORTED = 184,
	NVML_FI_DEV_POWER_AVERAGE = 185,
	NVML_FI_DEV_POWER_INSTANT = 186,
	NVML_FI_DEV_POWER_MIN_LIMIT = 187,
	NVML_FI_DEV_POWER_MAX_LIMIT = 188,
	NVML_FI_DEV_POWER_DEFAULT_LIMIT = 189,
	NVML_FI_DEV_POWER_CURRENT_LIMIT = 190,
	NVML_FI_DEV_ENERGY = 191,
	NVML_FI_DEV_POWER_REQUESTED_LIMIT = 192,
	NVML_FI_DEV_TEMPERATURE_SHUTDOWN_TLIMIT = 193,
	NVML_FI_DEV_TEMPERATURE_SLOWDOWN_TLIMIT = 194,
	NVML_FI_DEV_TEMPERATURE_MEM_MAX_TLIMIT = 195,
	NVML_FI_DEV_TEMPERATURE_GPU_MAX_TLIMIT = 196,
	NVML_FI_DEV_PCIE_COUNT_TX_BYTES = 197,
	NVML_FI_DEV_PCIE_COUNT_RX_BYTES = 198,
	NVML_FI_DEV_IS_MIG_MODE_INDEPENDENT_MIG_QUERY_CAPABLE = 199,
	NVML_FI_DEV_GET_GPU_RECOVERY_ACTION = 230,
	NVML_FI_DEV_CLOCKS_EVENT_REASON_SW_THERM_SLOWDOWN = 269,
	NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_THERM_SLOWDOWN = 270,
	NVML_FI_DEV_CLOCKS_EVENT_REASON_HW_POWER_BRAKE_SLOWDOWN = 271,
	NVML_FI_DEV_REMAPPED_ROWS_COR_INACTIVE = 301,
	NVML_FI_DEV_REMAPPED_ROWS_UNC_INACTIVE = 302,
	NVML_FI_DEV_GPU_TEMP = 308,
};

typedef struct {
	unsigned int version;
	unsigned int domain;
	unsigned int bus;
	unsigned int device;
	unsigned int pciDeviceId;
	unsigned int pciSubSystemId;
	unsigned int baseClass;
	unsigned int subClass;
	char busId[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE];
} nvmlPciInfoExt_v1_t;
typedef nvmlPciInfoExt_v1_t nvmlPciInfoExt_t;

typedef struct {
	char busIdLegacy[NVML_DEVICE_PCI_BUS_ID_BUFFER_V2_SIZE];
	unsigned int domain;
	unsigned int bus;
	unsigned int device;
	unsigned int pciDeviceId;
	unsigned int pciSubSystemId;
	char busId[NVML_DEVICE_PCI_BUS_ID_BUFFER_SIZE];
} nvmlPciInfo_t;

typedef struct {
	unsigned int gpu;
	unsigned int memory;
} nvmlUtilization_t;

typedef struct {
	unsigned long long total;
	unsigned long long free;
	unsigned long long used;
} nvmlMemory_t;

typedef struct {
	unsigned int version;
	unsigned long long total;
	unsigned long long reserved;
	unsigned long long free;
	unsigned long long used;
} nvmlMemory_v2_t;

typedef struct {
	unsigned long long bar1Total;
	unsigned long long bar1Free;
	unsigned long long bar1Used;
} nvmlBAR1Memory_t;

typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
} nvmlProcessInfo_v1_t;

typedef struct {
	unsigned int pid;
	unsigned long long usedGpuMemory;
	unsigned int gpuInstanceId;
	unsigned int computeInstanceId;
} nvmlProcessInfo_v2_t;
typedef nvmlProcessInfo_v2_t nvmlProcessInfo_t;

typedef union {
	double dVal;
	int siVal;
	unsigned int uiVal;
	unsigned long ulVal;
	unsigned long long ullVal;
	signed long long sllVal;
	unsigned short usVal;
} nvmlValue_t;

typedef struct {
	unsigned int fieldId;
	unsigned int scopeId;
	long long timestamp;
	long long latencyUsec;
	nvmlValueType_t valueType;
	nvmlReturn_t nvmlReturn;
	nvmlValue_t value;
} nvmlFieldValue_t;

typedef struct {
	unsigned int version;
	nvmlTemperatureSensors_t sensorType;
	int temperature;
} nvmlTemperature_v1_t;
typedef nvmlTemperature_v1_t nvmlTemperature_t;

typedef struct {
	unsigned int max;
	unsigned int high;
	unsigned int partial;
	unsigned int low;
	unsigned int none;
} nvmlRowRemapperHistogramValues_t;

typedef union {
	char str[NVML_DEVICE_UUID_ASCII_LEN];
	unsigned char bytes[NVML_DEVICE_UUID_BINARY_LEN];
} nvmlUUIDValue_t;

typedef struct {
	unsigned int version;
	unsigned int type;
	nvmlUUIDValue_t value;
} nvmlUUID_v1_t;
typedef nvmlUUID_v1_t nvmlUUID_t;

typedef struct {
	nvmlDevice_t device;
	unsigned long long eventType;
	unsigned long long eventData;
	unsigned int gpuInstanceId;
	unsigned int computeInstanceId;
} nvmlEventData_t;

#include "abi_links.h"
#include "abi_mig.h"
#include "abi_system.h"
#include "abi_telemetry.h"

/* NVML's version word: the structure's size below, its version in the top byte. */
#define NVMLSIM_VERSION(type, number) ((unsigned int)(sizeof(type) | ((unsigned int)(number) << 24U)))

#endif
