/* Which unions there are: found from the overlay file system's own list of superblocks.
 *
 * COPIED(), for READ() would save nothing that counts here, and cost the verifier twice the time. */

static __always_inline void announce(struct mount *m, int fresh)
{
    struct mount_record *r = ring.ringbuf_reserve(RECORD_SIZE);
    if (!r) {
        count(ST_LOST);
        return;
    }
    r->kind = REC_MOUNT;
    r->mount = m->number;
    r->dev = m->dev;
    r->top_dev = m->top_dev;
    r->metacopy = m->metacopy;
    r->pid = bpf_get_current_pid_tgid() >> 32;
    r->layers = COPIED(ovl_fs, m->ofs, numlayer);
    r->fresh = fresh;
    r->when = bpf_ktime_get_ns();
    u64 layers = COPIED(ovl_fs, m->ofs, layers);
    NO_UNROLL
    for (u32 i = 0; i < LAYER_NAMES; i++) {
        r->names[i][0] = 0;
        if (i < r->layers) {
            u64 mnt = COPIED(ovl_layer, layers + i * OVL_LAYER_SIZE, mnt);
            u64 sb = COPIED(vfsmount, mnt, mnt_sb);
            u64 type = COPIED(super_block, sb, s_type);
            bpf_probe_read_kernel_str(r->names[i], 16, (void *)COPIED(file_system_type, type, name));
        }
    }
    ring.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void announce_change(u32 mount)
{
    struct attach_record *r = ring.ringbuf_reserve(RECORD_SIZE);
    if (!r)
        return; /* a name may stay unknown; no copyup is lost */
    r->kind = REC_ATTACH;
    r->pid = bpf_get_current_pid_tgid() >> 32;
    r->when = bpf_ktime_get_ns();
    r->mount = mount;
    r->pad = 0;
    ring.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void examine(u64 sb, int fresh)
{
    struct mount made = {}, *m = &made;
    u64 ofs = COPIED(super_block, sb, s_fs_info);
    if (!ofs || !COPIED(super_block, sb, s_root))
        return;
    m->workdir = COPIED(ovl_fs, ofs, workdir);
    m->cred = COPIED(ovl_fs, ofs, creator_cred);
    if (!m->workdir || !m->cred)
        return; /* nothing can be copied up without a top */
    u64 mnt = COPIED(ovl_layer, COPIED(ovl_fs, ofs, layers), mnt);
    m->sb = sb;
    m->ofs = ofs;
    m->root = COPIED(vfsmount, mnt, mnt_root);
    m->top_sb = COPIED(vfsmount, mnt, mnt_sb);
    m->work_inode = COPIED(dentry, m->workdir, d_inode);
    m->dev = COPIED(super_block, sb, s_dev);
    m->top_dev = COPIED(super_block, m->top_sb, s_dev);
    m->magic = COPIED(super_block, m->top_sb, s_magic);
    m->metacopy = COPIED(ovl_fs, ofs, config_metacopy);
    m->tmpfile = COPIED(ovl_fs, ofs, tmpfile);
    struct mount *old = known.lookup(&sb);
    /* Memory is used again: the same addresses may mean another union. */
    if (old && old->ofs == ofs && old->cred == m->cred && old->root == m->root &&
        old->workdir == m->workdir && old->work_inode == m->work_inode && old->dev == m->dev)
        return;
    if (old) {
        u64 cred = old->cred;
        mounts.delete(&cred);
    }
    m->number = next_number(ST_MOUNTS);
    known.update(&sb, m);
    u32 dev = m->dev;
    if (CONSTANT(C_FILTERS) & FILTER_MOUNTS && !wanted.lookup(&dev))
        return;
    u64 cred = m->cred;
    mounts.update(&cred, m);
    announce(m, fresh);
}

/* Walk the superblocks of the overlay type, newest first; all of them in several calls
 * when user space asks, the newest few when somebody mounts something. */
static __always_inline void walk(int all)
{
    int key = ST_FS_TYPE;
    u64 *type = state.lookup(&key);
    int cursor_key = ST_CURSOR;
    u64 *cursor = state.lookup(&cursor_key);
    if (!type || !*type || !cursor)
        return;
    u64 node = all && *cursor ? *cursor : COPIED(file_system_type, *type, fs_supers_first);
    NO_UNROLL
    for (int i = 0; i < MAX_WALK; i++) {
        if (!node)
            break;
        examine(node - __builtin_offsetof(struct k_super_block, s_instances_next), !all);
        node = COPIED(hlist_node, node, next);
    }
    if (all)
        *cursor = node;
}

/* User space called fsopen("overlay"): what it got leads to the file system type. */
static __always_inline void learn_type(long fd)
{
    u64 fdt = COPIED(files_struct, COPIED(task_struct, bpf_get_current_task(), files), fdt);
    u64 file = 0;
    if (fd < 0 || fd >= COPIED(fdtable, fdt, max_fds))
        return;
    bpf_probe_read_kernel(&file, 8, (void *)COPIED(fdtable, fdt, fd) + fd * 8);
    u64 type = COPIED(fs_context, COPIED(file, file, private_data), fs_type);
    int key = ST_FS_TYPE;
    if (type)
        state.update(&key, &type);
}
