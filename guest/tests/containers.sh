#!/bin/sh
# Containers of Podman and LXC as Debian has them, in /os, which has the libraries that they need. In a
# mount namespace of its own, as the root of an initramfs cannot be exchanged.

cd /os || exit
mkdir -p dev proc run sys tmp usr/bin usr/lib/x86_64-linux-gnu/lxc/rootfs var/lib/lxc var/tmp
for dir in bin lib lib64 sbin; do
	ln -s "usr/$dir" "$dir"
done
cp -L /bin/busybox /bin/lowtide /bin/lowtide-guest usr/bin/
cp -r /tests tests
cp -r /etc/lowtide etc/
for applet in sh ls cat; do
	ln -s busybox "usr/bin/$applet"
done
echo root:x:0:0::/:/bin/sh > etc/passwd
echo root:x:0: > etc/group
# The root file system of the containers.
mkdir -p image/bin image/dev image/etc image/proc image/run image/sys image/tmp
cp usr/bin/busybox usr/bin/lowtide-guest image/bin/
ln -s busybox image/bin/sh

exec unshare -m sh -c '
	mount --bind /os /os
	mount -t proc proc /os/proc
	mount -t sysfs sysfs /os/sys
	mount -t cgroup2 cgroup2 /os/sys/fs/cgroup
	mount -t devtmpfs devtmpfs /os/dev
	mkdir -p /os/dev/pts /os/dev/shm
	mount -t devpts devpts /os/dev/pts
	mount -t tmpfs tmpfs /os/dev/shm
	mount -t tmpfs tmpfs /os/run
	exec env -i PATH=/usr/bin:/usr/sbin HOME=/ chroot /os sh /tests/named.sh
'
