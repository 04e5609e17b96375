#!/bin/sh
# `lowtide check` says what is wrong with a file, and what of it means nothing on this device. SIGHUP
# puts a good file in force, under pressure that goes on all the time, and leaves the old one in force
# where the new one is wrong, or others may write it.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

NOW=/etc/lowtide/now.toml

says() {
	grep -q "$1" /run/said || { cat /run/said; false; }
}

check() {
	lowtide check "/etc/lowtide/$1.toml" > /run/said 2>&1
}

reload_with() {
	cp "/etc/lowtide/$1.toml" "$NOW"
	kill -HUP "$agent"
}

logged() {
	dmesg | grep -q "lowtide: $1"
}

start_media() {
	lowtide-guest exec apps/media lowtide-guest sleeper --size 40M &
	media=$!
}

has_ended() {
	! kill -0 "$media" 2> /dev/null
}

media_is_killed() {
	soon has_ended || return 1
	wait "$media"
	[ "$?" -eq 137 ]
}

spills() {
	dmesg | grep -q '^[^a-z]*10 | '
}

# Nothing goes by the file that protects it.
nothing_in_force() {
	is apps/media/memory.min $((1 << 20))
}

step fails check wrong
step says 'wrong.toml:10:8: group.kill'
step check idle
step says 'idle.toml:1:.* ghost: 1 of 1 patterns match nothing here now: no/such'
step says 'idle.toml:7:.* apps/.* has neither memory.max nor memory.high'

# The kernel takes ten lines in five seconds otherwise.
echo on > /proc/sys/kernel/printk_devkmsg

# Its cache does not fit: it stalls from now on.
echo 12M > "$CGROUPS/apps/gateway/memory.high"

start_media
step soon holds media 40
cp /etc/lowtide/nothing.toml "$NOW"
start_agent "$NOW"
step soon nothing_in_force
sleep 3
step fails has_ended

reload_with media
step media_is_killed
step program_is_in_memory

reload_with wrong
step soon logged 'reload refused'
step logged '.*now.toml:10:8: group.kill: '
# Each line of the log is one, also of a mistake that `check` shows with its line of the file.
step fails spills
start_media
step media_is_killed

# It would run a program as root, and anybody could name another in it.
cp /etc/lowtide/runs.toml "$NOW"
chmod 666 "$NOW"
kill -HUP "$agent"
step soon logged '.*now.toml:11:9: no program is run that .* can write /etc/lowtide/now.toml (owner 0, mode 0666)'
start_media
step media_is_killed
step fails [ -e /run/has-run ]
chmod 644 "$NOW"

reload_with nothing
step soon nothing_in_force
start_media
step soon holds media 40
sleep 3
step fails has_ended
step kill -0 "$agent"
end_agent TERM
