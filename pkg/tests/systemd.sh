#!/bin/sh
# lowtide.service under systemd with the real agent.

# shellcheck source=pkg/tests/steps.sh
. "${0%/*}/steps.sh"

CONFIG=/etc/lowtide/config.toml

show() {
	systemctl show lowtide --value --property "$1"
}

# A property is exactly this.
is() {
	[ "$(show "$1")" = "$2" ]
}

# What `systemctl status` shows has this in it.
says() {
	show StatusText | grep -q "$1"
}

# How many such lines with these words the journal has of the agent.
logged() {
	[ "$(journalctl --unit lowtide --priority "$1" --grep "$2" --output cat | wc -l)" -eq "$3" ]
}

contents() {
	[ "$(cat "$1")" = "$2" ]
}

# The agent has such a file open; its path may be that outside of the container.
holds() {
	for fd in "/proc/$(show MainPID)/fd"/*; do
		case "$(readlink "$fd")" in
		*"$1") return ;;
		esac
	done
	return 1
}

# More time than the watchdog gives it, twice, goes by.
lives() {
	sleep 25
	is MainPID "$1" && is ActiveState active
}

# What waits for it is started only when it is armed.
step is ActiveState active
step says 'woken by .*, 1 groups cover'

step logged info 'engine, woken by' 1

# Lines with an explanation in the catalog have the agent's id of it.
has_id() {
	[ "$(journalctl --unit lowtide --output cat "MESSAGE_ID=$1" | wc -l)" -eq "$2" ]
}

step contents "/proc/$(show MainPID)/oom_score_adj" -1000
step contents "/sys/fs/cgroup$(show ControlGroup)/memory.min" 2097152
step contents "/sys/fs/cgroup$(show ControlGroup)/memory.low" 12582912

# A drop-in as the docs have it.
step is ReadWritePaths '/sys/fs/cgroup -/sys/fs/bpf -/proc/sys/vm /var/lib/product'

first="$(show MainPID)"
printf '[[group]]\nname = "more"\nkill = 1\ncgroups = ["more"]\n' > "$CONFIG"
step systemctl reload lowtide
step says ' 2 groups cover'
step has_id 2d94b8e17f6a4c53a0e9d8c7b6a5f403 1
echo 'profile = "no such"' > "$CONFIG"
step fails systemctl reload lowtide
step says ' 2 groups cover'
step logged err 'reload refused' 1
step has_id f36c5a9e08d14b7283c4d5e6f7a8b9c5 1
step lives "$first"

rm "$CONFIG"
kill -KILL "$first"
step soon is NRestarts 1
step soon is ActiveState active
step fails is MainPID "$first"

# The rights are enough for the watchdog, and it is let go again.
printf '[level.critical]\nactions = ["kill", "watchdog"]\n[limits]\nreboot_after = "1min"\n' > "$CONFIG"
step systemctl reload lowtide
step holds /dev/watchdog
rm "$CONFIG"
step systemctl reload lowtide
step fails holds /dev/watchdog

# What the units say counts, and systemd says what became of the one that went.
unit() {
	printf '[Service]\nManagedOOMPreference=%s\nExecStart=/usr/bin/lowtide-guest %s\n' "$2" "$3" \
		> "/etc/systemd/system/$1.service"
	systemctl start "$1"
}

# What `systemctl status` has as the unit's result.
ended() {
	[ "$(systemctl show "$1" --value --property Result)" = "$2" ]
}

explain() {
	lowtide explain --json | sed 's/{"path":/\n&/g' > /run/explained
}

explained() {
	grep "/$1.service\",.*\"kill\":{[^}]*\"why\":\"$2" /run/explained
}

step unit omitted omit 'sleeper --size 40M'
step unit avoided avoid 'sleeper --size 40M'
step unit plain none 'sleeper --size 20M'
step unit ended none 'sleeper --size 1M'
systemctl kill --signal KILL ended
step soon ended ended signal
step explain
step explained omitted never
step explained avoided 'same priority, to be avoided'
step explained plain 'goes first\|same priority, frees less'
# One that heeds SIGTERM ends by itself, which is no failure of the unit's.
step unit grows none 'as --ignore-term hog --rate 60M'
step soon ended grows oom-kill
for name in omitted avoided plain; do
	step systemctl --quiet is-active "$name"
done
systemctl stop omitted avoided plain

# One that hangs.
kill -STOP "$(show MainPID)"
step soon is NRestarts 2
step soon is ActiveState active

step systemctl stop lowtide
step is ActiveState inactive
step is Result success

# One that cannot start holds up nothing that waits for it, and starts when it can.
echo 'profile = "no such"' > "$CONFIG"
step fails systemctl start lowtide
rm "$CONFIG"
step soon is ActiveState active

systemd-analyze security --no-pager lowtide | tail -n 1
