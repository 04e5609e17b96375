#!/bin/sh
# A watchdog is given signs of life, is stopped with the agent, and restarts the device when nothing is
# left to do: a run that comes to the end of this script has failed.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

TIMEOUT=6

logged() {
	dmesg | grep -q "lowtide: $1"
}

# Long enough for the watchdog to restart the device, if it is left alone.
long_enough() {
	sleep $((3 * TIMEOUT))
}

# The device keeps the timeout that it is given.
busybox watchdog -F -T "$TIMEOUT" -t 1 /dev/watchdog &
watchdog=$!
sleep 2
kill "$watchdog"
wait "$watchdog" || true

start_agent /etc/lowtide/calm.toml
step long_enough
step fails logged 'no more signs of life'
end_agent TERM
step long_enough

start_agent /etc/lowtide/missing.toml
step soon logged '/dev/none: No such file'
step sleep 1
step kill -0 "$agent"
end_agent TERM

start_agent /etc/lowtide/hopeless.toml
step soon logged 'nothing was left to do for 2000 ms: no more signs of life for the watchdog'
long_enough
step false
