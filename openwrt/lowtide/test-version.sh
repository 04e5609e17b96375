#!/bin/sh
# Run on an OpenWrt image after the package is installed: $1 is its name, $2 its version. What is in
# /usr/libexec are scripts of rpcd and ubus, which have no version of their own.

[ "$1" = lowtide ] || exit 0

lowtide --version | grep -F "$2"
