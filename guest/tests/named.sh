#!/bin/sh
# A container is found by the name that its runtime has given it, is protected by that, and told of by it.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# What there is to see when a step has failed.
at_the_end() {
	[ "$1" -ne 0 ] || return
	find "$CGROUPS" -type d
	cat /run/*.log
	cut -c 1-300 /run/cgroups
}
trap 'at_the_end $?' EXIT

# A container of Podman with a load; `id` is what Podman calls its cgroup.
in_podman() {
	name="$1"
	shift
	id="$(podman run --detach --name "$name" --network none --security-opt seccomp=unconfined \
		localhost/image /bin/lowtide-guest "$@" 2> /run/podman.log)"
}

# A container of LXC with a load. Where PID 1 is in the root cgroup, LXC takes that; here it is told to take
# the one that it is started from.
in_lxc() {
	name="$1"
	shift
	mkdir -p "/var/lib/lxc/$name"
	printf '%s\n' 'lxc.rootfs.path = dir:/image' 'lxc.net.0.type = empty' 'lxc.pty.max = 0' \
		'lxc.apparmor.profile = unconfined' 'lxc.cgroup.relative = 1' "lxc.uts.name = $name" > "/var/lib/lxc/$name/config"
	echo 0 > "$CGROUPS/cgroup.procs"
	lxc-start --name "$name" --logfile "/run/$name.log" --logpriority INFO -- \
		/bin/lowtide-guest "$@"
}

# There is so much in a cgroup, in MB.
is_full() {
	[ "$(cat "$CGROUPS/$1/memory.current")" -ge "$(($2 << 20))" ]
}

is_empty() {
	! grep -qs 'populated 1' "$CGROUPS/$1/cgroup.events"
}

explained() {
	lowtide explain --json --config "$1" > /run/explained &&
		sed 's/{"path":/\n&/g' /run/explained > /run/cgroups
}

# The kill priority of a path: null is never.
ranked() {
	grep -F "{\"path\":\"$1\"," /run/cgroups | grep -q "\"kill\":{\"order\":[0-9a-z]*,\"priority\":$2,"
}

import_image() {
	tar -c -C /image . | podman import --quiet - localhost/image > /run/podman.log 2>&1
}

step import_image
step in_podman broker sleeper --size 220M
broker="libpod_parent/libpod-$id"
step in_podman web sleeper --size 10M
web="libpod_parent/libpod-$id"
step in_lxc kept sleeper --size 20M
step soon is_full "$broker" 220
step soon is_full "$web" 10
step soon is_full lxc.payload.kept 20

step explained "$CONFIG"
step ranked /libpod_parent/libpod-broker null
step ranked /libpod_parent/libpod-web 300
step ranked /lxc.payload.kept null

# What is of no such name goes, though one that is never killed would free more.
start_agent "$CONFIG"
step in_podman grows hog --rate 40M --cap 600M
step soon is_empty "libpod_parent/libpod-$id"
step in_lxc swells hog --rate 40M --cap 600M
step soon is_empty lxc.payload.swells
for cgroup in "$broker" "$web" lxc.payload.kept; do
	step fails is_empty "$cgroup"
done
end_agent TERM

# The same by a config in which the names say something else.
step explained /etc/lowtide/control.toml
step ranked /libpod_parent/libpod-broker 500
step ranked /lxc.payload.kept 900
start_agent /etc/lowtide/control.toml
step in_podman again hog --rate 40M --cap 600M
step soon is_empty lxc.payload.kept
step soon is_empty "$broker"
step fails is_empty "$web"
end_agent TERM
for cgroup in "libpod_parent/libpod-$id" "$web"; do
	is_empty "$cgroup" || echo 1 > "$CGROUPS/$cgroup/cgroup.kill"
done
