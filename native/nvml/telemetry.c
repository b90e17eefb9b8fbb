/*
 * Telemetry as a function of load and time: no process has to run for it to move, and all processes see the same.
 *
 * Power and temperature approach their steady values as 1/(1+t/tau)^2, whose integral is known in closed form, so that energy
 * is exact without sampling. A triangular ripple keeps the values alive under load. Only + - * / are used: no libm.
 */
#include "machine.h"

#define POWER_TAU_S 2.0
#define TEMPERATURE_TAU_S 20.0
#define RIPPLE_PERIOD_S 11.0
#define RIPPLE_SHARE 0.02

static double elapsed_s(const struct load *load, uint64_t when_ns)
{
	/* A machine file that outlived a reboot starts anew. */
	return when_ns > load->since_ns ? (double)(when_ns - load->since_ns) / 1e9 : 0.0;
}

static double approach(double from, double to, double t, double tau)
{
	double left = 1.0 / (1.0 + t / tau);

	return to + (from - to) * left * left;
}

static double approach_integral(double from, double to, double t, double tau)
{
	return to * t + (from - to) * tau * (1.0 - 1.0 / (1.0 + t / tau));
}

/* Phase in [0, 1) of the ripple. */
static double phase(double t)
{
	double turns = t / RIPPLE_PERIOD_S;

	return turns - (double)(uint64_t)turns;
}

/* A triangle from 0 up to 1, down to -1 and back. */
static double ripple(double t)
{
	double p = phase(t);

	if (p < 0.25)
		return 4.0 * p;
	return p < 0.75 ? 2.0 - 4.0 * p : 4.0 * p - 4.0;
}

/* Its integral over [0, t]; whole periods cancel. */
static double ripple_integral(double t)
{
	double p = phase(t), area;

	if (p < 0.25)
		area = 2.0 * p * p;
	else if (p < 0.75)
		area = 0.25 - 2.0 * (p - 0.5) * (p - 0.5);
	else
		area = 2.0 * (p - 1.0) * (p - 1.0);
	return area * RIPPLE_PERIOD_S;
}

static double wanted_power(const struct gpu *gpu, uint32_t percent)
{
	const struct board *board = &gpu->board;

	return board->power_idle_mw + 0.92 * (double)(board->power_max_mw - board->power_idle_mw) * percent / 100.0;
}

static double steady_power(const struct gpu *gpu, uint32_t percent)
{
	double wanted = wanted_power(gpu, percent), limit = 0.97 * (double)gpu->power_limit_mw;

	return wanted < limit ? wanted : limit;
}

/* Whether the load would draw more than the power limit allows. */
int power_is_capped(const struct gpu *gpu)
{
	return wanted_power(gpu, load_now(gpu)->percent) > 0.97 * (double)gpu->power_limit_mw;
}

static double steady_temperature(const struct gpu *gpu, uint32_t percent)
{
	const struct board *board = &gpu->board;

	return board->temperature_idle_c + (double)(board->temperature_full_c - board->temperature_idle_c) * percent / 100.0;
}

static double ripple_power(const struct gpu *gpu, uint32_t percent)
{
	return RIPPLE_SHARE * (steady_power(gpu, percent) - (double)gpu->board.power_idle_mw);
}

static unsigned int busy_percent(const struct load *load, double t)
{
	double value = load->percent + 3.0 * ripple(t);

	if (!load->percent)
		return 0;
	if (value > 100.0)
		return 100;
	return value < 1.0 ? 1 : (unsigned int)(value + 0.5);
}

static double power_mw(const struct gpu *gpu, const struct load *load, double t)
{
	return approach(load->power_from_mw, steady_power(gpu, load->percent), t, POWER_TAU_S)
		+ ripple_power(gpu, load->percent) * ripple(t);
}

static double energy_mj(const struct gpu *gpu, const struct load *load, double t)
{
	return load->energy_mj + approach_integral(load->power_from_mw, steady_power(gpu, load->percent), t, POWER_TAU_S)
		+ ripple_power(gpu, load->percent) * ripple_integral(t);
}

static double work_percent_s(const struct load *load, double t)
{
	return load->work_percent_s + load->percent * t + (load->percent ? 3.0 * ripple_integral(t) : 0.0);
}

/* Thermal and brake slowdowns halve the clock; application and locked clocks set its bounds. */
static unsigned int sm_clock(const struct gpu *gpu, unsigned int busy)
{
	const uint64_t slow = nvmlClocksThrottleReasonHwSlowdown | nvmlClocksThrottleReasonHwThermalSlowdown
			      | nvmlClocksThrottleReasonHwPowerBrakeSlowdown | nvmlClocksEventReasonSwThermalSlowdown;
	uint64_t high = gpu->application_clock_mhz ? gpu->application_clock_mhz : gpu->board.sm_clock_max_mhz;
	uint64_t clock = busy ? high : gpu->board.sm_clock_idle_mhz;

	if (gpu->locked_max_mhz && clock > gpu->locked_max_mhz)
		clock = gpu->locked_max_mhz;
	if (clock < gpu->locked_min_mhz)
		clock = gpu->locked_min_mhz;
	return (unsigned int)(busy && gpu->event_reasons & slow ? clock / 2 : clock);
}

struct telemetry telemetry_at(const struct gpu *gpu, uint64_t when_ns)
{
	const struct board *board = &gpu->board;
	const struct load *load = load_now(gpu);
	double t = elapsed_s(load, when_ns);
	double heat = approach(load->temperature_from_c, steady_temperature(gpu, load->percent), t, TEMPERATURE_TAU_S);
	unsigned int busy = busy_percent(load, t);

	return (struct telemetry){
		.utilization = busy,
		.memory_utilization = busy * 6 / 10,
		.temperature_c = (unsigned int)(heat + 0.5),
		.memory_temperature_c = (unsigned int)(heat + 0.5) + 6 + busy / 20,
		.power_mw = (unsigned int)power_mw(gpu, load, t),
		.energy_mj = (unsigned long long)energy_mj(gpu, load, t),
		.sm_clock_mhz = sm_clock(gpu, busy),
		.video_clock_mhz = (unsigned int)(busy ? board->video_clock_max_mhz : board->sm_clock_idle_mhz),
		.pcie_rx_kbps = 500 + busy * PCIE_RX_KIB,
		.pcie_tx_kbps = 400 + busy * PCIE_TX_KIB,
		.capped_ns = (unsigned long long)((load->capped_s + (power_is_capped(gpu) ? t : 0.0)) * 1e9),
		.work_percent_s = work_percent_s(load, t),
	};
}

struct telemetry telemetry_of(const struct gpu *gpu)
{
	return telemetry_at(gpu, now_ns());
}

/* A new load from now on; power, temperature and energy go on from where they are. The caller holds the lock. */
void telemetry_start(struct gpu *gpu, uint32_t percent)
{
	const struct load *old = load_now(gpu);
	uint64_t now = now_ns();
	double t = elapsed_s(old, now);
	struct load *load = load_change(gpu);

	load->power_from_mw = approach(old->power_from_mw, steady_power(gpu, old->percent), t, POWER_TAU_S);
	load->temperature_from_c =
		approach(old->temperature_from_c, steady_temperature(gpu, old->percent), t, TEMPERATURE_TAU_S);
	load->energy_mj = energy_mj(gpu, old, t);
	load->work_percent_s = work_percent_s(old, t);
	load->capped_s = old->capped_s + (power_is_capped(gpu) ? t : 0.0);
	load->percent = percent;
	load->since_ns = now;
	load_commit(gpu);
}

/* An idle, cool GPU whose energy counter starts at zero, as after a driver load. The caller holds the lock. */
void telemetry_reset(struct gpu *gpu)
{
	struct load *load = load_change(gpu);

	*load = (struct load){
		.since_ns = now_ns(),
		.power_from_mw = (double)gpu->board.power_idle_mw,
		.temperature_from_c = (double)gpu->board.temperature_idle_c,
	};
	load_commit(gpu);
}
