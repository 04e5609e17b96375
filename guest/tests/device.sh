# shellcheck shell=dash
# For the tests beside it: the device at rest, and an agent to start and to end.

# shellcheck source=pkg/tests/steps.sh
. "${0%/*}/steps.sh"

CGROUPS=/sys/fs/cgroup
CONFIG=/etc/lowtide/config.toml

# Starts the agent in a cgroup of its own with a config.
start_agent() {
	lowtide-guest exec lowtide lowtide run --config "$1" &
	agent=$!
}

end_agent() {
	kill "-$1" "$agent"
	wait "$agent" || true
}

# Nice value for when it takes turns, rt_priority 1, policy SCHED_FIFO.
runs_first() {
	[ "$(cut -d ' ' -f 19,40,41 "/proc/$agent/stat")" = "-20 1 1" ] || return 1
	for thread in "/proc/$agent/task/"*/stat; do
		[ "$(cut -d ' ' -f 40,41 "$thread")" = "1 1" ] || return 1
	done
}

is() {
	[ "$(cat "$CGROUPS/$1")" = "$2" ]
}

# The first process of a service.
process() {
	head -n 1 "$CGROUPS/apps/$1/cgroup.procs"
}

score_is() {
	[ "$(cat "/proc/$(process "$1")/oom_score_adj")" -eq "$2" ]
}

holds() {
	[ "$(cat "$CGROUPS/apps/$1/memory.current")" -ge "$(($2 << 20))" ]
}
