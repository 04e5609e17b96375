#!/bin/sh
# While a level's actions go on, what a process that is never killed has started is ranked for the kernel as
# what it is all the same: no cgroup is made, and memory stays as short as it is.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

is_shielded() {
	[ "$(cat "/proc/$1/oom_score_adj")" -le -500 ]
}

# Some process in the cgroup, other than this one, is shielded.
another_is_shielded() {
	while read -r pid; do
		[ "$pid" = "$2" ] || ! is_shielded "$pid" 2> /dev/null || return 0
	done < "$CGROUPS/$1/cgroup.procs"
	return 1
}

is_strained() {
	lowtide status | grep -q 'level strained'
}

lowtide-guest as --cgroup services/shell --comm dropbear forkstorm --rate 2 --size 100K --max 4 &
shell=$!
start_agent "$CONFIG"
step soon is_shielded "$shell"
step soon is_strained
# A child is there with what it inherited, and then, with nothing else to cause it, no more: the agent was woken
# once, at its start.
step soon another_is_shielded services/shell "$shell"
step soon fails another_is_shielded services/shell "$shell"
step is_strained
step is_shielded "$shell"
end_agent TERM
