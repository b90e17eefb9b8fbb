#!/bin/sh
# One pytest process in the guest, its exit code into the results, power off.
# The exit code goes through a file and not through QEMU's isa-debug-exit, because lockdown forbids /dev/port.
. /vm/results/guest.env
export IMAGE PYTHONPATH="$SOURCES:$REPOSITORY/tests" PYTHONUNBUFFERED=1
cd "$REPOSITORY" || echo "guest: no directory $REPOSITORY"
echo "guest: kernel $(uname -r) up after $(cut -d' ' -f1 /proc/uptime) s"
# shellcheck disable=SC2086 - TESTS is a list of paths without blanks
setsid "$PYTHON" -m pytest $TESTS -v --tb=short --color=no --confcutdir="$REPOSITORY/tests/vm/guest" --timeout=600 \
    -p no:cacheprovider -p no:hypothesispytest -p no:xdist --durations=10 -o junit_logging=system-out --junitxml=/vm/results/junit.xml </dev/null 2>&1
echo $? > /vm/results/status
echo "guest: done after $(cut -d' ' -f1 /proc/uptime) s"
dmesg > /vm/results/dmesg
sync
echo b > /proc/sysrq-trigger
sleep 60
