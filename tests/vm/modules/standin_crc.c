// SPDX-License-Identifier: Apache-2.0
/* Its CRC of the imported symbol is changed after the build: made for another build of nvidia. */
#include "standin.h"

STANDIN_MODULE("nodeagent stand-in: standin_crc");
STANDIN_FAULTS();
STANDIN_HOLD();

static int __init standin_init(void)
{
	return nvidia_standin_attach("standin_crc");
}

static void __exit standin_exit(void)
{
	nvidia_standin_detach("standin_crc");
}

module_init(standin_init);
module_exit(standin_exit);
