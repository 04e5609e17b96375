#!/bin/sh
# What cgroups and processes are called protects what somebody with rights called so, and nothing else;
# and a process that is never killed shields itself, not what else is in its cgroup.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# In a cgroup, from one there that this script may move it from: a load as another user or by another name.
run() {
	cgroup="$1"
	shift
	lowtide-guest exec "$cgroup" lowtide-guest as "$@" &
	started=$!
}

explained() {
	lowtide explain --config "$CONFIG" > /run/explained
}

# Whom the explanation has in a line with a turn, a name, a priority.
ranked() {
	explained && awk -v turn="$1" -v name="$2" -v kill="$3" '
		index($0, " " name " ") && $1 ~ "^" turn "$" && index($0, " " kill " ") { found = 1 }
		END { exit !found }
	' /run/explained
}

adj_is() {
	[ "$(cat "/proc/$1/oom_score_adj")" -eq "$2" ]
}

min_is() {
	[ "$(cat "$CGROUPS/$1/memory.min")" = "$2" ]
}

has_no_control_characters() {
	explained && ! LC_ALL=C grep -q "$(printf '[\001-\010\013-\037]')" /run/explained
}

has_ended() {
	! kill -0 "$1" 2> /dev/null
}

# Names are bytes, and none of them gets to a terminal as it is.
lowtide-guest as --cgroup '%ff' sleeper --size 12M &
lowtide-guest as --cgroup 'a%1b[2Jb%0dc' sleeper --size 12M &
run apps/cut --comm 'ip%e2%80%a6%e2%80%a6%e2%80%a6%e2%80%a6%e2' sleeper --size 12M
step soon ranked '[0-9]+' '/\\xff' 500
step ranked '[0-9]+' '/a\\x1b[2Jb\\x0dc' 500
step has_no_control_characters
step soon ranked - /apps/cut never

# Who owns a tree may call a cgroup in it what he likes, and a process, too.
mkdir -p "$CGROUPS/user/deleg/start" "$CGROUPS/user/kept"
echo +memory > "$CGROUPS/user/cgroup.subtree_control"
echo +memory > "$CGROUPS/user/deleg/cgroup.subtree_control"
for file in . cgroup.procs cgroup.subtree_control; do
	chown 1000 "$CGROUPS/user/deleg/$file"
done
run user/deleg/start --uid 1000 --cgroup user/deleg/precious --comm sshd sleeper --size 12M
attacker=$started
run user/deleg/start --uid 1000 --cgroup user/deleg/app --set memory.min=max sleeper --size 1M
run user/kept sleeper --size 6M
step soon ranked '[0-9]+' /user/deleg/precious 500

# A process that is never killed, with and without others in its cgroup.
run system.slice/mysql.service --comm mysqld sleeper --size 12M
run openrc.sshd --comm sshd sleeper --size 2M
run apps/own --oom-score-adj -1000 sleeper --size 12M
run services/dropbear --comm dropbear sleeper --size 2M
dropbear=$started
run services/dropbear --comm '%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c%5c' sleeper --size 9M
run services/asterisk/instance1 --comm asterisk sleeper --size 12M
asterisk=$started
run services/asterisk/instance1 --comm helper sleeper --size 3M
step soon ranked - /system.slice/mysql.service never
step ranked - /openrc.sshd never
step ranked - /apps/own never
step ranked - "$dropbear (dropbear) of /services/dropbear" never
step ranked '[0-9]+' '(\\\\\\\\\\\\\\\\\\\\\\\\\\\\\\) of /services/dropbear' 500
step ranked - "$asterisk (asterisk) of /services/asterisk" never
step ranked '[0-9]+' '(helper) of /services/asterisk' 500

# The kernel's own order follows, ends where the process goes, and goes with the agent.
start_agent "$CONFIG"
step soon adj_is "$dropbear" -699
step soon min_is user 4194304
step adj_is "$attacker" 0
step min_is user/deleg/app max
run services/dropbear --comm opkg hog --rate 20M --cap 400M
hog=$started
step soon has_ended "$hog"
step kill -0 "$dropbear"
step kill -0 "$asterisk"
echo "$dropbear" > "$CGROUPS/user/deleg/start/cgroup.procs"
mkdir "$CGROUPS/apps/born"
step soon adj_is "$dropbear" -699
end_agent TERM
step adj_is "$dropbear" 0
step min_is user 0
