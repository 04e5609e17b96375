#!/bin/sh
# Run on an OpenWrt image after the package is installed: $1 is its name.

[ "$1" = lowtide ] || exit 0

# What the package installs as defaults makes a config that can be used.
rendered=/tmp/lowtide-uci.toml
/usr/lib/lowtide/lowtide-uci > "$rendered" || exit 1
lowtide check --offline "$rendered" || exit 1

for profile in /usr/lib/lowtide/profiles/*.toml; do
	lowtide check --offline "$profile" || exit 1
done
