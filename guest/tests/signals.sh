#!/bin/sh
# A signal is answered whenever it comes: before the agent has its handlers, while it starts, while it goes
# over many cgroups.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

NOW=/etc/lowtide/now.toml
MANY=300

# The agent inherits this until it has a handler, as from the init script.
trap '' HUP

media_keeps() {
	is apps/media/memory.min $(($1 << 20))
}

use() {
	cp "/etc/lowtide/$1.toml" "$NOW.new"
	mv "$NOW.new" "$NOW"
}

# So many microseconds after the agent was started.
reload_after() {
	use one
	start_agent "$NOW"
	usleep "$1"
	use two
	kill -HUP "$agent"
	soon media_keeps 2 || return 1
	kill -0 "$agent" || return 1
	end_agent TERM
	media_keeps 0
}

for after in 0 5000 20000 80000 320000; do
	step reload_after "$after"
done

# Rights are those that the unit leaves, in each thread, and none can be had by running a program, which the
# first one does.
rights_are_few() {
	grep -q '^NoNewPrivs:.1$' "/proc/$agent/status" || return 1
	for status in "/proc/$agent/task/"*/status; do
		for set in CapInh:.0000000000000000 CapPrm:.000000c401c84026 CapEff:.000000c401c84026; do
			grep -q "^$set$" "$status" || { cat "$status"; return 1; }
		done
	done
}

use one
start_agent "$NOW"
step soon media_keeps 1
step rights_are_few

# A pass is due 0.3 s after the first of them was made.
lowtide-guest many --count "$MANY" &
for _ in 1 2 3 4; do
	usleep 100000
	use two
	kill -HUP "$agent"
	step soon media_keeps 2
	use one
	kill -HUP "$agent"
	step soon media_keeps 1
done

# Each of these may find the agent at the one before: the last one counts.
tries=0
while [ "$tries" -lt 50 ]; do
	use one
	kill -HUP "$agent"
	tries=$((tries + 1))
done
use two
kill -HUP "$agent"
step soon media_keeps 2
step kill -0 "$agent"
end_agent TERM
step media_keeps 0
