#!/bin/sh
# A device that is short of memory by a new config only, and on which nothing moves: no alarm ever comes, so
# what the reload does not judge nothing will.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

NOW=/etc/lowtide/now.toml

has_ended() {
	! kill -0 "$media" 2> /dev/null
}

# What the agent counts since its start; to ask is no look.
counts() {
	lowtide status | grep -o "[0-9]* $1"
}

says() {
	dmesg | grep -q "lowtide: $1"
}

# The kernel takes ten lines in five seconds otherwise.
echo on > /proc/sys/kernel/printk_devkmsg

lowtide-guest exec apps/media lowtide-guest sleeper --size 40M &
media=$!
step soon holds media 40
# What is short of nothing, and asks for no alarm that could come.
cp /etc/lowtide/nothing.toml "$NOW"
start_agent "$NOW"
step soon counts looks
sleep 3
before=$(counts looks)
sleep 3
# It rests: nothing looks at memory.
step [ "$(counts looks)" = "$before" ]
step fails has_ended

cp /etc/lowtide/media.toml "$NOW"
kill -HUP "$agent"
step soon has_ended
step [ "$(counts 'times the config')" = '1 times the config' ]
wait "$media"
step [ "$?" -eq 137 ]

# What it takes from a group that is never killed is said, as at the start.
cp /etc/lowtide/lifeline.toml "$NOW"
kill -HUP "$agent"
step soon says '.*now.toml:.*warning: '
