#!/bin/sh
# Each system call that the agent makes from waking to relief fails in turn, as strace makes it fail: the
# agent goes on, the configured victim goes and nothing else does, and nothing stays set. The agent is the
# same one all the time, so that what one case leaves is found by the next.
#
# $1: the errors, with spaces between. $2: of how many calls of one name each fails, from the first on.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

errors=$1
most=$2

has_ended() {
	! kill -0 "$hog" 2> /dev/null
}

traced() {
	[ "$(sed -n 's/^TracerPid:\t//p' "/proc/$agent/status")" != 0 ]
}

relieved() {
	[ "$(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo)" -gt "$rest" ]
}

# An episode under strace with these options.
episode() {
	strace -f -qqq -p "$agent" -o /run/trace "$@" &
	strace=$!
	quietly soon traced || return 1
	lowtide-guest exec apps/media lowtide-guest hog --rate 400M > /dev/null &
	hog=$!
	quietly soon has_ended || return 1
	wait "$hog" || true
	quietly soon relieved || return 1
	kill -INT "$strace"
	wait "$strace" || true
}

# What was set for an episode, what must not have gone, and what must still be there.
is_as_before() {
	kill -0 "$agent" && kill -0 "$sensor" && kill -0 "$lifeline" &&
		is apps/media/cgroup.freeze 0 && is apps/media/memory.high max &&
		is apps/sensor/cgroup.freeze 0 && is apps/sensor/memory.high max
}

quietly() {
	"$@" > /dev/null 2>&1
}

start_agent "$CONFIG"
step soon runs_first
sensor=$(process sensor)
lifeline=$(head -n 1 "$CGROUPS/lifeline/heartbeat/cgroup.procs")
sleep 1
rest=$(($(sed -n 's/^MemAvailable: *\([0-9]*\) kB$/\1/p' /proc/meminfo) * 3 / 4))

# Not of memory for the program itself, which ends any program that has to have it, nor what the kernel
# never fails in that way: a lock, the program's end.
calls='!mmap,munmap,brk,futex,rt_sigreturn,exit,exit_group,restart_syscall'
step episode -e trace="$calls"
# The name of each call and how often one thread makes it, at most as often as asked for.
sed -n 's/^\([0-9]*\) *\([a-z_0-9]*\)(.*/\1 \2/p' /run/trace | sort | uniq -c |
	awk -v most="$most" '{ if ($1 > count[$3]) count[$3] = $1 }
		END { for (call in count) print call, count[call] < most ? count[call] : most }' |
	sort > /run/calls
echo "calls: $(tr '\n' ',' < /run/calls)"
cases=0
failed=0
while read -r call count; do
	for error in $errors; do
		n=1
		while [ "$n" -le "$count" ]; do
			cases=$((cases + 1))
			echo "case $cases: $call $n $error"
			if ! episode -e trace="$call" -e inject="$call:error=$error:when=$n"; then
				echo "FAILED: $call $n $error: the victim stays"
				failed=$((failed + 1))
				kill -KILL "$hog" "$strace" || true
				wait "$hog" || true
			fi
			if ! is_as_before; then
				echo "FAILED: $call $n $error: $(quietly kill -0 "$agent" || echo the agent has ended), $(grep . "$CGROUPS"/apps/*/cgroup.freeze "$CGROUPS"/apps/*/memory.high | tr '\n' ' ')"
				failed=$((failed + 1))
				quietly kill -0 "$agent" || {
					start_agent "$CONFIG"
					step soon runs_first
				}
				quietly kill -0 "$sensor" && quietly kill -0 "$lifeline"
			fi
			n=$((n + 1))
		done
	done
done < /run/calls
echo "$cases cases, $failed failed"
step [ "$cases" -ge 20 ]
step [ "$failed" -eq 0 ]
end_agent TERM
