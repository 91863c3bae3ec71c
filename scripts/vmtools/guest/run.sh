# Runs one job in a guest whose root, /proc, /sys and /dev are there: sourced by both inits.
# $job is the job's directory, writable; its files are described in ../jobs.py.

mkdir -p /dev/shm /dev/pts /run/home
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
hostname guest 2>/dev/null
ip link set lo up 2>/dev/null
# Their device nodes appear with the modules; without udev nothing else loads them.
read -r modprobe </proc/sys/kernel/modprobe
for module in overlay loop fuse; do
    "$modprobe" -q "$module"
done

/bin/sh "$job/command" >"$job/stdout" 2>"$job/stderr" </dev/null
echo $? >"$job/status.new"
mv "$job/status.new" "$job/status"
sync
