#!/bin/sh
# lowtide-uci and lowtide.procd under BusyBox with the real agent.

# shellcheck source=pkg/tests/steps.sh
. "${0%/*}/steps.sh"

UCI=/etc/config/lowtide
RENDERED=/run/lowtide/config.d/50-uci.toml
LOG=/tmp/messages

service() {
	sh /etc/rc.common /etc/init.d/lowtide "$1"
}

tells_procd() {
	service start > /tmp/told
	grep -qxF "$1" /tmp/told
}

has() {
	grep -qxF "$1" "$RENDERED"
}

syslogd -O "$LOG"

# What the package installs.
step tells_procd 'param command /usr/bin/lowtide run'
step tells_procd 'param respawn 3600 1 0'
step tells_procd 'param reload_signal HUP'
step tells_procd 'trigger lowtide'
step grep -qw memory /sys/fs/cgroup/services/cgroup.subtree_control
step has 'processes = ["netifd", "dropbear", "dnsmasq", "odhcpd", "odhcp6c", "hostapd", "wpa_supplicant"]'
step lowtide check --offline "$RENDERED"
step soon agents 1
step soon grep -q 'lowtide.*woken by' "$LOG"
first="$(pidof lowtide)"

cat > "$UCI" << 'END'
config group 'media'
	option kill '900'
	option unit 'process'
	list cgroups 'services/minidlna'
	list cgroups 'with "quotes" and \'
	list processes 'minidlnad'
	list processes 'exe=/usr/bin/python3* user=0'
	list containers_add 'broker'

config lowtide 'main'
	option enabled '1'
	option profile 'router'

config wake
	option trigger 'full 25ms/500ms'

config level 'critical'
	option confirm_available_below '5%'
	option relief_available_above '11%'

config level 'strained'
	list confirm 'available_below=9% swap_free_below=10%'
	list confirm 'available_below=7%'
	list actions 'reclaim'

config engine
	option bpf_jit '0'

config limits
	option restarts '4'
END
cat > /tmp/wanted << 'END'
# From /etc/config/lowtide; written anew at each start and reload.
profile = "router"

[[group]]
name = "media"
kill = 900
unit = "process"
cgroups = ["services/minidlna", "with \"quotes\" and \\"]
processes = ["minidlnad", { exe = "/usr/bin/python3*", user = 0 }]
containers_add = ["broker"]

[wake]
trigger = "full 25ms/500ms"

[level.critical]
confirm.available_below = "5%"
relief.available_above = "11%"

[level.strained]
confirm = [{ available_below = "9%", swap_free_below = "10%" }, { available_below = "7%" }]
actions = ["reclaim"]

[engine]
bpf_jit = 0

[limits]
restarts = 4
END
step service reload
step diff /tmp/wanted "$RENDERED"
step soon grep -q 'lowtide.*reloaded' "$LOG"
step [ "$(pidof lowtide)" = "$first" ]

# A mistake goes to the log, and what was there stays.
sed -i "s/'900'/'lots'/" "$UCI"
step service reload
step diff /tmp/wanted "$RENDERED"
step soon grep -q 'lowtide.*lots' "$LOG"
step [ "$(pidof lowtide)" = "$first" ]

kill -KILL "$first"
step soon is_another "$first"

step service stop
step soon agents 0
step service start
step soon agents 1

sed -i "s/enabled '1'/enabled '0'/" "$UCI"
step fails tells_procd 'param command /usr/bin/lowtide run'
step soon agents 0
