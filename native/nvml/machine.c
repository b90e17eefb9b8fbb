/* The machine file: creating and mapping it, its lock, its two-copy values and who of its processes is alive. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "machine.h"

/* MAP_SHARED of a file we may write. A machine of another version of the library is refused by its size. */
struct machine *machine_map(const char *path)
{
	struct machine *machine;
	struct stat about;
	int fd = open(path, O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return NULL;
	if (fstat(fd, &about) || (uint64_t)about.st_size != sizeof(struct machine)) {
		close(fd);
		errno = EINVAL;
		return NULL;
	}
	machine = mmap(NULL, sizeof(*machine), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (machine == MAP_FAILED)
		return NULL;
	if (atomic_load(&machine->magic) != MACHINE_MAGIC || machine->size != sizeof(*machine)) {
		munmap(machine, sizeof(*machine));
		errno = EINVAL;
		return NULL;
	}
	return machine;
}

void machine_unmap(struct machine *machine)
{
	munmap(machine, sizeof(*machine));
}

static int make_mutex(pthread_mutex_t *mutex)
{
	pthread_mutexattr_t attributes;
	int error = pthread_mutexattr_init(&attributes);

	if (error)
		return error;
	pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
	error = pthread_mutex_init(mutex, &attributes);
	pthread_mutexattr_destroy(&attributes);
	return error;
}

/* An empty machine in a new file; 0, or -1 with errno. */
int machine_create(const char *path)
{
	struct machine *machine;
	int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	if (fd < 0)
		return -1;
	if (ftruncate(fd, sizeof(*machine))) {
		close(fd);
		return -1;
	}
	machine = mmap(NULL, sizeof(*machine), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (machine == MAP_FAILED)
		return -1;
	errno = make_mutex(&machine->mutex);
	machine->size = sizeof(*machine);
	atomic_store(&machine->driver_loaded, 1);
	atomic_store(&machine->driver_epoch, 1);
	if (!errno)
		atomic_store(&machine->magic, MACHINE_MAGIC);
	machine_unmap(machine);
	return errno ? -1 : 0;
}

/* A holder that died is no reason to stop: see machine.h for why nothing needs repair. */
void machine_lock(struct machine *machine)
{
	if (pthread_mutex_lock(&machine->mutex) == EOWNERDEAD)
		pthread_mutex_consistent(&machine->mutex);
}

void machine_unlock(struct machine *machine)
{
	pthread_mutex_unlock(&machine->mutex);
}

const struct mig_layout *mig_now(const struct gpu *gpu)
{
	return &gpu->mig[atomic_load(&gpu->mig_active) & 1];
}

struct mig_layout *mig_change(struct gpu *gpu)
{
	struct mig_layout *spare = &gpu->mig[~atomic_load(&gpu->mig_active) & 1];

	*spare = *mig_now(gpu);
	return spare;
}

void mig_commit(struct gpu *gpu)
{
	atomic_store(&gpu->mig_active, ~atomic_load(&gpu->mig_active) & 1);
}

const struct load *load_now(const struct gpu *gpu)
{
	return &gpu->load[atomic_load(&gpu->load_active) & 1];
}

struct load *load_change(struct gpu *gpu)
{
	struct load *spare = &gpu->load[~atomic_load(&gpu->load_active) & 1];

	*spare = *load_now(gpu);
	return spare;
}

void load_commit(struct gpu *gpu)
{
	atomic_store(&gpu->load_active, ~atomic_load(&gpu->load_active) & 1);
}

/* Field 22 of /proc/PID/stat in clock ticks since boot (proc(5)); 0 for a process that is gone or a zombie. */
static uint64_t start_time(uint32_t pid)
{
	char path[64], text[1024], state = 'Z';
	unsigned long long start = 0;
	const char *after_name;
	ssize_t length;
	int fd;

	snprintf(path, sizeof(path), "/proc/%u/stat", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	length = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (length <= 0)
		return 0;
	text[length] = '\0';
	after_name = strrchr(text, ')');
	if (!after_name || sscanf(after_name + 1, " %c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %*d %*d %llu",
				  &state, &start) != 2)
		return 0;
	return state == 'Z' || state == 'X' ? 0 : start;
}

static uint64_t pid_namespace(void)
{
	struct stat about;

	return stat("/proc/self/ns/pid", &about) ? 0 : about.st_ino;
}

struct owner owner_of(uint32_t pid)
{
	return (struct owner){ .pid = pid, .start = start_time(pid), .pid_namespace = pid_namespace() };
}

/* A process of another PID namespace cannot be judged from here and counts as alive; so does one that was invented. */
int owner_is_alive(const struct owner *owner)
{
	if (!owner->start || owner->pid_namespace != pid_namespace())
		return 1;
	return start_time(owner->pid) == owner->start;
}

/* Forget clients and workloads whose process has died. The caller holds the lock. */
void machine_reap(struct machine *machine)
{
	for (int i = 0; i < MAX_CLIENTS; i++)
		if (atomic_load(&machine->client[i].used) && !owner_is_alive(&machine->client[i].owner))
			atomic_store(&machine->client[i].used, 0);
	for (int i = 0; i < MAX_PROCESSES; i++)
		if (atomic_load(&machine->process[i].used) && !owner_is_alive(&machine->process[i].owner))
			atomic_store(&machine->process[i].used, 0);
}

/* Publish an event and wake every waiter. The caller holds the lock. */
void machine_post(struct machine *machine, const struct event *event)
{
	machine->event[atomic_load(&machine->events) % MAX_EVENTS] = *event;
	atomic_fetch_add(&machine->events, 1);
	syscall(SYS_futex, &machine->events, FUTEX_WAKE, 0x7fffffff, NULL, NULL, 0);
}

void set_text(char *destination, size_t size, const char *text)
{
	snprintf(destination, size, "%s", text);
}

/* Time of the machine: CLOCK_BOOTTIME, the same in every process. */
uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * 1000000000ULL + (uint64_t)now.tv_nsec;
}

uint64_t wall_us(uint64_t at_ns)
{
	uint64_t ago_us = (now_ns() - at_ns) / 1000;
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return (uint64_t)now.tv_sec * 1000000ULL + (uint64_t)now.tv_nsec / 1000ULL - ago_us;
}
