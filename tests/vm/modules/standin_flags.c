// SPDX-License-Identifier: Apache-2.0
/* After the build its version magic lacks a flag; the release is right. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_flags");
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
