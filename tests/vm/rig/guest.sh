#!/bin/sh
# First process of the guest after the initramfs: mounts, then the tests, under systemd where the boot asks for it.
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
ip link set lo up
[ "$MANAGER" = systemd ] || exec /bin/sh /vm/results/tests.sh

# The host's systemd with nothing to do but the tests: none of the host's units, generators or settings.
for path in /etc/systemd /lib/systemd/system-generators /lib/systemd/system/*.wants; do
    mount -t tmpfs -o size=1m tmpfs "$path"
done
cp -r "$REPOSITORY/tests/vm/units" /etc/systemd/system
for name in nodeagent nodeagent-probe; do
    cp "$REPOSITORY/systemd/nodeagent.service" "/etc/systemd/system/$name.service"
done
cp "$REPOSITORY/systemd/nodeagent-mig.service" /etc/systemd/system
ln -s /dev/null /etc/systemd/system/tmp.mount # this Python may lie below /tmp
# The service sees neither /home nor /root nor /tmp, and this Python, its packages and the sources may lie there.
for part in python packages sources tests; do mkdir -p "/opt/nodeagent-test/$part"; done
mount --bind "$PYTHON_PREFIX" /opt/nodeagent-test/python
mount --bind "$PACKAGES" /opt/nodeagent-test/packages
mount --bind "$SOURCES" /opt/nodeagent-test/sources
mount --bind "$REPOSITORY/tests" /opt/nodeagent-test/tests
ln -s "python/bin/$PYTHON_NAME" /opt/nodeagent-test/program
mkdir -p /opt/nodeagent/bin # where the units look for the command
printf '#!/bin/sh\nexec /opt/nodeagent-test/program -m nodeagent "$@"\n' > /opt/nodeagent/bin/nodeagent
chmod 0755 /opt/nodeagent/bin/nodeagent
exec /lib/systemd/systemd --unit=nodeagent-test.target --show-status=no --log-target=kmsg --log-level=notice
