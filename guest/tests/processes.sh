#!/bin/sh
# Without cgroups to choose from the kernel's own order of processes follows the config: with the agent
# and as long as that is there, also for those that have inherited a score, and not for one with a score
# of its own.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

start() {
	"$@" &
	started=$!
}

# By its name, which is that of the link that it was started by.
of() {
	grep -lx "$1" /proc/[0-9]*/comm | head -n 1 | cut -d / -f 3
}

has() {
	[ "$(cat "/proc/$1/oom_score_adj")" -eq "$2" ]
}

as_found() {
	has "$(of sensor)" 0 && has "$(of lifeline)" 0 && has "$media" 0 && has "$own" -7
}

as_configured() {
	has "$(of sensor)" -399 && has "$(of lifeline)" -699 && has "$media" 600 && has "$own" -7 && has 1 -1000
}

has_ended() {
	! kill -0 "$media" 2> /dev/null
}

ln -s lowtide-guest /bin/media
start media sleeper --size 10M
media=$started
start media sleeper --size 1M
own=$started
echo -7 > "/proc/$own/oom_score_adj"
step soon as_found

start_agent "$CONFIG"
step soon as_configured
end_agent TERM
step as_found

start_agent "$CONFIG"
step soon as_configured
end_agent KILL
step as_configured
# What one that is never killed has started does not keep its score.
echo -699 > /proc/self/oom_score_adj
start lowtide-guest sleeper --size 1M
echo 0 > /proc/self/oom_score_adj
step has "$started" -699
start_agent "$CONFIG"
step soon has "$started" 0
step as_configured

kill -STOP "$agent"
start /run/sensor hog
hog=$started
echo -399 > "/proc/$hog/oom_score_adj"
step soon has_ended
step kill -0 "$(of lifeline)"
