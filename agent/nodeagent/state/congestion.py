"""Congestion control of RoCE (DCQCN): which settings there are, by the names that mlx5 gives them.

Source: drivers/infiniband/hw/mlx5/cong.c of Linux 6.1 and 6.12; the last four exist since 6.12 or in OFED's files only.
"""

from __future__ import annotations

PRIORITIES = 8
REACTION = (
    "rp_clamp_tgt_rate",
    "rp_clamp_tgt_rate_ati",
    "rp_time_reset",
    "rp_byte_reset",
    "rp_threshold",
    "rp_ai_rate",
    "rp_max_rate",
    "rp_hai_rate",
    "rp_min_dec_fac",
    "rp_min_rate",
    "rp_rate_to_set_on_first_cnp",
    "rp_dce_tcp_g",
    "rp_dce_tcp_rtt",
    "rp_rate_reduce_monitor_period",
    "rp_initial_alpha_value",
    "rp_gd",
)
NOTIFICATION = ("np_min_time_between_cnps", "np_cnp_dscp", "np_cnp_prio_mode", "np_cnp_prio")
LATER = ("rtt_resp_dscp_valid", "rtt_resp_dscp")
PARAMETERS = (*REACTION, *NOTIFICATION, *LATER)


def ecn_setting(priority: int) -> str:
    """The name of the switch that turns congestion control on for a priority, on both ends of a flow."""
    return f"ecn_prio{priority}"
