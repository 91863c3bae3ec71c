#!/bin/sh
# fallthru boot: with fallthru=... on the command line, mount.sh mounts the root; sourced by dracut.
if /usr/lib/fallthru/mount-root asked; then
	# shellcheck disable=SC2034  # dracut reads them
	root=fallthru rootok=1
	/usr/lib/fallthru/mount-root devices >/run/fallthru.devices
	while read -r device; do
		wait_for_dev "$(label_uuid_to_dev "$device")"
	done </run/fallthru.devices
	rm -f /run/fallthru.devices
fi
