/*
 * Keeps superblocks read-only while overlays rely on them (document L263-L268).
 *
 * Needs BPF LSM (5.7; "bpf" among the active ones) and trampolines.
 *
 * Every remount, by mount(2) or fsconfig(2), passes reconfigure_super(), where
 * security_sb_remount() may refuse, but is not told which way it goes: that is in the
 * context its caller has.  btrfs becomes read-write by a further mount, too, and asks nobody:
 * the last who may refuse before that is security_sb_set_mnt_opts(), in a vfs_get_tree() of
 * its own, read-only, inside that of the new mount.  So it is noted for each thread whether
 * it is about to make something writable.
 */

#define EPERM 1
#define SB_RDONLY 1

/* s_dev -> how often it was refused to become writable. */
BPF_TABLE("hash", u32, u64, kept, KEPT_MAX);

/* Thread -> the outermost context in which it makes something writable. */
BPF_TABLE("hash", u32, u64, writers, 4096);

static __always_inline int enter(struct k_fs_context *fc, u32 meant)
{
    u32 thread = bpf_get_current_pid_tgid();
    u64 context = (u64)fc;

    if (meant & ~fc->sb_flags & SB_RDONLY)
        writers.insert(&thread, &context);
    return 0;
}

static __always_inline int leave(struct k_fs_context *fc)
{
    u32 thread = bpf_get_current_pid_tgid();
    u64 *context = writers.lookup(&thread);

    if (context && *context == (u64)fc)
        writers.delete(&thread);
    return 0;
}

static __always_inline int judge(struct k_super_block *sb)
{
    u32 thread = bpf_get_current_pid_tgid(), dev = sb->s_dev;
    u64 *refused = kept.lookup(&dev);

    if (!refused || !writers.lookup(&thread))
        return 0;
    lock_xadd(refused, 1);
    return -EPERM;
}

KFUNC_PROBE(reconfigure_super, struct k_fs_context *fc)
{
    return enter(fc, fc->sb_flags_mask);
}

KRETFUNC_PROBE(reconfigure_super, struct k_fs_context *fc, int ret)
{
    return leave(fc);
}

KFUNC_PROBE(vfs_get_tree, struct k_fs_context *fc)
{
    return enter(fc, SB_RDONLY);
}

KRETFUNC_PROBE(vfs_get_tree, struct k_fs_context *fc, int ret)
{
    return leave(fc);
}

LSM_PROBE(sb_remount, struct k_super_block *sb, void *options)
{
    return judge(sb);
}

LSM_PROBE(sb_set_mnt_opts, struct k_super_block *sb, void *options)
{
    return judge(sb);
}

/* Its number may be given to another file system from here on. */
LSM_PROBE(sb_delete, struct k_super_block *sb)
{
    u32 dev = sb->s_dev;

    kept.delete(&dev);
    return 0;
}
