#!/bin/sh
# Where the memory controller is off in a cgroup, what it uses is charged to the one above: what is
# never killed is not killed with that one, and neither is the agent.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

ranked() {
	lowtide explain --config "$CONFIG" | grep -q -E "^ +$1 +/$2 .* $3( |$)"
}

mkdir -p "$CGROUPS/apps/shop/inner" "$CGROUPS/apps/stall/inner" "$CGROUPS/lowtide/instance1"
lowtide-guest exec apps/shop/inner lowtide-guest sleeper --size 20M &
lowtide-guest exec apps/stall/inner lowtide-guest sleeper --size 20M &
step soon holds shop 18
step soon holds stall 18
lowtide-guest exec lowtide/instance1 lowtide run --config "$CONFIG" &
agent=$!
step soon ranked - lowtide never
step ranked - apps/shop never
step ranked 1 apps/stall 900
end_agent TERM
