#!/bin/sh
# From waking to the end of the victim, the agent waits for no page: neither for one of its own, as
# there may be none to be had and it would have to reclaim one for itself, nor for one of the program,
# as that may have to be read from the disk. The program is in memory as a whole, but for the code that
# only the start needs, of which nothing is.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# The agent's own pages, in KiB.
pages() {
	sed -n 's/^Anonymous: *\([0-9]*\) kB$/\1/p' "/proc/$agent/smaps_rollup"
}

# Page faults so far, without and with a wait for the disk.
faults() {
	cut -d ' ' -f 10,12 "/proc/$agent/stat"
}

has_ended() {
	! kill -0 "$hog" 2> /dev/null
}

# The agent has slept for longer than from an alarm to the pass over all cgroups that follows it. Such a
# pass may ask for memory: it is none of what this is about.
is_at_rest() {
	switches=$(grep ctxt_switches "/proc/$agent/status")
	sleep 2
	[ "$(grep ctxt_switches "/proc/$agent/status")" = "$switches" ]
}

# Where in a page its stack begins is another place each time.
place() {
	head -c "$1" /dev/zero | tr '\0' .
}

while read -r config at; do
	PLACE=$(place "$at") start_agent "/etc/lowtide/$config.toml"
	step soon runs_first
	step soon is_at_rest
	step program_is_in_memory
	before="$(pages) KiB, $(faults) faults"
	lowtide-guest exec apps/media lowtide-guest hog --rate 100M &
	hog=$!
	step soon has_ended
	after="$(pages) KiB, $(faults) faults"
	echo "$config at $at: $before before, $after after"
	step [ "$after" = "$before" ]
	wait "$hog" || true
	end_agent TERM
done << END
kfunc-kill-cgroup 0
kfunc-terminate-cgroup 512
kfunc-kill-process 1024
kfunc-terminate-process 1536
kfunc-kill-cgroup 2048
kfunc-terminate-cgroup 2560
kfunc-kill-process 3072
kfunc-terminate-process 3584
cgroupfs-kill-cgroup 256
cgroupfs-terminate-cgroup 1280
cgroupfs-kill-process 2304
cgroupfs-terminate-process 3328
END
