#!/bin/sh
# Boots systemd as PID 1 of a container in /os, which runs systemd.sh and then ends.

cd /os || exit
units=etc/systemd/system
mkdir -p dev proc run sys tmp var/lib/product usr/bin "$units/sysinit.target.wants" "$units/lowtide.service.d"
for dir in bin lib lib64; do
	ln -s "usr/$dir" "$dir"
done
cp -L /bin/busybox /bin/lowtide /bin/lowtide-guest usr/bin/
ln -s busybox usr/bin/sh
ln -s busybox usr/bin/kill
# As `systemctl enable` does.
for unit in lowtide.service systemd-journald.service systemd-journald-dev-log.socket; do
	ln -s "/usr/lib/systemd/system/$unit" "$units/sysinit.target.wants/"
done
printf '[Service]\nWatchdogSec=10s\n' > "$units/lowtide.service.d/impatient.conf"
echo ID=test > etc/os-release
echo root:x:0:0::/:/bin/sh > etc/passwd
echo root:x:0: > etc/group
mkfifo out
cat out &

# A cgroup with nothing but it, so that it can hand out controllers. A mount, so that it can be made
# private. No variables of this machine.
unshare -m -p -f sh -c '
	mkdir /sys/fs/cgroup/container
	echo 0 > /sys/fs/cgroup/container/cgroup.procs
	mount --bind /os /os
	mount -t proc proc /os/proc
	mount -t sysfs sysfs /os/sys
	mount --bind /sys/fs/cgroup /os/sys/fs/cgroup
	mount --bind /dev /os/dev
	mount -t tmpfs tmpfs /os/run
	exec env -i container=guest PATH=/usr/bin chroot /os /usr/lib/systemd/systemd --unit=test.service
'
wait
exit "$(cat result)"
