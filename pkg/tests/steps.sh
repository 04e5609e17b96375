# shellcheck shell=dash
# For the tests beside it: ends with 1 at the first step that fails.

step() {
	if "$@"; then
		echo "ok: $*"
	else
		echo "failed: $*"
		exit 1
	fi
}

fails() {
	! "$@"
}

# Waits for it to hold, up to two minutes: a host that has much else to do is slow.
soon() {
	local tries=1200
	until "$@"; do
		[ "$tries" -gt 0 ] || return 1
		tries=$((tries - 1))
		sleep 0.1
	done
}

# So many agents run.
agents() {
	[ "$(pidof lowtide | wc -w)" -eq "$1" ]
}

# One agent runs, and not the one with this pid.
is_another() {
	agents 1 && [ "$(pidof lowtide)" != "$1" ]
}
