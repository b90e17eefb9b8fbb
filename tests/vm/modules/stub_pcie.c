// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * Two PCI Express hierarchies in domains of their own whose configuration spaces lie in memory, because QEMU's devices
 * make Device Control read-only and no switch of its has ACS. Behind the first host bridge: a switch with a GPU, a NIC
 * and a second switch with another NIC; and a root port, one of those that get relaxed ordering wrong, above a NIC
 * whose MaxReadReq cannot be written. Behind the second: a root port and a NIC. No driver knows the device ids.
 *
 * Which bits can be written is as the PCI Express Base Specification 5.0 has it: 7.5.1 (header), 7.5.3.4 (Device
 * Control), 7.5.3.7 (Link Control), 7.7.11.3 (ACS Control). Bus numbers are as firmware would have left them, and fixed.
 * The way to register a host bridge is that of drivers/pci/controller/vmd.c.
 */
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/pci.h>
#include <linux/vmalloc.h>

#define FIRST_DOMAIN 0x10000 /* firmware's segments end below; that is where vmd begins as well */
#define EXPRESS 0x40
#define ACS 0x100
#define REDIRECT (PCI_ACS_RR | PCI_ACS_CR | PCI_ACS_UF)
#define ORDERING PCI_EXP_DEVCTL_RELAX_EN
#define READ_512 PCI_EXP_DEVCTL_READRQ_512B
#define READ_SIZE PCI_EXP_DEVCTL_READRQ
#define FAST (PCI_EXP_LNKSTA_CLS_16_0GB | 16 << PCI_EXP_LNKSTA_NLW_SHIFT)
#define SLOW (PCI_EXP_LNKSTA_CLS_8_0GB | PCI_EXP_LNKSTA_NLW_X8)
#define NVIDIA PCI_VENDOR_ID_NVIDIA
#define MELLANOX PCI_VENDOR_ID_MELLANOX
#define ETHERNET PCI_CLASS_NETWORK_ETHERNET

static uint writes; /* to any configuration space */
module_param(writes, uint, 0444);
static int silent = -1; /* number of a bus of the first domain whose functions do not answer any more */
module_param(silent, int, 0644);

/* `control` are bits of Device Control at power-on, `writable` those of them that are not fixed. */
static const struct model {
	u8 root, bus, slot, type, secondary, subordinate;
	u16 vendor, device, class, control, writable, link;
} models[] = {
	{ 0, 0, 0, PCI_EXP_TYPE_ROOT_PORT, 1, 7, 0x1b36, 0x7f00, .link = FAST },
	{ 0, 1, 0, PCI_EXP_TYPE_UPSTREAM, 2, 7, 0x1b36, 0x7f01, .link = FAST },
	{ 0, 2, 0, PCI_EXP_TYPE_DOWNSTREAM, 3, 3, 0x1b36, 0x7f02, .link = FAST },
	{ 0, 2, 1, PCI_EXP_TYPE_DOWNSTREAM, 4, 4, 0x1b36, 0x7f02, .link = SLOW },
	{ 0, 2, 2, PCI_EXP_TYPE_DOWNSTREAM, 5, 7, 0x1b36, 0x7f02, .link = FAST },
	{ 0, 5, 0, PCI_EXP_TYPE_UPSTREAM, 6, 7, 0x1b36, 0x7f01, .link = FAST },
	{ 0, 6, 0, PCI_EXP_TYPE_DOWNSTREAM, 7, 7, 0x1b36, 0x7f02, .link = FAST },
	{ 0, 3, 0, PCI_EXP_TYPE_ENDPOINT, 0, 0, NVIDIA, 0x7f03, PCI_CLASS_DISPLAY_3D, READ_512 | ORDERING,
	  READ_SIZE | ORDERING, FAST },
	{ 0, 4, 0, PCI_EXP_TYPE_ENDPOINT, 0, 0, MELLANOX, 0x7f04, ETHERNET, READ_512, READ_SIZE | ORDERING, SLOW },
	{ 0, 7, 0, PCI_EXP_TYPE_ENDPOINT, 0, 0, MELLANOX, 0x7f04, ETHERNET, READ_512 | ORDERING,
	  READ_SIZE | ORDERING, FAST },
	{ 0, 0, 1, PCI_EXP_TYPE_ROOT_PORT, 8, 8, PCI_VENDOR_ID_INTEL, 0x6f02, .link = FAST },
	{ 0, 8, 0, PCI_EXP_TYPE_ENDPOINT, 0, 0, MELLANOX, 0x7f05, ETHERNET, ORDERING, ORDERING, FAST },
	{ 1, 0, 0, PCI_EXP_TYPE_ROOT_PORT, 1, 1, 0x1b36, 0x7f00, .link = FAST },
	{ 1, 1, 0, PCI_EXP_TYPE_ENDPOINT, 0, 0, MELLANOX, 0x7f04, ETHERNET, READ_512 | ORDERING,
	  READ_SIZE | ORDERING, FAST },
};

struct space {
	u8 value[PCI_CFG_SPACE_EXP_SIZE], mask[PCI_CFG_SPACE_EXP_SIZE];
};

static struct space *spaces; /* one for each model */
static struct pci_sysdata roots[2];
static struct pci_bus *buses[2];
static struct resource numbers[2];
static DEFINE_RAW_SPINLOCK(lock); /* x86 leaves the order of accesses to the controller */

static void put(struct space *space, int where, int size, u32 value, u32 mask)
{
	int i;

	for (i = 0; i < size; i++) {
		space->value[where + i] = value >> 8 * i;
		space->mask[where + i] = mask >> 8 * i;
	}
}

static bool has_acs(const struct model *model)
{
	return model->type == PCI_EXP_TYPE_ROOT_PORT || model->type == PCI_EXP_TYPE_DOWNSTREAM;
}

static void fill_header(struct space *space, const struct model *model)
{
	bool bridge = model->secondary;

	put(space, PCI_VENDOR_ID, 2, model->vendor, 0);
	put(space, PCI_DEVICE_ID, 2, model->device, 0);
	put(space, PCI_COMMAND, 2, 0, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_SERR |
	    PCI_COMMAND_PARITY | PCI_COMMAND_INTX_DISABLE);
	put(space, PCI_STATUS, 2, PCI_STATUS_CAP_LIST, 0);
	put(space, PCI_CLASS_DEVICE, 2, bridge ? PCI_CLASS_BRIDGE_PCI : model->class, 0);
	put(space, PCI_HEADER_TYPE, 1, bridge ? PCI_HEADER_TYPE_BRIDGE : PCI_HEADER_TYPE_NORMAL, 0);
	put(space, PCI_CAPABILITY_LIST, 1, EXPRESS, 0);
	put(space, PCI_INTERRUPT_LINE, 1, 0, 0xff);
	if (!bridge)
		return;
	put(space, PCI_PRIMARY_BUS, 1, model->bus, 0);
	put(space, PCI_SECONDARY_BUS, 1, model->secondary, 0);
	put(space, PCI_SUBORDINATE_BUS, 1, model->subordinate, 0);
	/* Each window begins above its limit and so is closed. */
	put(space, PCI_IO_BASE, 1, 0xf0, 0xf0);
	put(space, PCI_IO_LIMIT, 1, 0, 0xf0);
	put(space, PCI_MEMORY_BASE, 2, 0xfff0, 0xfff0);
	put(space, PCI_MEMORY_LIMIT, 2, 0, 0xfff0);
	put(space, PCI_PREF_MEMORY_BASE, 2, 0xfff0, 0xfff0);
	put(space, PCI_PREF_MEMORY_LIMIT, 2, 0, 0xfff0);
	put(space, PCI_BRIDGE_CONTROL, 2, 0, PCI_BRIDGE_CTL_PARITY | PCI_BRIDGE_CTL_SERR | PCI_BRIDGE_CTL_BUS_RESET);
}

static void fill_express(struct space *space, const struct model *model)
{
	u16 errors = PCI_EXP_DEVCTL_CERE | PCI_EXP_DEVCTL_NFERE | PCI_EXP_DEVCTL_FERE | PCI_EXP_DEVCTL_URRE;

	put(space, EXPRESS, 1, PCI_CAP_ID_EXP, 0);
	put(space, EXPRESS + PCI_EXP_FLAGS, 2, 2 | model->type << 4, 0);
	put(space, EXPRESS + PCI_EXP_DEVCAP, 4, 2 | PCI_EXP_DEVCAP_RBER, 0); /* payloads up to 512 bytes */
	put(space, EXPRESS + PCI_EXP_DEVCTL, 2, PCI_EXP_DEVCTL_PAYLOAD_256B | model->control,
	    PCI_EXP_DEVCTL_PAYLOAD | errors | model->writable);
	put(space, EXPRESS + PCI_EXP_LNKCAP, 4, PCI_EXP_LNKCAP_SLS_16_0GB | 16 << PCI_EXP_LNKSTA_NLW_SHIFT, 0);
	put(space, EXPRESS + PCI_EXP_LNKCTL, 2, 0, PCI_EXP_LNKCTL_ASPMC | PCI_EXP_LNKCTL_CCC | PCI_EXP_LNKCTL_ES);
	put(space, EXPRESS + PCI_EXP_LNKSTA, 2, model->link | PCI_EXP_LNKSTA_SLC, 0);
	if (model->type == PCI_EXP_TYPE_ROOT_PORT)
		put(space, EXPRESS + PCI_EXP_RTCTL, 2, 0, 0xf);
	put(space, EXPRESS + PCI_EXP_LNKCAP2, 4, 0x1e, 0); /* 2.5, 5, 8 and 16 GT/s */
	put(space, EXPRESS + PCI_EXP_LNKCTL2, 2, PCI_EXP_LNKCTL2_TLS_16_0GT, PCI_EXP_LNKCTL2_TLS);
}

static void fill_acs(struct space *space)
{
	u16 able = PCI_ACS_SV | PCI_ACS_TB | REDIRECT | PCI_ACS_DT;

	put(space, ACS, 4, PCI_EXT_CAP_ID_ACS | 1 << 16, 0);
	put(space, ACS + PCI_ACS_CAP, 2, able, 0);
	put(space, ACS + PCI_ACS_CTRL, 2, PCI_ACS_SV | REDIRECT, able);
}

static struct space *find(struct pci_bus *bus, unsigned int devfn)
{
	unsigned int root = (struct pci_sysdata *)bus->sysdata - roots;
	int i;

	for (i = 0; i < ARRAY_SIZE(models); i++)
		if (models[i].root == root && models[i].bus == bus->number && PCI_DEVFN(models[i].slot, 0) == devfn)
			return root || silent != bus->number ? &spaces[i] : NULL;
	return NULL;
}

static int read_config(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *value)
{
	struct space *space = find(bus, devfn);
	unsigned long flags;
	int i;

	*value = ~0;
	if (!space || where + size > PCI_CFG_SPACE_EXP_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	*value = 0;
	raw_spin_lock_irqsave(&lock, flags);
	for (i = 0; i < size; i++)
		*value |= (u32)space->value[where + i] << 8 * i;
	raw_spin_unlock_irqrestore(&lock, flags);
	return PCIBIOS_SUCCESSFUL;
}

static int write_config(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 value)
{
	struct space *space = find(bus, devfn);
	unsigned long flags;
	int i;

	if (!space || where + size > PCI_CFG_SPACE_EXP_SIZE)
		return PCIBIOS_DEVICE_NOT_FOUND;
	raw_spin_lock_irqsave(&lock, flags);
	for (i = 0; i < size; i++) {
		u8 mask = space->mask[where + i];

		space->value[where + i] = (space->value[where + i] & ~mask) | (value >> 8 * i & mask);
	}
	writes++;
	raw_spin_unlock_irqrestore(&lock, flags);
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops operations = {
	.read = read_config,
	.write = write_config,
};

static struct pci_bus *make_root(int root)
{
	struct pci_bus *bus;
	LIST_HEAD(resources);

	roots[root].domain = FIRST_DOMAIN + root;
	roots[root].node = node_online(root) ? root : NUMA_NO_NODE;
	numbers[root] = (struct resource){ .name = "stub_pcie", .end = 0x1f, .flags = IORESOURCE_BUS };
	pci_add_resource(&resources, &numbers[root]);
	bus = pci_create_root_bus(NULL, 0, &operations, &roots[root], &resources);
	if (!bus) {
		pci_free_resource_list(&resources);
		return NULL;
	}
	pci_scan_child_bus(bus);
	pci_bus_add_devices(bus);
	return bus;
}

static void drop_roots(void)
{
	int root;

	pci_lock_rescan_remove();
	for (root = ARRAY_SIZE(roots) - 1; root >= 0; root--)
		if (buses[root]) {
			pci_stop_root_bus(buses[root]);
			pci_remove_root_bus(buses[root]);
		}
	pci_unlock_rescan_remove();
	vfree(spaces);
}

static int __init stub_init(void)
{
	bool made;
	int i;

	spaces = vzalloc(array_size(ARRAY_SIZE(models), sizeof(*spaces)));
	if (!spaces)
		return -ENOMEM;
	for (i = 0; i < ARRAY_SIZE(models); i++) {
		fill_header(&spaces[i], &models[i]);
		fill_express(&spaces[i], &models[i]);
		if (has_acs(&models[i]))
			fill_acs(&spaces[i]);
	}
	pci_lock_rescan_remove();
	for (i = 0, made = true; made && i < ARRAY_SIZE(roots); i++)
		made = (buses[i] = make_root(i));
	pci_unlock_rescan_remove();
	if (!made)
		drop_roots();
	return made ? 0 : -ENOMEM;
}

static void __exit stub_exit(void)
{
	drop_roots();
}

module_init(stub_init);
module_exit(stub_exit);
MODULE_LICENSE("Dual MIT/GPL");
MODULE_DESCRIPTION("PCI Express switches, a GPU and NICs that are configuration space and nothing else");
