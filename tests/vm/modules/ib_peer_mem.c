// SPDX-License-Identifier: Apache-2.0
/*
 * Stand-in for the peer memory interface of an RDMA stack. MLNX_OFED has it in ib_core or ib_uverbs, the stock kernel
 * has none; this module stands on the stock ib_core and exports what nvidia_peermem looks for.
 */
#include <rdma/ib_verbs.h>

#include "standin.h"

STANDIN_MODULE("nodeagent stand-in for the peer memory interface");
STANDIN_FAULTS();
STANDIN_HOLD();

static int add_device(struct ib_device *device)
{
	return 0;
}

static void remove_device(struct ib_device *device, void *data)
{
}

static struct ib_client client = { .name = "ib_peer_mem", .add = add_device, .remove = remove_device };

void *ib_register_peer_memory_client(const struct peer_memory_client *peer, void *invalidate)
{
	return &client;
}
EXPORT_SYMBOL(ib_register_peer_memory_client);

void ib_unregister_peer_memory_client(void *handle)
{
}
EXPORT_SYMBOL(ib_unregister_peer_memory_client);

static int __init ib_peer_mem_init(void)
{
	return fail_init ? -fail_init : ib_register_client(&client);
}

static void __exit ib_peer_mem_exit(void)
{
	ib_unregister_client(&client);
}

module_init(ib_peer_mem_init);
module_exit(ib_peer_mem_exit);
