#!/bin/sh
# `protect` keeps memory in a cgroup, up the chain of its ancestors, and is gone with the agent
# however that ends.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

PROTECTED=$((16 << 20))

# Of the kernel as a whole.
vm() {
	[ "$(cat "/proc/sys/vm/$1")" = "$2" ]
}

as_found() {
	vm watermark_boost_factor 15000 && vm percpu_pagelist_high_fraction 0 &&
		is lowtide/memory.min 0 && is apps/memory.min 0 && is apps/gateway/memory.min 0 &&
		is apps/media/memory.oom.group 0 && score_is sensor 0
}

as_configured() {
	vm watermark_boost_factor 0 && vm percpu_pagelist_high_fraction 256 &&
		is apps/memory.min "$PROTECTED" && is apps/gateway/memory.min "$PROTECTED" &&
		is apps/media/memory.oom.group 1 && score_is sensor -399
}

# In kB, of the agent.
of_agent() {
	sed -n "s/^$1:[^0-9]*\([0-9]*\) kB/\1/p" "/proc/$agent/status"
}

# The agent is locked in memory, all of which is protected, out of the kernel's choice, and first in
# line for the CPU.
protects_itself() {
	is lowtide/memory.min "$((2 << 20))" &&
		[ "$(cat "$CGROUPS/lowtide/memory.current")" -le "$((2 << 20))" ] &&
		[ "$(of_agent VmLck)" -ge "$(of_agent VmRSS)" ] &&
		[ "$(cat "/proc/$agent/oom_score_adj")" -eq -1000 ] && runs_first
}

# Takes all that the kernel can get from all of them, while the gateway, which has its cache, stands
# still.
reclaim_all() {
	kill -CONT "$(process gateway)"
	soon holds gateway 20 || return 1
	kill -STOP "$(process gateway)"
	# It says that this is more than there is.
	echo 1G 2> /dev/null > "$CGROUPS/memory.reclaim"
	echo "$(cat "$CGROUPS/apps/gateway/memory.current") bytes left of the gateway"
}

# Once all of it has been started.
step soon as_found
step reclaim_all
step fails holds gateway 8
# By itself, without its ancestor, it does not count.
echo "$PROTECTED" > "$CGROUPS/apps/gateway/memory.min"
step reclaim_all
step fails holds gateway 8
echo 0 > "$CGROUPS/apps/gateway/memory.min"

start_agent "$CONFIG"
step soon as_configured
# The start goes on after that.
step soon protects_itself
step reclaim_all
step holds gateway 15
step fails lowtide run
end_agent TERM
step as_found
step reclaim_all
step fails holds gateway 8

start_agent "$CONFIG"
step soon as_configured
end_agent KILL
step as_configured
# The next one has a config that asks for no protection.
start_agent /etc/lowtide/unprotected.toml
step soon is apps/gateway/memory.min 0
step is apps/memory.min 0
end_agent TERM
step as_found
