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

# Nice value for when it takes turns, rt_priority 1, policy SCHED_FIFO; but for the thread that gives back
# a victim's memory, which nothing waits for.
runs_first() {
	[ "$(cut -d ' ' -f 19,40,41 "/proc/$agent/stat")" = "-20 1 1" ] || return 1
	for thread in "/proc/$agent/task/"*; do
		[ "$(cat "$thread/comm")" = mrelease ] ||
			[ "$(cut -d ' ' -f 40,41 "$thread/stat")" = "1 1" ] || return 1
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

# All mappings of the program are in memory as a whole, but for the one with code that only the start, a
# reload or a command needs: nothing of that is.
program_is_in_memory() {
	awk '
		/^[0-9a-f]+-/ { ours = /\/lowtide$/ }
		ours && /^(Size|Rss):/ { kb[$1] = $2 }
		ours && /^VmFlags:/ {
			rss = kb["Rss:"]
			print rss == 0 ? "none" : rss == kb["Size:"] ? "all" : "some"
		}
	' "/proc/$agent/smaps" | sort | uniq -c | tr -s ' \n' ' ' > /run/program
	echo "the program: $(cat /run/program)"
	grep -qx ' [0-9]* all 1 none ' /run/program
}
