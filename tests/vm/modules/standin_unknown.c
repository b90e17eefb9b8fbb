// SPDX-License-Identifier: Apache-2.0
/* Wants a symbol that nobody exports. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_unknown");
STANDIN_FAULTS();
STANDIN_HOLD();

int nvidia_standin_that_never_was(void);

static int __init standin_init(void)
{
	return nvidia_standin_that_never_was();
}

static void __exit standin_exit(void)
{
}

module_init(standin_init);
module_exit(standin_exit);
