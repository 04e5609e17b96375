#!/bin/sh
# What grows is held back once, for its time, and let go: at the end of that, with the agent, and
# at the next start when the agent died.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

frozen() {
	grep -q 'frozen 1' "$CGROUPS/apps/media/cgroup.events"
}

let_go() {
	! frozen
}

start_hog() {
	lowtide-guest exec apps/media lowtide-guest hog --rate 20M --cap 120M &
	hog=$!
}

end_hog() {
	kill -KILL "$hog"
	wait "$hog" || true
}

start_agent /etc/lowtide/throttle-2s.toml
start_hog
step soon frozen
step fails holds media 115
step soon let_go
# It goes on growing, and is not held back again for that: it did not help.
step soon holds media 115
step [ "$(dmesg | grep -c 'lowtide: throttle /apps/media')" -eq 1 ]
end_agent TERM
end_hog

start_agent /etc/lowtide/throttle-10min.toml
start_hog
step soon frozen
end_agent TERM
step soon let_go
end_hog

start_agent /etc/lowtide/throttle-10min.toml
start_hog
step soon frozen
end_agent KILL
step frozen
# The next one has a config that holds nothing back.
start_agent "$CONFIG"
step soon let_go
step soon holds media 115
end_agent TERM
