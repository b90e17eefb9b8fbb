/* SPDX-License-Identifier: Apache-2.0 */
#define _GNU_SOURCE
#include "kmod_child.h"

#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

/*
 * The child must not keep what it inherited: an open device would hold the very module it removes, and a lock would
 * keep the next agent out if the child hangs. It keeps the result's descriptor alone, as number 3.
 */
static void close_inherited(int result_fd)
{
	int fd;

	if (result_fd != 3)
		dup2(result_fd, 3);
	if (syscall(SYS_close_range, 4U, ~0U, 0) == 0)
		return;
	for (fd = (int)sysconf(_SC_OPEN_MAX); fd > 3; fd--) /* kernels before 5.9 */
		close(fd);
}

/*
 * Signals stay blocked in the child: Python's handlers would write to the wake-up descriptor it shares with us.
 * SIGKILL still ends it, unless it hangs in the kernel.
 */
static int fork_blocked(void)
{
	sigset_t all, before;
	int pid;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid = fork();
	if (pid < 0)
		pid = -errno;
	if (pid != 0)
		sigprocmask(SIG_SETMASK, &before, NULL);
	return pid;
}

static void report_and_exit(int result)
{
	ssize_t written = write(3, &result, sizeof(result));

	_exit(written == sizeof(result) ? 0 : 1);
}

int nodeagent_insert_in_child(struct kmod_module *mod, const char *options, int result_fd)
{
	int pid = fork_blocked();

	if (pid == 0) {
		close_inherited(result_fd);
		report_and_exit(kmod_module_insert_module(mod, 0, options));
	}
	return pid;
}

int nodeagent_remove_in_child(struct kmod_module *mod, int result_fd)
{
	int pid = fork_blocked();

	if (pid == 0) {
		close_inherited(result_fd);
		/* O_NONBLOCK: never wait for a reference to go away; never KMOD_REMOVE_FORCE, it taints and can crash */
		report_and_exit(kmod_module_remove_module(mod, KMOD_REMOVE_NOWAIT));
	}
	return pid;
}
