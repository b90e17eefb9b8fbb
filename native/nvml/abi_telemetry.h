/* Samples, accounting, clocks and GPU performance metrics in NVML's binary interface; included by abi.h, checked with it. */
#ifndef NVMLSIM_ABI_TELEMETRY_H
#define NVMLSIM_ABI_TELEMETRY_H

typedef unsigned int nvmlSamplingType_t;
typedef unsigned int nvmlPerfPolicyType_t;
typedef unsigned int nvmlPowerSource_t;
typedef unsigned char nvmlPowerScopeType_t;
typedef struct nvmlGpmSample_st *nvmlGpmSample_t;

enum {
	NVML_TOTAL_POWER_SAMPLES = 0,
	NVML_GPU_UTILIZATION_SAMPLES = 1,
	NVML_MEMORY_UTILIZATION_SAMPLES = 2,
	NVML_ENC_UTILIZATION_SAMPLES = 3,
	NVML_DEC_UTILIZATION_SAMPLES = 4,
	NVML_PROCESSOR_CLK_SAMPLES = 5,
	NVML_MEMORY_CLK_SAMPLES = 6,
	NVML_MODULE_POWER_SAMPLES = 7,
	NVML_JPG_UTILIZATION_SAMPLES = 8,
	NVML_OFA_UTILIZATION_SAMPLES = 9,
};
enum {
	NVML_PERF_POLICY_POWER = 0,
	NVML_PERF_POLICY_THERMAL = 1,
	NVML_PERF_POLICY_SYNC_BOOST = 2,
	NVML_PERF_POLICY_BOARD_LIMIT = 3,
	NVML_PERF_POLICY_LOW_UTILIZATION = 4,
	NVML_PERF_POLICY_RELIABILITY = 5,
	NVML_PERF_POLICY_TOTAL_APP_CLOCKS = 10,
	NVML_PERF_POLICY_TOTAL_BASE_CLOCKS = 11,
};
enum { NVML_POWER_SOURCE_AC = 0, NVML_POWER_SCOPE_GPU = 0, NVML_POWER_SCOPE_MODULE = 1, NVML_POWER_SCOPE_MEMORY = 2 };

typedef struct {
	unsigned long long timeStamp;
	nvmlValue_t sampleValue;
} nvmlSample_t;

typedef struct {
	unsigned long long referenceTime;
	unsigned long long violationTime;
} nvmlViolationTime_t;

typedef struct {
	unsigned int version;
	nvmlPowerScopeType_t powerScope;
	unsigned int powerValueMw;
} nvmlPowerValue_v2_t;

typedef struct {
	unsigned int version;
	int marginTemperature;
} nvmlMarginTemperature_v1_t;
typedef nvmlMarginTemperature_v1_t nvmlMarginTemperature_t;

typedef struct {
	unsigned int gpuUtilization;
	unsigned int memoryUtilization;
	unsigned long long maxMemoryUsage;
	unsigned long long time;
	unsigned long long startTime;
	unsigned int isRunning;
	unsigned int reserved[5];
} nvmlAccountingStats_t;

typedef struct {
	unsigned int pid;
	unsigned long long timeStamp;
	unsigned int smUtil;
	unsigned int memUtil;
	unsigned int encUtil;
	unsigned int decUtil;
} nvmlProcessUtilizationSample_t;

typedef struct {
	unsigned long long timeStamp;
	unsigned int pid;
	unsigned int smUtil;
	unsigned int memUtil;
	unsigned int encUtil;
	unsigned int decUtil;
	unsigned int jpgUtil;
	unsigned int ofaUtil;
} nvmlProcessUtilizationInfo_v1_t;

typedef struct {
	unsigned int version;
	unsigned int processSamplesCount;
	unsigned long long lastSeenTimeStamp;
	nvmlProcessUtilizationInfo_v1_t *procUtilArray;
} nvmlProcessesUtilizationInfo_v1_t;
typedef nvmlProcessesUtilizationInfo_v1_t nvmlProcessesUtilizationInfo_t;

/* Ranges of GPU performance metrics; single engines and links follow each other. */
enum {
	NVML_GPM_METRIC_GRAPHICS_UTIL = 1,
	NVML_GPM_METRIC_SM_UTIL = 2,
	NVML_GPM_METRIC_SM_OCCUPANCY = 3,
	NVML_GPM_METRIC_INTEGER_UTIL = 4,
	NVML_GPM_METRIC_ANY_TENSOR_UTIL = 5,
	NVML_GPM_METRIC_DFMA_TENSOR_UTIL = 6,
	NVML_GPM_METRIC_HMMA_TENSOR_UTIL = 7,
	NVML_GPM_METRIC_DMMA_TENSOR_UTIL = 8,
	NVML_GPM_METRIC_IMMA_TENSOR_UTIL = 9,
	NVML_GPM_METRIC_DRAM_BW_UTIL = 10,
	NVML_GPM_METRIC_FP64_UTIL = 11,
	NVML_GPM_METRIC_FP32_UTIL = 12,
	NVML_GPM_METRIC_FP16_UTIL = 13,
	NVML_GPM_METRIC_PCIE_TX_PER_SEC = 20,
	NVML_GPM_METRIC_PCIE_RX_PER_SEC = 21,
	NVML_GPM_METRIC_NVDEC_0_UTIL = 30,
	NVML_GPM_METRIC_NVDEC_7_UTIL = 37,
	NVML_GPM_METRIC_NVJPG_0_UTIL = 40,
	NVML_GPM_METRIC_NVJPG_7_UTIL = 47,
	NVML_GPM_METRIC_NVOFA_0_UTIL = 50,
	NVML_GPM_METRIC_NVOFA_1_UTIL = 51,
	NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC = 60,
	NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC = 61,
	NVML_GPM_METRIC_NVLINK_L0_RX_PER_SEC = 62,
	NVML_GPM_METRIC_NVLINK_L17_TX_PER_SEC = 97,
	NVML_GPM_METRIC_SM_CYCLES_ELAPSED = 248,
	NVML_GPM_METRIC_SM_CYCLES_ACTIVE = 249,
	NVML_GPM_METRIC_MMA_CYCLES_ACTIVE = 250,
	NVML_GPM_METRIC_DMMA_CYCLES_ACTIVE = 251,
	NVML_GPM_METRIC_HMMA_CYCLES_ACTIVE = 252,
	NVML_GPM_METRIC_IMMA_CYCLES_ACTIVE = 253,
	NVML_GPM_METRIC_DFMA_CYCLES_ACTIVE = 254,
	NVML_GPM_METRIC_PCIE_TX = 255,
	NVML_GPM_METRIC_PCIE_RX = 256,
	NVML_GPM_METRIC_INTEGER_CYCLES_ACTIVE = 257,
	NVML_GPM_METRIC_FP64_CYCLES_ACTIVE = 258,
	NVML_GPM_METRIC_FP32_CYCLES_ACTIVE = 259,
	NVML_GPM_METRIC_FP16_CYCLES_ACTIVE = 260,
	NVML_GPM_METRIC_NVLINK_L0_RX = 261,
	NVML_GPM_METRIC_NVLINK_L17_TX = 296,
	NVML_GPM_METRIC_MAX = 477,
	NVML_GPM_METRICS_GET_VERSION = 1,
	NVML_GPM_SUPPORT_VERSION = 1,
};

typedef struct {
	unsigned int metricId;
	nvmlReturn_t nvmlReturn;
	double value;
	struct {
		char *shortName;
		char *longName;
		char *unit;
	} metricInfo;
} nvmlGpmMetric_t;

typedef struct {
	unsigned int version;
	unsigned int numMetrics;
	nvmlGpmSample_t sample1;
	nvmlGpmSample_t sample2;
	nvmlGpmMetric_t metrics[NVML_GPM_METRIC_MAX];
} nvmlGpmMetricsGet_t;

typedef struct {
	unsigned int version;
	unsigned int isSupportedDevice;
} nvmlGpmSupport_t;

#endif
