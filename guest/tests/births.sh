#!/bin/sh
# What the config says of a cgroup reaches one that is made while the agent runs and memory is not
# short, and the processes that come into it later.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

PROTECTED=$((4 << 20))

start_late() {
	lowtide-guest exec apps/late lowtide-guest sleeper --size 5M &
}

# So many processes, with this score.
are() {
	[ "$(wc -l < "$CGROUPS/apps/late/cgroup.procs")" -eq "$1" ] && all_scores_are "$2"
}

all_scores_are() {
	while read -r pid; do
		[ "$(cat "/proc/$pid/oom_score_adj")" -eq "$1" ] || return 1
	done < "$CGROUPS/apps/late/cgroup.procs"
}

removed() {
	rmdir "$CGROUPS/apps/late" 2> /dev/null
}

start_agent "$CONFIG"
step soon is lowtide/memory.min $((2 << 20))
step is apps/memory.min 0

# Each is another one for the kernel: it is found by what is watched after the last was removed.
for _ in 1 2 3; do
	mkdir "$CGROUPS/apps/late"
	sleep 1
	start_late
	step soon is apps/late/memory.min "$PROTECTED"
	step is apps/memory.min "$PROTECTED"
	step soon are 1 -399
	start_late
	step soon are 2 -399
	echo 1 > "$CGROUPS/apps/late/cgroup.kill"
	step soon removed
done

# More at once than are watched.
i=0
while [ "$i" -lt 300 ]; do
	mkdir "$CGROUPS/apps/$i"
	i=$((i + 1))
done
mkdir "$CGROUPS/apps/late"
step soon is apps/late/memory.min "$PROTECTED"
end_agent TERM
step is apps/late/memory.min 0
