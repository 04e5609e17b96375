#!/bin/sh
# What else a user could try so as not to be the victim, or to have another one; and what root's own
# processes do that changes who they are. Each time something grows, and it goes, alone.

# GROWS is several words.
# shellcheck disable=SC2086
# shellcheck source=guest/tests/device.sh
. "${0%/*}/device.sh"

make() {
	lowtide-guest as --cgroup "$@" &
	started=$!
}

has_ended() {
	! kill -0 "$1" 2> /dev/null
}

is_shielded() {
	[ "$(cat "/proc/$1/oom_score_adj")" -le -500 ]
}

adj_is() {
	[ "$(cat "/proc/$1/oom_score_adj")" -eq "$2" ]
}

is_program() {
	[ "$(readlink "/proc/$1/exe")" = "$2" ]
}

is_called() {
	[ "$(cat "/proc/$1/comm")" = "$2" ]
}

# Its effective user.
is_user() {
	[ "$(awk '$1 == "Uid:" { print $3 }' "/proc/$1/status")" = "$2" ]
}

# It has gone, and what is to stay is there.
goes() {
	step soon has_ended "$1"
	for pid in $stay; do
		step kill -0 "$pid"
	done
}

GROWS="hog --rate 20M --cap 400M"
id="$(printf '%064d' 7)"
mkdir -p "/var/lib/docker/containers/$id"
echo '{"Name":"/broker"}' > "/var/lib/docker/containers/$id/config.v2.json"
make "docker/$id" sleeper --size 4M
stay=$started
make 'lxc.payload.brok%ff' sleeper --size 4M
stay="$stay $started"
bytes=$started
make system.slice/mysql.service --comm mysqld sleeper --size 4M
stay="$stay $started"
mysqld=$started
make apps/other sleeper --size 4M
other=$started
stay="$stay $other"
for cgroup in user/deleg user/deleg/start user/thread/inner; do
	mkdir -p "$CGROUPS/$cgroup"
done
for cgroup in user/deleg user/deleg/start user/thread user/thread/inner; do
	chown 1000 "$CGROUPS/$cgroup" "$CGROUPS/$cgroup"/cgroup.procs "$CGROUPS/$cgroup"/cgroup.subtree_control
done
start_agent "$CONFIG"
step soon is_shielded "$mysqld"
step soon is_shielded "$bytes"

# From a name of its own to one that is never killed, and back, while the agent runs.
user() {
	lowtide-guest exec user/deleg/start lowtide-guest as --uid 1000 --cgroup "$@" &
	started=$!
}
user user/deleg/plain $GROWS
sleep 0.5
mkdir "$CGROUPS/user/deleg/precious"
chown 1000 "$CGROUPS/user/deleg/precious" "$CGROUPS/user/deleg/precious/cgroup.procs"
echo "$started" > "$CGROUPS/user/deleg/precious/cgroup.procs" || true
goes "$started"

# A cgroup called as the container of another is, as Docker's and as LXC's.
user "user/deleg/docker-$id.scope" $GROWS
goes "$started"
user user/deleg/lxc.payload.broker $GROWS
goes "$started"

# A cgroup that has the marks of systemd, and belongs to the user.
lowtide-guest exec user/marked lowtide-guest as --uid 1000 $GROWS &
goes "$!"

# Deeper than a path can be long.
deep() {
	name="$(printf '%0200d' 1)"
	cd -P "$CGROUPS/user/deleg" || return
	for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22; do
		mkdir -p "$name"
		echo +memory > cgroup.subtree_control
		cd -P "$name" || return
	done
	echo 0 > cgroup.procs
	cd / && exec lowtide-guest as --uid 1000 $GROWS
}
deep &
goes "$!"

# In a cgroup for threads, which can be neither read nor killed as others are.
echo threaded > "$CGROUPS/user/thread/inner/cgroup.type"
lowtide-guest exec user/thread lowtide-guest as --uid 1000 $GROWS &
started=$!
echo "$started" > "$CGROUPS/user/thread/inner/cgroup.threads" || true
goes "$started"

# Root of a user namespace of its own, with a program that has the place of one of the system's there.
mkdir -p /usr/sbin /tmp/user
cp /bin/lowtide-guest /tmp/user/modemd
touch /usr/sbin/modemd
chmod 755 /tmp/user /tmp/user/modemd
echo user:x:1000:1000::/:/bin/sh > /etc/passwd
cat > /tmp/user/run <<-END
	mount --bind /tmp/user/modemd /usr/sbin/modemd
	exec /usr/sbin/modemd as --comm mysqld $GROWS
END
lowtide-guest exec user/deleg/start busybox su -s /bin/sh user -c 'exec busybox unshare -U -r -m sh /tmp/user/run' &
started=$!
step soon is_program "$started" /usr/sbin/modemd
goes "$started"

# A setuid program of root's, started by another name.
cp /bin/lowtide-guest /usr/sbin/setuid
chmod 4755 /usr/sbin/setuid
ln -s /usr/sbin/setuid /tmp/user/mysqld
lowtide-guest exec user/deleg/start busybox su -s /bin/sh user -c "exec /tmp/user/mysqld $GROWS" &
started=$!
step soon is_called "$started" mysqld
step is_user "$started" 0
goes "$started"

# One that was shielded becomes another program: what it is called now counts, a second after memory has
# woken the agent at the latest. Until then another one would go.
kill -KILL "$other"
stay="$mysqld $bytes"
lowtide-guest exec services/mixed sh -c '
	echo mysqld > /proc/self/comm
	sleep 3
	exec lowtide-guest hog --rate 20M --cap 400M
' &
started=$!
step soon is_shielded "$started"
goes "$started"
end_agent TERM
