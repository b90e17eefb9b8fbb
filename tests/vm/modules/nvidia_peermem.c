// SPDX-License-Identifier: Apache-2.0
/* Stand-in for nvidia-peermem.ko: a client of nvidia and of the RDMA stack's peer memory interface; hold=1 is a GPU MR. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in for nvidia_peermem");
STANDIN_FAULTS();
STANDIN_HOLD();

static int peerdirect_support;
module_param(peerdirect_support, int, 0444);
static int persistent_api_support = 1;
module_param(persistent_api_support, int, 0444);

static void *handle;

static void nvidia_peermem_exit(void)
{
	ib_unregister_peer_memory_client(handle);
	nvidia_standin_detach("nvidia_peermem");
}

static int __init nvidia_peermem_init(void)
{
	int err = nvidia_standin_attach("nvidia_peermem");

	if (err)
		return err;
	handle = ib_register_peer_memory_client(NULL, NULL);
	if (fail_init) {
		nvidia_peermem_exit();
		return -fail_init;
	}
	return 0;
}

module_init(nvidia_peermem_init);
module_exit(nvidia_peermem_exit);
