#!/bin/sh
# Under pressure file cache is given back in the order of the config, by which may be asked for it, and
# nothing goes. `pressed` stalls on its own memory.high.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# A service that has read 16 MB of the flash, from here on, and does nothing more.
start_reader() {
	mkdir "$CGROUPS/apps/$1"
	lowtide-guest exec "apps/$1" /bin/sh -c \
		"dd if=/dev/flash of=/dev/null bs=1M skip=$2 count=16 2> /dev/null; exec sleep 600" &
}

start_pressure() {
	mkdir "$CGROUPS/apps/pressed"
	echo 8M > "$CGROUPS/apps/pressed/memory.high"
	lowtide-guest exec apps/pressed lowtide-guest hog --rate 20M --cap 60M &
}

gave_back() {
	fails holds "$1" 4
}

# What it has taken cache from, as it went on from one to the next.
taken_from() {
	sed -n 's/.*reclaimed [^ ]* of \([^ ]*\) .*/\1/p' /run/agent.log | uniq
}

start_reader kept 40
start_reader second 60
start_reader first 80
for reader in kept second first; do
	step soon holds "$reader" 16
done

start_agent "$CONFIG" 2> /run/agent.log
start_pressure
step soon gave_back first
step soon gave_back second
taken_from
step [ "$(taken_from | head -n 2 | xargs)" = "/apps/first /apps/second" ]
step holds kept 16
for service in kept second first sensor gateway pressed; do
	step [ -n "$(process "$service")" ]
done
end_agent TERM
