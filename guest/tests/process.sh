#!/bin/sh
# Of a cgroup with `unit = "process"` the process goes that frees most of those that may go, and the
# others stay: first by the kill alone, then by being asked.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

start() {
	program="$1"
	shift
	lowtide-guest exec apps/media "$program" "$@" &
}

# Grows until it ends, and ends by this signal.
hog_ends_by() {
	start lowtide-guest hog --rate 20M --cap 80M
	hog=$!
	soon has_ended || return 1
	wait "$hog"
	[ "$?" -eq "$((128 + $1))" ]
}

has_ended() {
	! kill -0 "$hog" 2> /dev/null
}

left() {
	[ "$(grep -cx -e "$small" -e "$precious" "$CGROUPS/apps/media/cgroup.procs")" -eq 2 ]
}

ln -s lowtide-guest /bin/precious
start precious sleeper --size 40M
precious=$!
start lowtide-guest sleeper --size 5M
small=$!
step soon holds media 45

start_agent /etc/lowtide/process-kill.toml
step hog_ends_by 9
step left
# It took turns while it gave back the memory.
step soon runs_first
end_agent TERM

# The kernel does not count it as available before it has left the lists of single processors.
is_back() {
	awk '/^MemTotal:/ { total = $2 } /^MemAvailable:/ { exit $2 < total * 0.45 }' /proc/meminfo
}

step soon is_back
start_agent /etc/lowtide/process-terminate.toml
step hog_ends_by 15
step left
end_agent TERM
step kill -0 "$(process sensor)"
