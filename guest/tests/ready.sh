#!/bin/sh
# From waking to the end of who has to go, the agent touches no page for the first time: there may be
# none to be had, and it would have to reclaim one for itself.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# The agent's own pages, in KiB.
pages() {
	sed -n 's/^Anonymous: *\([0-9]*\) kB$/\1/p' "/proc/$agent/smaps_rollup"
}

has_ended() {
	! kill -0 "$hog" 2> /dev/null
}

# Where in a page its stack begins is another place each time.
place() {
	head -c "$1" /dev/zero | tr '\0' .
}

while read -r config at; do
	PLACE=$(place "$at") start_agent "/etc/lowtide/$config.toml"
	step soon runs_first
	sleep 1
	before=$(pages)
	lowtide-guest exec apps/media lowtide-guest hog --rate 40M &
	hog=$!
	step soon has_ended
	after=$(pages)
	echo "$config at $at: $before KiB before, $after after"
	step [ "$after" -eq "$before" ]
	wait "$hog" || true
	end_agent TERM
done << END
kill-cgroup 0
terminate-cgroup 512
kill-process 1024
terminate-process 1536
kill-cgroup 2048
terminate-cgroup 2560
kill-process 3072
terminate-process 3584
END
