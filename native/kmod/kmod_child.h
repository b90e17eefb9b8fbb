/* SPDX-License-Identifier: Apache-2.0 */
/* One insertion or removal in a child process, so that a module whose init or exit hangs does not hang the agent. */
#ifndef NODEAGENT_KMOD_CHILD_H
#define NODEAGENT_KMOD_CHILD_H

#include <libkmod.h>

/*
 * Both return the child's pid, or a negative errno. The child writes one int to result_fd, 0 or a negative errno of
 * libkmod, and exits. A child that dies before it has written leaves the pipe empty.
 */
int nodeagent_insert_in_child(struct kmod_module *mod, const char *options, int result_fd);
int nodeagent_remove_in_child(struct kmod_module *mod, int result_fd);

#endif
