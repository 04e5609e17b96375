#!/bin/sh
# When it comes too late, the kernel's own OOM killer takes what the config ranks first: a service
# of many small processes, as a whole, and not the large process that has just grown. Without
# `agent` as an argument: what the kernel does by itself.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

killed() {
	[ "$(sed -n 's/^oom_kill //p' "$CGROUPS/apps/$1/memory.events")" -gt 0 ]
}

some_killed() {
	killed media || killed sensor
}

step soon holds media 60
if [ "$1" = agent ]; then
	start_agent "$CONFIG"
	step soon is apps/media/memory.oom.group 1
	step soon score_is sensor -399
	kill -STOP "$agent"
fi
touch /run/grow
step soon some_killed
if [ "$1" = agent ]; then
	step soon holds sensor 110
	step is apps/media/cgroup.procs ""
	step fails killed sensor
else
	step killed sensor
	step fails killed media
fi
