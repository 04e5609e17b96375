#!/bin/sh
# The tarball of a release under BusyBox: installed and removed as docs/install.md says.

# shellcheck source=pkg/tests/steps.sh
. "${0%/*}/steps.sh"

# All that is there, and what is set on it.
state() {
	find /etc /usr -type f | sort
	cat /sys/fs/cgroup/*/memory.min /sys/fs/cgroup/*/memory.low /sys/fs/cgroup/*/memory.oom.group
	cat /proc/1/oom_score_adj /proc/sys/vm/watermark_boost_factor
}

# Only what the tarball brings is to be there.
rm /usr/bin/lowtide
state > /tmp/before
cd /tests || exit 1
step sh -e /tests/install.sh
step soon agents 1
step lowtide check --offline
step [ -e /usr/lib/lowtide/profiles/router.toml ]
step soon [ -e /run/lowtide/undo ]

step sh -e /tests/remove.sh
step agents 0
state > /tmp/after
step diff /tmp/before /tmp/after
