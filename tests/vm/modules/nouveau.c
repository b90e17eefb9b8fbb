// SPDX-License-Identifier: Apache-2.0
/* Stand-in for nouveau: the driver that must not be there; hold=1 is a console that will not let go. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: nouveau");
STANDIN_FAULTS();
STANDIN_HOLD();

static int modeset = -1;
module_param(modeset, int, 0400);

static int __init standin_init(void)
{
	return -fail_init;
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
