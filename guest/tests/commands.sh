#!/bin/sh
# The commands before and after: told of the victim, in their turn, and never in the way of the
# kill, whether they hang, are missing, or there is nothing to run them.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

NOW=/etc/lowtide/now.toml

# A service that says when it is asked to stop, and grows until it ends.
# shellcheck disable=SC2016
start_hog() {
	rm -f /run/told
	lowtide-guest exec apps/media /bin/sh -c \
		'trap "echo asked >> /run/told; exit" TERM; lowtide-guest hog --rate 20M --cap 120M & wait' &
	hog=$!
}

has_ended() {
	! kill -0 "$hog" 2> /dev/null
}

told() {
	[ "$(cat /run/told 2> /dev/null)" = "$1" ]
}

# As lines.
all_of() {
	printf '%s\n' "$@"
}

runner() {
	grep -l '^lowtide-command' /proc/[0-9]*/cmdline | cut -d / -f 3
}

of_runner() {
	sed -n "s/^$1:[^0-9]*\([0-9]*\).*/\1/p" "/proc/$(runner)/status"
}

is_there() {
	[ -n "$(runner)" ]
}

logged() {
	dmesg | grep -q "lowtide: $1"
}

reload_with() {
	cp "/etc/lowtide/commands-$1.toml" "$NOW"
	kill -HUP "$agent"
}

# Where no group has a command there is no process to run any.
cp "$CONFIG" "$NOW"
start_agent "$NOW"
step soon is apps/media/memory.oom.group 1
step fails is_there

# The config is read anew, and with it the commands.
reload_with tell
step soon is_there
step [ "$(cat "/proc/$(runner)/oom_score_adj")" -eq 0 ]
step [ "$(of_runner VmLck)" -eq 0 ]
start_hog
step soon has_ended
step soon told "$(all_of \
	'before media /apps/media: critical confirmed' asked 'after media /apps/media: critical confirmed')"

# One hangs, the other is missing.
reload_with hang
start_hog
step soon has_ended
step soon logged '/bin/busybox: killed, not at its end after 1000 ms'
step soon logged '/no/such: No such file'
step told asked

# The one that runs them is gone in the middle; it is back when that is over.
reload_with tell
start_hog
step soon told 'before media /apps/media: critical confirmed'
kill -KILL "$(runner)"
step soon has_ended
step soon logged 'a command was not run'
step soon is_there
start_hog
step soon has_ended
step soon told "$(all_of \
	'before media /apps/media: critical confirmed' asked 'after media /apps/media: critical confirmed')"

pid=$(runner)
end_agent TERM
runner_has_ended() {
	! kill -0 "$pid" 2> /dev/null
}
step soon runner_has_ended
step grep -q '^oom_kill 0$' /proc/vmstat
