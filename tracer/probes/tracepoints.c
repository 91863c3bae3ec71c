/* Copyups seen through raw tracepoints alone, for kernels without kprobes and trampolines.
 *
 * Needs: CAP_BPF and CAP_PERFMON (or root), BTF, a BPF ring buffer (5.8), bounded loops
 * (5.3), kernel addresses in /proc/kallsyms.
 * Hooks: writeback_mark_inode_dirty; from 6.13 inode_set_ctime_to_ts, ctime_ns_xchg and
 * ctime_xchg_skip (multigrain timestamps), which tell of every change of an inode, on
 * tmpfs too; cap_capable (6.14) for the moment creation begins; the fsync and reflink
 * tracepoints of ext4, f2fs, xfs and btrfs, and those for inodes that go;
 * percpu_alloc_percpu; sched_process_fork and _exit; sys_exit where it must be
 * (Probes.prepare_for()).
 *
 * How a copyup is told from everything else that goes on in the top's file system:
 *  1. overlayfs works on its layers with the credentials of whoever mounted it: the task's
 *     `cred` is then the very object the superblock holds in `creator_cred`.  One hash
 *     lookup by that pointer says which union this is, or that it is none.
 *  2. the inode is one in the making: in the work directory, or too new for a name.
 *  3. a function of fs/overlayfs/copy_up.c is on the kernel stack.  The first two keep this
 *     look rare, and d_tmpfile() with these credentials makes it needless.
 * It is complete when the new inode has a name below the top's root and overlayfs
 * restores the time stamps of that directory, its last act (ovl_copy_up_tmpfile(),
 * ovl_copy_up_workdir()).  The names between are then read: nothing can have moved yet.
 */

/* writeback_mark_inode_dirty(inode, flags), inode_set_ctime_to_ts(inode, pointer),
 * ctime_ns_xchg(inode, old ns, …), ctime_xchg_skip(inode, pointer).  One function serves
 * all, as compiling and verifying it is most of the time that starting takes; the flags
 * are small and never 0, and what else may look like them moves a phase's border only. */
HOOK(changed) { return changed(ctx, ctx->args[0], ctx->args[1] && ctx->args[1] < 0x10000); }

/* The work directory has mode 0: making something in it takes a capability, asked for as
 * the first step. */
HOOK(cap_capable)
{
    if (ctx->args[3] != CAP_DAC_OVERRIDE || !overriding_cred())
        return 0;
    take_hint();
    return 0;
}

HOOK(sync_enter)
{
    u32 tid = thread();
    struct span *s = current_span(tid);
    if (!s || s->rec.flags & F_DONE)
        return 0;
    u64 now = bpf_ktime_get_ns();
    progress(s, now, 1);
    s->sync_start = now;
    return 0;
}

HOOK(sync_exit)
{
    u32 tid = thread();
    struct span *s = current_span(tid);
    if (s && !(s->rec.flags & F_DONE))
        end_sync(s, bpf_ktime_get_ns());
    return 0;
}

HOOK(clone)
{
    u32 tid = thread();
    struct span *s = current_span(tid);
    if (s && !(s->rec.flags & F_DONE))
        s->rec.flags |= F_CLONED;
    return 0;
}

/* evict_inode() of the file system: ext4_evict_inode(inode) and the like. */
HOOK(evicted) { return dropped(ctx->args[0]); }

#ifdef HAVE_XFS
/* xfs_destroy_inode(ip): the inode is a part of its own. */
HOOK(xfs_evicted) { return dropped(ctx->args[0] + __builtin_offsetof(struct k_xfs_inode, i_vnode)); }
#endif

/* A mount is made: vfs_create_mount() gives each its counters, when its superblock is whole. */
HOOK(percpu_alloc)
{
    u32 nr = SYSCALL_NR(bpf_task_pt_regs(bpf_get_current_task_btf()));
    if (nr == NR_MOUNT || nr == NR_FSMOUNT)
        walk(0);
    return 0;
}

/* User space asks which unions there are, with fsopen("overlay"). */
HOOK(fsopened)
{
    if (SYSCALL_NR(ctx->args[0]) == NR_FSOPEN &&
        bpf_get_current_pid_tgid() >> 32 == CONSTANT(C_OWN_PID)) {
        learn_type(ctx->args[1]);
        walk(1);
    }
    return 0;
}

HOOK(sys_exit)
{
    u64 regs = ctx->args[0];
    long ret = ctx->args[1];
    u32 nr = SYSCALL_NR(regs);
    u32 tid = thread();
    if (nr == NR_FSCONFIG || nr == NR_MOUNT)
        walk(0);
    int changes = nr == NR_MOUNT || nr == NR_MOVE_MOUNT || nr == NR_UMOUNT ||
                  (nr == NR_FSCONFIG && (u32)SYSCALL_ARG1(regs) == FSCONFIG_CMD_RECONFIGURE);
    if (changes && ret == 0)
        announce_change(~0U);
    struct span *s = current_span(tid);
    if (!s)
        return 0;
    u64 task = bpf_get_current_task();
    u64 cred = s->cred;
    struct mount *m = mounts.lookup(&cred);
    u64 end = s->rec.end;
    int whole = s->rec.flags & F_DONE && !(s->rec.flags & F_DATA_ONLY);
    if (!whole) {
        int data_only = s->rec.flags & F_DATA_ONLY;
        u64 now = bpf_ktime_get_ns();
        /* Without the ctime tracepoints nothing tells where a stub's copying ends. */
        if (data_only && end == s->rec.start)
            s->rec.flags |= F_UNSEEN;
        if (m && finish(s, m, 0, s->rec.flags & F_UNSEEN || !data_only ? now : end, task, P_END)) {
            whole = 1;
        } else {
            measure(s, task);
            if (ret < 0 && !data_only) {
                s->rec.end = now;
                s->rec.ret = (s32)ret;
                whole = 1;
            }
        }
    }
    if (whole)
        send(s);
    else if (!(s->rec.flags & F_UNSEEN) && !only_linked(s))
        count(ST_UNMATCHED);
    leave_span(s, tid);
    return 0;
}
