# Runs jobs in a guest whose root, /proc, /sys and /dev are there: sourced by both inits.
# $job is a job's directory, writable; its files are described in ../jobs.py.

mkdir -p /dev/shm /dev/pts /run/home
mount -t devpts devpts /dev/pts 2>/dev/null
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
hostname guest 2>/dev/null
# Roots need not have ip(8), as the machine of user-mode Linux.
/run/tree/busybox ip link set lo up
# Their device nodes appear with the modules; without udev nothing else loads them.
read -r modprobe </proc/sys/kernel/modprobe
for module in overlay loop fuse; do
    "$modprobe" -q "$module"
done

# perform DIRECTORY [WRAPPER...]: the job there, its exit code last.
perform() {
    directory=$1
    shift
    "$@" /bin/sh "$directory/command" >"$directory/stdout" 2>"$directory/stderr" </dev/null
    echo $? >"$directory/status.new"
    mv "$directory/status.new" "$directory/status"
}

if [ -e "$job/serve" ]; then
    # One command after another (../serving.py): each with mounts of its own, fresh scratch
    # directories, and no process of those before.  The host ends the machine.
    mkdir -p /run/fallthru /run/checkout
    mount --bind "$vm_checkout" /run/checkout
    fresh='for place in /tmp /var/tmp /dev/shm /run/home /run/fallthru; do
        mount -t tmpfs -o mode=1777 tmpfs "$place" || exit 125
    done
    # That may have covered the checkout.
    if [ ! -d "$vm_checkout" ]; then
        mkdir -p "$vm_checkout" && mount --bind /run/checkout "$vm_checkout" || exit 125
    fi
    exec "$@"'
    number=1
    while :; do
        if [ -e "$job/$number/command" ]; then
            perform "$job/$number" unshare --mount --propagation private sh -c "$fresh" sh
            kill -9 -1 2>/dev/null
            number=$((number + 1))
        else
            sleep 0.05
        fi
    done
fi
perform "$job"
sync
