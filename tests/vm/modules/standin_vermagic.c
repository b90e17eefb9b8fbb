// SPDX-License-Identifier: Apache-2.0
/* Its version magic is changed after the build, so that the kernel must refuse it. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_vermagic");
STANDIN_FAULTS();
STANDIN_HOLD();

static int __init standin_init(void)
{
	return -fail_init;
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
