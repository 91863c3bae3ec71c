#!/bin/bash
# fallthru boot: a module for dracut, with what a boot with fallthru=... takes.
# shellcheck disable=SC2154  # moddir and hostonly are dracut's

tools="mount umount losetup blkid blockdev getfattr setfattr readlink rm e2fsck"

check() {
	# shellcheck disable=SC2086
	require_binaries $tools
}

depends() {
	echo fs-lib
}

installkernel() {
	# Not only what this machine has mounted now.  erofs and ext4 look their checksum up by
	# name, which is no dependency that depmod sees.
	hostonly='' instmods overlay loop squashfs erofs isofs ext4 xfs btrfs f2fs \
		crc32c crc32c_generic
}

install() {
	local tool
	for tool in $tools; do
		inst "$(command -v "$tool")" "/usr/lib/fallthru/bin/$tool"
	done
	inst "$moddir/mount-root" /usr/lib/fallthru/mount-root
	inst "$moddir/profiles" /usr/lib/fallthru/profiles
	inst_hook cmdline 20 "$moddir/cmdline.sh"
	inst_hook mount 20 "$moddir/mount.sh"
}
