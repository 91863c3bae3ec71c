#!/bin/sh
# fallthru boot: mounts the root that fallthru=... describes; sourced by dracut.
if /usr/lib/fallthru/mount-root asked && ! ismounted "${NEWROOT?}"; then
	until /usr/lib/fallthru/mount-root mount "$NEWROOT"; do
		warn "fallthru could not mount the root.  Leave this shell to try again."
		emergency_shell
	done
fi
