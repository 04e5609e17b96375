#!/bin/sh
# What cgroups and processes are called protects what somebody with rights called so, and nothing else;
# and a process that is never killed shields itself, not what else is in its cgroup.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# A load in a cgroup that is there, and from there on as another user or by another name.
run() {
	cgroup="$1"
	shift
	lowtide-guest exec "$cgroup" lowtide-guest as "$@" &
	started=$!
}

# A load in a cgroup that is made for it.
make() {
	cgroup="$1"
	shift
	lowtide-guest as --cgroup "$cgroup" "$@" &
	started=$!
}

# Each of them has taken what it holds: its name and its cgroup are those that it keeps.
hold() {
	for pid in "$@"; do
		[ "$(awk '$1 == "VmRSS:" { print $2 }' "/proc/$pid/status")" -ge 2048 ] || return 1
	done
}

explained() {
	lowtide explain --json --config "$CONFIG" > /run/explained &&
		sed 's/{"path":/\n&/g' /run/explained > /run/cgroups
}

# The kill priority of a path, or of `PID (NAME) of PATH`, written as in JSON: null is never.
ranked() {
	grep -F "{\"path\":\"$1\"," /run/cgroups | grep -q "\"kill\":{\"order\":[0-9a-z]*,\"priority\":$2," && return
	cut -c 1-200 /run/cgroups
	return 1
}

has_no_control_characters() {
	! LC_ALL=C grep -q "$(printf '[\001-\010\013-\037]')" "$1"
}

adj_is() {
	[ "$(cat "/proc/$1/oom_score_adj")" -eq "$2" ]
}

is_shielded() {
	[ "$(cat "/proc/$1/oom_score_adj")" -le -500 ]
}

min_is() {
	[ "$(cat "$CGROUPS/$1/memory.min")" = "$2" ]
}

# Some process in the cgroup, other than this one, is shielded.
another_is_shielded() {
	while read -r pid; do
		[ "$pid" = "$2" ] || ! is_shielded "$pid" 2> /dev/null || return 0
	done < "$CGROUPS/$1/cgroup.procs"
	return 1
}

has_ended() {
	! kill -0 "$1" 2> /dev/null
}

# Names are bytes, and none of them gets to a terminal as it is.
make '%ff' sleeper --size 4M
bytes=$started
make 'a%1b[2Jb%0dc' sleeper --size 4M
escape=$started
make apps/cut --comm 'ip%e2%80%a6%e2%80%a6%e2%80%a6%e2%80%a6%e2' sleeper --size 4M
cut=$started

# Whoever owns a tree may call a cgroup in it as he likes, and a process, too. The same names protect
# where they are root's.
make user/kept/precious sleeper --size 4M
kept=$started
make user/deleg/start sleeper --size 3M
start=$started
make user/other sleeper --size 3M
other=$started
step soon hold "$start" "$kept" "$other"
for file in . cgroup.procs cgroup.subtree_control; do
	chown 1000 "$CGROUPS/user/deleg/$file"
done
run user/deleg/start --uid 1000 --cgroup user/deleg/precious --comm sshd sleeper --size 4M
attacker=$started
run user/deleg/start --uid 1000 --cgroup user/deleg/app --set memory.min=max sleeper --size 3M
claims=$started

# A process that is never killed, with and without others in its cgroup.
make system.slice/mysql.service --comm mysqld sleeper --size 4M
mysqld=$started
make openrc.sshd --comm sshd sleeper --size 3M
sshd=$started
make openrc.networkmanager sleeper --size 3M
network=$started
make apps/own --oom-score-adj -1000 sleeper --size 4M
own=$started
make user.slice/user-0.slice/session-1.scope --comm sshd-session sleeper --size 3M
session=$started
make user.slice/user-0.slice/session-1.scope --comm bash sleeper --size 3M
bash=$started
make services/dropbear --comm dropbear sleeper --size 3M
dropbear=$started
make services/dropbear --comm '%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c' sleeper --size 4M
backslashes=$started
# procd has the controller off below a service.
mkdir -p "$CGROUPS/services/asterisk/instance1"
run services/asterisk/instance1 --comm asterisk sleeper --size 4M
asterisk=$started
run services/asterisk/instance1 --comm helper sleeper --size 3M
helper=$started
# Containers as Docker and LXC leave them, and one whose file a user may write.
id="$(printf '%064d' 7)"
forged="$(printf '%064d' 8)"
for container in "$id" "$forged"; do
	mkdir -p "/var/lib/docker/containers/$container"
	echo '{"HostConfig":{"RestartPolicy":{"Name":"always"}},"Name":"/broker"}' \
		> "/var/lib/docker/containers/$container/config.v2.json"
done
chown 1000 "/var/lib/docker/containers/$forged/config.v2.json"
make "docker/$id" sleeper --size 3M
broker=$started
make "docker/$forged" sleeper --size 3M
forger=$started
make lxc.payload.web sleeper --size 3M
web=$started
all="$broker $forger $web $bytes $escape $cut $kept $start $other $attacker $claims $mysqld $sshd $network $own"
all="$all $session $bash $dropbear $backslashes $asterisk $helper"
# shellcheck disable=SC2086
step soon hold $all

step explained
step has_no_control_characters /run/explained
step ranked '/\\xff' 500
step ranked '/a\\x1b[2Jb\\x0dc' 500
step ranked /apps/cut null
step ranked /user/kept/precious null
step ranked /user/deleg/precious 500
step ranked /system.slice/mysql.service null
step ranked /openrc.sshd null
step ranked /openrc.networkmanager null
step ranked /apps/own null
step ranked "$session (sshd-session) of /user.slice/user-0.slice/session-1.scope" null
step ranked "$bash (bash) of /user.slice/user-0.slice/session-1.scope" 500
step ranked "$dropbear (dropbear) of /services/dropbear" null
step ranked "$backslashes ($(printf "%30s" "" | tr " " "\\\\")) of /services/dropbear" 500
step ranked "$asterisk (asterisk) of /services/asterisk" null
step ranked "$helper (helper) of /services/asterisk" 500
step ranked /docker/broker null
step ranked "/docker/$forged" 500
step ranked /lxc.payload.web 300

# The kernel's own order follows; what others claim is not passed up.
start_agent "$CONFIG"
step soon min_is user 4194304
step min_is user/deleg/app max
for pid in $broker $cut $kept $mysqld $sshd $network $session $dropbear $asterisk; do
	step soon is_shielded "$pid"
done
for pid in $bytes $forger $attacker $claims $bash $backslashes $helper; do
	step adj_is "$pid" 0
done
step adj_is "$own" -1000

# A process that leaves the cgroup that was shielded is shielded no more. One that a shielded process has
# started has what it inherited until the next look.
make services/shell --comm dropbear forkstorm --rate 2 --size 100K --max 60
shell=$started
step soon is_shielded "$shell"
step soon another_is_shielded services/shell "$shell"
kill -STOP "$shell"
echo "$kept" > "$CGROUPS/user/other/cgroup.procs"
step is_shielded "$kept"
mkdir "$CGROUPS/apps/born"
step soon adj_is "$kept" 0
step soon fails another_is_shielded services/shell "$shell"
step is_shielded "$shell"
echo 1 > "$CGROUPS/services/shell/cgroup.kill"

# What grows goes, and it alone: whatever it is called, and whoever it lives with.
make services/dropbear --comm opkg hog --rate 20M --cap 400M
step soon has_ended "$started"
run user/deleg/start --uid 1000 --cgroup 'user/deleg/precious%ff%1b[2J%0d' --comm dropbear hog --rate 20M --cap 400M
step soon has_ended "$started"
for pid in $all; do
	step kill -0 "$pid"
done

end_agent TERM
step adj_is "$dropbear" 0
step adj_is "$own" -1000
step min_is user 0
step min_is user/deleg/app max
