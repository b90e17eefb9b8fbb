#!/bin/sh
# First process of the guest after the initramfs: mounts, one pytest process, its exit code into the results, power off.
# The exit code goes through a file and not through QEMU's isa-debug-exit, because lockdown forbids /dev/port.
. /vm/results/guest.env
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t securityfs securityfs /sys/kernel/security
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /run
mkdir -p "/lib/modules/$RELEASE" /etc/modprobe.d
mount --bind "$MODULES" "/lib/modules/$RELEASE"
# The host's own rules for modprobe are not part of the test.
mount -t tmpfs tmpfs /etc/modprobe.d
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
export PYTHONPATH="$SOURCES:$REPOSITORY/tests" PYTHONUNBUFFERED=1
cd "$REPOSITORY" || echo "guest: no directory $REPOSITORY"
echo "guest: kernel $(uname -r) up after $(cut -d' ' -f1 /proc/uptime) s"
# shellcheck disable=SC2086 - TESTS is a list of paths without blanks
setsid "$PYTHON" -m pytest $TESTS -v --tb=short --color=no --confcutdir="$REPOSITORY/tests/vm/guest" --timeout=240 \
    -p no:cacheprovider -p no:hypothesispytest -p no:xdist --durations=10 -o junit_logging=system-out --junitxml=/vm/results/junit.xml </dev/null 2>&1
echo $? > /vm/results/status
echo "guest: done after $(cut -d' ' -f1 /proc/uptime) s"
dmesg > /vm/results/dmesg
sync
echo b > /proc/sysrq-trigger
sleep 60
