#!/bin/sh
# lowtide.init under BusyBox with the real agent.

# shellcheck source=pkg/tests/steps.sh
. "${0%/*}/steps.sh"

SCRIPT=/etc/init.d/S02lowtide
CONFIG=/etc/lowtide/config.toml
LOG=/tmp/messages

unkillable() {
	[ "$(cat "/proc/$(pidof lowtide)/oom_score_adj")" -eq -1000 ]
}

logs() {
	grep -q "lowtide.*$1" "$LOG"
}

step fails "$SCRIPT" status

step "$SCRIPT" start
step soon agents 1
step "$SCRIPT" status
step unkillable

# A second start does nothing.
step "$SCRIPT" start
step agents 1

# One that starts later is told from then on, and so is another in its place.
syslogd -O "$LOG"
first="$(pidof lowtide)"
echo 'profile = "no such"' > "$CONFIG"
step fails "$SCRIPT" reload
printf '[[group]]\nname = "more"\nkill = 1\ncgroups = ["more"]\n' > "$CONFIG"
step "$SCRIPT" reload
step soon logs reloaded
killall syslogd
rm "$LOG"
syslogd -O "$LOG"
step "$SCRIPT" reload
step soon logs reloaded
step [ "$(pidof lowtide)" = "$first" ]

kill -KILL "$first"
step soon is_another "$first"
step "$SCRIPT" status

second="$(pidof lowtide)"
step "$SCRIPT" restart
step soon is_another "$second"

step "$SCRIPT" stop
step agents 0
step fails "$SCRIPT" status
step "$SCRIPT" stop

# What the docs tell people to type.
step sh -e /tests/start.sh
step soon agents 1
step unshare -m sh -c 'umount /sys/fs/cgroup; mount -a; [ -e /sys/fs/cgroup/cgroup.procs ]'
{
	cat /tests/cgroup.sh
	echo 'cat /proc/self/cgroup /sys/fs/cgroup/recorder/memory.current'
} > /tests/service.sh
sh -e /tests/service.sh > /tmp/service
step grep -qx '0::/recorder' /tmp/service
step grep -qx '[1-9][0-9]*' /tmp/service
step "$SCRIPT" stop
