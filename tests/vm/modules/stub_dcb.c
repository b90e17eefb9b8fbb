// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A network interface without hardware, dcb0, that keeps what DCB netlink writes: no stock or emulated driver has
 * dcbnl_ops. It refuses as mlx5 does (ETS that does not add up to 100, DCBX without HOST), and with without_ets=1 it
 * lacks those callbacks, which the kernel passes over in silence. `writes` counts what was written.
 */
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <net/dcbnl.h>

static bool without_ets;
module_param(without_ets, bool, 0444);
static uint writes;
module_param(writes, uint, 0444);

static struct net_device *stub;
static struct ieee_ets ets = { .ets_cap = 8, .prio_tc = { 1, 0, 2, 3, 4, 5, 6, 7 } };
static struct ieee_pfc pfc = { .pfc_cap = 8, .delay = 7 };
static struct ieee_maxrate maxrate;
static struct dcbnl_buffer buffer = { .buffer_size = { 262016 }, .total_size = 524160 };
static u8 dcbx = DCB_CAP_DCBX_VER_CEE | DCB_CAP_DCBX_VER_IEEE;

static int get_ets(struct net_device *dev, struct ieee_ets *out)
{
	*out = ets;
	return 0;
}

static int set_ets(struct net_device *dev, struct ieee_ets *in)
{
	int i, sum = 0, shared = 0;

	for (i = 0; i < IEEE_8021QAZ_MAX_TCS; i++) {
		if (in->tc_tsa[i] == IEEE_8021QAZ_TSA_CB_SHAPER)
			return -EOPNOTSUPP;
		if (in->prio_tc[i] >= IEEE_8021QAZ_MAX_TCS)
			return -EINVAL;
		if (in->tc_tsa[i] == IEEE_8021QAZ_TSA_ETS) {
			sum += in->tc_tx_bw[i];
			shared++;
		}
	}
	if (shared && sum != 100)
		return -EINVAL;
	ets = *in;
	ets.ets_cap = 8;
	writes++;
	return 0;
}

static int get_pfc(struct net_device *dev, struct ieee_pfc *out)
{
	*out = pfc;
	out->requests[3] = 1000;
	out->indications[3] = 2000;
	return 0;
}

static int set_pfc(struct net_device *dev, struct ieee_pfc *in)
{
	pfc.pfc_en = in->pfc_en;
	if (in->delay)
		pfc.delay = in->delay;
	writes++;
	return 0;
}

static int get_maxrate(struct net_device *dev, struct ieee_maxrate *out)
{
	*out = maxrate;
	return 0;
}

static int set_maxrate(struct net_device *dev, struct ieee_maxrate *in)
{
	int i;

	/* Steps of 100 Mb/s, as the hardware has them. */
	for (i = 0; i < IEEE_8021QAZ_MAX_TCS; i++)
		maxrate.tc_maxrate[i] = div_u64(in->tc_maxrate[i], 100000) * 100000;
	writes++;
	return 0;
}

static int get_buffer(struct net_device *dev, struct dcbnl_buffer *out)
{
	*out = buffer;
	return 0;
}

static int set_buffer(struct net_device *dev, struct dcbnl_buffer *in)
{
	u64 sum = 0;
	int i;

	for (i = 0; i < DCBX_MAX_BUFFERS; i++)
		sum += in->buffer_size[i];
	if (sum > buffer.total_size)
		return -EINVAL;
	for (i = 0; i < DCBX_MAX_BUFFERS; i++) /* in cells, as the hardware has them */
		buffer.buffer_size[i] = in->buffer_size[i] / 128 * 128;
	memcpy(buffer.prio2buffer, in->prio2buffer, sizeof(buffer.prio2buffer));
	writes++;
	return 0;
}

static int set_app(struct net_device *dev, struct dcb_app *app)
{
	writes++;
	return dcb_ieee_setapp(dev, app);
}

static int del_app(struct net_device *dev, struct dcb_app *app)
{
	writes++;
	return dcb_ieee_delapp(dev, app);
}

static u8 get_dcbx(struct net_device *dev)
{
	return dcbx;
}

static u8 set_dcbx(struct net_device *dev, u8 mode)
{
	if (mode && !(mode & DCB_CAP_DCBX_HOST))
		return 1;
	dcbx = mode ? mode : dcbx & ~DCB_CAP_DCBX_HOST;
	writes++;
	return 0;
}

static struct dcbnl_rtnl_ops operations = {
	.ieee_getets = get_ets,
	.ieee_setets = set_ets,
	.ieee_getpfc = get_pfc,
	.ieee_setpfc = set_pfc,
	.ieee_getmaxrate = get_maxrate,
	.ieee_setmaxrate = set_maxrate,
	.ieee_setapp = set_app,
	.ieee_delapp = del_app,
	.dcbnl_getbuffer = get_buffer,
	.dcbnl_setbuffer = set_buffer,
	.getdcbx = get_dcbx,
	.setdcbx = set_dcbx,
};

static netdev_tx_t drop(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops netdev_operations = {
	.ndo_start_xmit = drop,
	.ndo_set_mac_address = eth_mac_addr,
};

static void setup(struct net_device *dev)
{
	ether_setup(dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &netdev_operations;
	dev->dcbnl_ops = &operations;
	dev->max_mtu = 9978;
}

static int __init stub_init(void)
{
	int error;

	memset(ets.tc_tsa, IEEE_8021QAZ_TSA_VENDOR, sizeof(ets.tc_tsa));
	if (without_ets) {
		operations.ieee_getets = NULL;
		operations.ieee_setets = NULL;
	}
	stub = alloc_netdev(0, "dcb0", NET_NAME_USER, setup);
	if (!stub)
		return -ENOMEM;
	error = register_netdev(stub);
	if (error)
		free_netdev(stub);
	return error;
}

static void __exit stub_exit(void)
{
	unregister_netdev(stub);
	free_netdev(stub);
}

module_init(stub_init);
module_exit(stub_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Interface with DCB and no hardware");
