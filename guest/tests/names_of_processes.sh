#!/bin/sh
# Without cgroups to choose from: what a process calls itself protects one of root's, and no other.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

start() {
	lowtide-guest as "$@" &
	started=$!
}

adj_is() {
	[ "$(cat "/proc/$1/oom_score_adj")" -eq "$2" ]
}

is_shielded() {
	[ "$(cat "/proc/$1/oom_score_adj")" -le -500 ]
}

has_ended() {
	! kill -0 "$1" 2> /dev/null
}

start --comm sshd sleeper --size 3M
sshd=$started
start --comm 'ip%e2%80%a6%e2%80%a6%e2%80%a6%e2%80%a6%e2' sleeper --size 3M
cut=$started
start --oom-score-adj -1000 sleeper --size 3M
own=$started
start --comm served sleeper --size 10M
served=$started
start --uid 1000 --comm sshd sleeper --size 3M
attacker=$started
start --uid 33 --comm kept sleeper --size 3M
kept=$started
start_agent "$CONFIG"
for pid in $sshd $cut $kept; do
	step soon is_shielded "$pid"
done
step adj_is "$attacker" 0
step adj_is "$served" -399
step adj_is "$own" -1000

start --uid 1000 --comm sshd hog --rate 20M --cap 400M
step soon has_ended "$started"
for pid in $sshd $cut $own $served $attacker $kept; do
	step kill -0 "$pid"
done
end_agent TERM
step adj_is "$sshd" 0
