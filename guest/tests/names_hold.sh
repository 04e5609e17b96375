#!/bin/sh
# The largest of the device are what a `never` names, and what grows is smaller when memory gets short: it
# goes, and they stay. Without those words (`control`) it is they that the same load takes.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

figure() {
	awk -v key="$1:" '$1 == key { print $2 }' /proc/meminfo
}

# A load in a cgroup that is made for it; with the cgroups' names ignored, one of the system's.
make() {
	lowtide-guest as --cgroup "$@" &
	started=$!
}

# So many kB are in memory.
holds_kb() {
	[ "$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$1/status")" -ge "$2" ]
}

has_ended() {
	! kill -0 "$1" 2> /dev/null
}

one_has_ended() {
	for pid in "$@"; do
		! has_ended "$pid" || return 0
	done
	return 1
}

# The mark is at a quarter of RAM: 12 MB above it there is room for nothing but what grows.
each=$((($(figure MemAvailable) - $(figure MemTotal) / 4 - 12288) / 4))
id="$(printf '%064d' 7)"
mkdir -p "/var/lib/docker/containers/$id"
echo '{"Name":"/broker"}' > "/var/lib/docker/containers/$id/config.v2.json"
make system.slice/mysql.service --comm mysqld sleeper --size "${each}K"
mysqld=$started
make user/kept/precious sleeper --size "${each}K"
kept=$started
make "docker/$id" sleeper --size "${each}K"
broker=$started
make services/dropbear --comm dropbear sleeper --size "${each}K"
dropbear=$started
all="$mysqld $kept $broker $dropbear"
for pid in $all; do
	step soon holds_kb "$pid" "$each"
done

start_agent "/etc/lowtide/$1.toml"
make services/dropbear --comm opkg hog --rate 10M --cap 400M
hog=$started
if [ "$1" = control ]; then
	# shellcheck disable=SC2086
	step soon one_has_ended $all
else
	step soon has_ended "$hog"
	for pid in $all; do
		step kill -0 "$pid"
	done
fi
end_agent TERM
