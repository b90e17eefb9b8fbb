// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A driver that makes a network card with SR-IOV and devlink of QEMU's NVMe controller: its virtual functions, IOMMU
 * groups, sriov_numvfs and driver binding are real, the network is not. It refuses as mlx5 does: another eswitch mode
 * while there are virtual functions, parameters that the device does not know, flow steering outside legacy mode.
 * The ids and the class are changed where the kernel keeps them, so that it is found as a network card.
 */
#include <linux/etherdevice.h>
#include <linux/if_arp.h>
#include <linux/if_link.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/pci.h>
#include <net/devlink.h>

#define MOST_VFS 8
#define ID_STEERING (DEVLINK_PARAM_GENERIC_ID_MAX + 1)
#define ID_FIRMWARE (DEVLINK_PARAM_GENERIC_ID_MAX + 2)

static bool infiniband;
module_param(infiniband, bool, 0444);
static int refuse_vfs; /* errno with which the driver refuses to make virtual functions */
module_param(refuse_vfs, int, 0644);
static int refuse_reload;
module_param(refuse_reload, int, 0644);
static uint writes; /* of settings of virtual functions, parameters and the eswitch */
module_param(writes, uint, 0444);
static uint reloads;
module_param(reloads, uint, 0444);
static bool roce_in_force; /* what enable_roce was at the last load */
module_param(roce_in_force, bool, 0444);

struct vf {
	u8 mac[ETH_ALEN];
	u16 vlan;
	u8 qos;
	int min_rate, max_rate, link_state;
	bool spoofchk, trust;
	u64 node_guid, port_guid;
};

struct card {
	struct pci_dev *pdev;
	struct net_device *netdev;
	struct vf vfs[MOST_VFS];
	u16 eswitch;
	u32 firmware;
	char steering[32];
};

struct port {
	struct card *card;
};

static struct vf *vf_of(struct net_device *dev, int index)
{
	struct port *port = netdev_priv(dev);

	if (!port->card || index < 0 || index >= pci_num_vf(port->card->pdev))
		return NULL;
	writes++;
	return &port->card->vfs[index];
}

static int set_mac(struct net_device *dev, int index, u8 *mac)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf || is_multicast_ether_addr(mac))
		return -EINVAL;
	ether_addr_copy(vf->mac, mac);
	return 0;
}

static int set_vlan(struct net_device *dev, int index, u16 vlan, u8 qos, __be16 protocol)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf || vlan > 4094 || qos > 7)
		return -EINVAL;
	vf->vlan = vlan;
	vf->qos = qos;
	return 0;
}

static int set_rate(struct net_device *dev, int index, int least, int most)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf || (most && least > most))
		return -EINVAL;
	vf->min_rate = least;
	vf->max_rate = most;
	return 0;
}

static int set_spoofchk(struct net_device *dev, int index, bool on)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf)
		return -EINVAL;
	vf->spoofchk = on;
	return 0;
}

static int set_trust(struct net_device *dev, int index, bool on)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf)
		return -EINVAL;
	vf->trust = on;
	return 0;
}

static int set_link_state(struct net_device *dev, int index, int state)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf)
		return -EINVAL;
	vf->link_state = state;
	return 0;
}

static int set_guid(struct net_device *dev, int index, u64 guid, int type)
{
	struct vf *vf = vf_of(dev, index);

	if (!vf)
		return -EINVAL;
	if (type == IFLA_VF_IB_NODE_GUID)
		vf->node_guid = guid;
	else
		vf->port_guid = guid;
	return 0;
}

static int get_guid(struct net_device *dev, int index, struct ifla_vf_guid *node, struct ifla_vf_guid *port)
{
	struct port *own = netdev_priv(dev);

	node->guid = own->card->vfs[index].node_guid;
	port->guid = own->card->vfs[index].port_guid;
	return 0;
}

static int get_config(struct net_device *dev, int index, struct ifla_vf_info *info)
{
	struct port *own = netdev_priv(dev);
	struct vf *vf = &own->card->vfs[index];

	info->vf = index;
	ether_addr_copy(info->mac, vf->mac);
	info->vlan = vf->vlan;
	info->qos = vf->qos;
	info->spoofchk = vf->spoofchk;
	info->trusted = vf->trust;
	info->linkstate = vf->link_state;
	info->min_tx_rate = vf->min_rate;
	info->max_tx_rate = vf->max_rate;
	return 0;
}

static netdev_tx_t drop(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops vf_operations = {
	.ndo_start_xmit = drop,
};

static const struct net_device_ops pf_operations = {
	.ndo_start_xmit = drop,
	.ndo_set_vf_mac = set_mac,
	.ndo_set_vf_vlan = set_vlan,
	.ndo_set_vf_rate = set_rate,
	.ndo_set_vf_spoofchk = set_spoofchk,
	.ndo_set_vf_trust = set_trust,
	.ndo_set_vf_link_state = set_link_state,
	.ndo_set_vf_guid = set_guid,
	.ndo_get_vf_guid = get_guid,
	.ndo_get_vf_config = get_config,
};

static struct net_device *make_netdev(struct pci_dev *pdev, struct card *card, const u8 *mac)
{
	struct net_device *dev = alloc_etherdev(sizeof(struct port));
	struct port *port;

	if (!dev)
		return NULL;
	port = netdev_priv(dev);
	port->card = card;
	dev->netdev_ops = card ? &pf_operations : &vf_operations;
	dev->max_mtu = 9978;
	strscpy(dev->name, card ? "nic%d" : "nicvf%d", sizeof(dev->name));
	SET_NETDEV_DEV(dev, &pdev->dev);
	if (mac && is_valid_ether_addr(mac))
		eth_hw_addr_set(dev, mac);
	else
		eth_hw_addr_random(dev);
	if (infiniband && card)
		dev->type = ARPHRD_INFINIBAND; /* the kernel takes GUIDs for interfaces of this type alone */
	if (register_netdev(dev)) {
		free_netdev(dev);
		return NULL;
	}
	return dev;
}

static void drop_netdev(struct net_device *dev)
{
	if (!dev)
		return;
	unregister_netdev(dev);
	free_netdev(dev);
}

static int eswitch_get(struct devlink *devlink, u16 *mode)
{
	*mode = ((struct card *)devlink_priv(devlink))->eswitch;
	return 0;
}

static int eswitch_set(struct devlink *devlink, u16 mode, struct netlink_ext_ack *extack)
{
	struct card *card = devlink_priv(devlink);

	if (pci_num_vf(card->pdev) && mode != card->eswitch) {
		NL_SET_ERR_MSG_MOD(extack, "Can't change mode while virtual functions are there");
		return -EBUSY;
	}
	card->eswitch = mode;
	writes++;
	return 0;
}

static int steering_get(struct devlink *devlink, u32 id, struct devlink_param_gset_ctx *context)
{
	struct card *card = devlink_priv(devlink);

	strscpy(context->val.vstr, card->steering, sizeof(context->val.vstr));
	return 0;
}

static int steering_set(struct devlink *devlink, u32 id, struct devlink_param_gset_ctx *context)
{
	struct card *card = devlink_priv(devlink);

	strscpy(card->steering, context->val.vstr, sizeof(card->steering));
	writes++;
	return 0;
}

static int steering_check(struct devlink *devlink, u32 id, union devlink_param_value value,
			  struct netlink_ext_ack *extack)
{
	struct card *card = devlink_priv(devlink);

	if (card->eswitch != DEVLINK_ESWITCH_MODE_LEGACY) {
		NL_SET_ERR_MSG_MOD(extack, "Moving to different steering mode is only allowed in legacy mode");
		return -EOPNOTSUPP;
	}
	if (strcmp(value.vstr, "dmfs") && strcmp(value.vstr, "smfs")) {
		NL_SET_ERR_MSG_MOD(extack, "Bad parameter: supported values are [\"dmfs\", \"smfs\"]");
		return -EINVAL;
	}
	return 0;
}

static int firmware_get(struct devlink *devlink, u32 id, struct devlink_param_gset_ctx *context)
{
	context->val.vu32 = ((struct card *)devlink_priv(devlink))->firmware;
	return 0;
}

static int firmware_set(struct devlink *devlink, u32 id, struct devlink_param_gset_ctx *context)
{
	if (context->val.vu32 > 100)
		return -EIO; /* the firmware's own answer, without words */
	((struct card *)devlink_priv(devlink))->firmware = context->val.vu32;
	writes++;
	return 0;
}

static int macs_check(struct devlink *devlink, u32 id, union devlink_param_value value,
		      struct netlink_ext_ack *extack)
{
	if (!is_power_of_2(value.vu32)) {
		NL_SET_ERR_MSG_MOD(extack, "max_macs value must be power of 2");
		return -EINVAL;
	}
	return 0;
}

static const struct devlink_param params[] = {
	DEVLINK_PARAM_GENERIC(ENABLE_ROCE, BIT(DEVLINK_PARAM_CMODE_DRIVERINIT), NULL, NULL, NULL),
	DEVLINK_PARAM_GENERIC(MAX_MACS, BIT(DEVLINK_PARAM_CMODE_DRIVERINIT), NULL, NULL, macs_check),
	DEVLINK_PARAM_DRIVER(ID_STEERING, "flow_steering_mode", DEVLINK_PARAM_TYPE_STRING,
			     BIT(DEVLINK_PARAM_CMODE_RUNTIME), steering_get, steering_set, steering_check),
	DEVLINK_PARAM_DRIVER(ID_FIRMWARE, "firmware_vfs", DEVLINK_PARAM_TYPE_U32,
			     BIT(DEVLINK_PARAM_CMODE_PERMANENT), firmware_get, firmware_set, NULL),
};

static int reload_down(struct devlink *devlink, bool netns_change, enum devlink_reload_action action,
		       enum devlink_reload_limit limit, struct netlink_ext_ack *extack)
{
	struct card *card = devlink_priv(devlink);

	if (refuse_reload) {
		NL_SET_ERR_MSG_MOD(extack, "Can't reload while the ports are bonded");
		return -refuse_reload;
	}
	pci_disable_sriov(card->pdev);
	memset(card->vfs, 0, sizeof(card->vfs));
	drop_netdev(card->netdev);
	card->netdev = NULL;
	return 0;
}

static int reload_up(struct devlink *devlink, enum devlink_reload_action action, enum devlink_reload_limit limit,
		     u32 *actions, struct netlink_ext_ack *extack)
{
	struct card *card = devlink_priv(devlink);
	union devlink_param_value value;

	if (!devlink_param_driverinit_value_get(devlink, DEVLINK_PARAM_GENERIC_ID_ENABLE_ROCE, &value))
		roce_in_force = value.vbool;
	card->eswitch = DEVLINK_ESWITCH_MODE_LEGACY;
	card->netdev = make_netdev(card->pdev, card, NULL);
	*actions = BIT(DEVLINK_RELOAD_ACTION_DRIVER_REINIT);
	reloads++;
	return card->netdev ? 0 : -ENOMEM;
}

static const struct devlink_ops operations = {
	.reload_actions = BIT(DEVLINK_RELOAD_ACTION_DRIVER_REINIT),
	.reload_down = reload_down,
	.reload_up = reload_up,
	.eswitch_mode_get = eswitch_get,
	.eswitch_mode_set = eswitch_set,
};

static void initial_values(struct devlink *devlink)
{
	union devlink_param_value value;

	value.vbool = true;
	devlink_param_driverinit_value_set(devlink, DEVLINK_PARAM_GENERIC_ID_ENABLE_ROCE, value);
	value.vu32 = 128;
	devlink_param_driverinit_value_set(devlink, DEVLINK_PARAM_GENERIC_ID_MAX_MACS, value);
	roce_in_force = true;
}

static int probe_vf(struct pci_dev *pdev)
{
	struct card *card = pci_get_drvdata(pci_physfn(pdev));
	int index = pci_iov_vf_id(pdev);
	struct net_device *dev;

	/* A MAC address set through the physical function is taken over here and never later, as by mlx5. */
	dev = make_netdev(pdev, NULL, card && index >= 0 && index < MOST_VFS ? card->vfs[index].mac : NULL);
	if (!dev)
		return -ENOMEM;
	pci_set_drvdata(pdev, dev);
	return 0;
}

static int probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct devlink *devlink;
	struct card *card;
	int error;

	if (pdev->is_virtfn)
		return probe_vf(pdev);
	pdev->vendor = 0x15b3;
	pdev->class = PCI_CLASS_NETWORK_ETHERNET << 8;
	error = pci_enable_device(pdev);
	if (error)
		return error;
	devlink = devlink_alloc(&operations, sizeof(*card), &pdev->dev);
	if (!devlink)
		return -ENOMEM;
	card = devlink_priv(devlink);
	card->pdev = pdev;
	strscpy(card->steering, "dmfs", sizeof(card->steering));
	error = devlink_params_register(devlink, params, ARRAY_SIZE(params));
	if (error)
		goto free;
	initial_values(devlink);
	pci_set_drvdata(pdev, card);
	card->netdev = make_netdev(pdev, card, NULL);
	devlink_set_features(devlink, DEVLINK_F_RELOAD);
	devlink_register(devlink);
	return 0;
free:
	devlink_free(devlink);
	return error;
}

static void remove(struct pci_dev *pdev)
{
	struct devlink *devlink;
	struct card *card;

	if (pdev->is_virtfn) {
		drop_netdev(pci_get_drvdata(pdev));
		return;
	}
	card = pci_get_drvdata(pdev);
	devlink = priv_to_devlink(card);
	devlink_unregister(devlink);
	pci_disable_sriov(pdev);
	drop_netdev(card->netdev);
	devlink_params_unregister(devlink, params, ARRAY_SIZE(params));
	devlink_free(devlink);
	pci_disable_device(pdev);
}

static int configure(struct pci_dev *pdev, int count)
{
	struct card *card = pci_get_drvdata(pdev);
	int error;

	if (!count) {
		pci_disable_sriov(pdev);
		memset(card->vfs, 0, sizeof(card->vfs));
		return 0;
	}
	if (refuse_vfs)
		return -refuse_vfs;
	error = pci_enable_sriov(pdev, count);
	return error ? error : count;
}

static const struct pci_device_id ids[] = {
	{ PCI_DEVICE(0x1b36, 0x0010) }, /* QEMU's NVMe controller */
	{ PCI_DEVICE(0x15b3, 0x0010) }, /* the same, and its virtual functions, after it was made a network card */
	{}
};

static struct pci_driver stub_nic = {
	.name = "stub_nic",
	.id_table = ids,
	.probe = probe,
	.remove = remove,
	.sriov_configure = configure,
};

module_pci_driver(stub_nic);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("Network card with SR-IOV and devlink and no network");
