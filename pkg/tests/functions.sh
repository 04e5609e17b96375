# shellcheck shell=dash
# The part of OpenWrt's /lib/functions.sh that lowtide's scripts use, with its order of callbacks. A
# file in UCI's own format is a script of these calls.

config_cb() { :; }
option_cb() { :; }
list_cb() { :; }

config() {
	sections=$((sections + 1))
	CONFIG_SECTION="${2:-cfg$sections}"
	config_cb "$1" "$CONFIG_SECTION"
}

option() {
	export "CONFIG_${CONFIG_SECTION}_$1=$2"
	option_cb "$1" "$2"
}

list() {
	list_cb "$1" "$2"
}

config_load() {
	sections=0
	# shellcheck source=/dev/null
	. "/etc/config/$1"
	config_cb
}

config_get_bool() {
	eval "export $1=\"\${CONFIG_${2}_${3}:-$4}\""
}
