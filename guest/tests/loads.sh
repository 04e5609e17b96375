#!/bin/sh
# What the loads are asked to be, the kernel shows of them.

# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

# Starts a load in the background; its pid is $load.
load() {
	rm -f /run/reports
	lowtide-guest "$@" > /run/reports &
	load=$!
}

# A line of a file of the load's in /proc.
shows() {
	grep -qE "$2" "/proc/$load/$1"
}

end() {
	kill -KILL "$load"
	wait "$load" 2> /dev/null || true
}

reports() {
	grep -q "$1" /run/reports 2> /dev/null
}

in_cgroup() {
	grep -q . "$CGROUPS/$1/cgroup.procs"
}

has_all_of() {
	[ "$(stat -c %u "$CGROUPS/$1")" -eq "$2" ] && [ "$(stat -c %u "$CGROUPS/$1/cgroup.procs")" -eq "$2" ] &&
		[ "$(stat -c %u "$CGROUPS/$1/memory.max")" -eq "$3" ]
}

load as --oom-score-adj 500 --mlock sleeper --size 4M
step soon reports '"bytes":4194304'
step shows oom_score_adj '^500$'
step shows status '^VmLck:	 *[4-9][0-9]{3} kB'
end

load as --ignore-term --comm 'a%5c%ff%0ab' sleeper --size 1M
step soon reports '"bytes"'
step [ "$(od -An -tx1 "/proc/$load/comm" | tr -d ' ')" = 615cff0a620a ]
kill -TERM "$load"
sleep 0.2
step shows status '^State:	S'
end

load as --leader-ends sleeper --size 4M
step soon reports '"bytes"'
step soon shows status '^State:	Z'
step fails shows status '^VmRSS'
for thread in /proc/"$load"/task/*; do
	[ "${thread##*/}" = "$load" ] || step grep -qE '^VmRSS:	 *[4-9][0-9]{3} kB' "$thread/status"
done
end

step has_all_of user/own 1000 0
# As with a session's manager, which root puts there.
rm /run/reports
lowtide-guest exec user/own/init lowtide-guest as --uid 1000 --cgroup user/own/app --set memory.min=max \
	sleeper --size 1M > /run/reports &
load=$!
step soon reports '"bytes"'
step shows status '^Uid:	1000	1000	1000	1000$'
step shows cgroup '^0::/user/own/app$'
step is user/own/app/memory.min max
step has_all_of user/own/app 1000 1000
end

load as --cgroup 'odd/a%ff%1b[m' sleeper --size 1M
step soon reports '"bytes"'
step in_cgroup "odd/$(printf 'a\377\033[m')"
end

load workers --count 3 --cgroup 'apps/w{}' sleeper --size 1M
step soon reports '"full"'
for worker in 1 2 3; do
	step soon in_cgroup "apps/w$worker"
done
echo 1 > "$CGROUPS/apps/w2/cgroup.kill"
step soon reports '"ended","number":2,"code":null,"signal":9'
for worker in 1 3; do
	step in_cgroup "apps/w$worker"
	echo 1 > "$CGROUPS/apps/w$worker/cgroup.kill"
done
end

load supervise --cgroup 'apps/app-{}.scope' --delay-ms 100 --count 2 sleeper --size 1M
for run in 1 2; do
	step soon in_cgroup "apps/app-$run.scope"
	echo 1 > "$CGROUPS/apps/app-$run.scope/cgroup.kill"
done
step soon reports '"full"'
step fails [ -d "$CGROUPS/apps/app-1.scope" ]
end

load tmpfs --rate 100M --cap 2M --file /tmp/left
step soon reports '"full"'
end
step [ "$(stat -c %s /tmp/left)" -eq $((2 << 20)) ]

load kernel-leak --rate 40M --cap 8M
step soon reports '"full"'
step grep -qE '^HugePages_Total: +4$' /proc/meminfo
end

mkdir "$CGROUPS/churn"
load churn --rate 100 --count 5
sleep 1
end
made="$(find "$CGROUPS/churn" -mindepth 1 -type d | sed 's|.*/||' | sort -n | tail -n 1)"
echo "$made made in a second"
step [ "$made" -ge 50 ]
step [ "$made" -le 150 ]
