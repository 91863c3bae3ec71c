/* Names of inodes: whether one is being made by overlayfs, and its path in the top. */

/* A name of `inode` in the directory `dir` (0: any but the work directory): its dentry. */
static __always_inline u64 alias_in(u64 inode, u64 dir, struct mount *m)
{
    u64 node = READ(inode, inode, i_dentry_first);
    NO_UNROLL
    for (int i = 0; i < MAX_ALIASES; i++) {
        if (!node)
            break;
        u64 dentry = node - __builtin_offsetof(struct k_dentry, DENTRY_ALIAS);
        u64 parent = READ(dentry, dentry, d_parent);
        if (parent != dentry && parent != m->workdir &&
            (!dir || READ(dentry, parent, d_inode) == dir))
            return dentry;
        node = READ(hlist_node, node, next);
    }
    return 0;
}

/* Whether the inode may be one that overlayfs is making: in the work directory (O_TMPFILE
 * gives a nameless dentry there, too), or too new for a dentry: d_tmpfile() marks it dirty
 * with no link, others get their first ctime.
 *
 * Not to be mixed up with inodes that are being evicted, and those that file systems have
 * for their own use, which a copyup dirties, too (quota, large xattrs; the tree of btrfs,
 * whose mode is whatever the memory held before). */
static __always_inline int in_the_making(u64 inode, u32 mode, struct mount *m, int dirty)
{
    u64 node = READ(inode, inode, i_dentry_first);
    if (node)
        return READ(dentry, node - __builtin_offsetof(struct k_dentry, DENTRY_ALIAS),
                    d_parent) == m->workdir;
    if (!READ(inode, inode, i_count_counter))
        return 0;
    return dirty ? IS_REG(mode) && READ(inode, inode, i_nlink) == 0
                 : !IS_REG(mode) && (mode & S_IFMT);
}

/* Whether an inode in the making is certainly no copy, told without a look at the stack, which
 * would cost a package that is unpacked over files of the bottom a fifth of its time: a whiteout,
 * as one in the bottom is no file that could be copied up; and a file with a name from the
 * start, where the top has O_TMPFILE, of which ovl_do_copy_up() then makes every file. */
static __always_inline int never_a_copy(u64 inode, u32 mode, struct mount *m)
{
    if (!READ(inode, inode, i_dentry_first))
        return 0; /* its device number and links are not there yet */
    if ((mode & S_IFMT) == S_IFCHR)
        return !READ(inode, inode, i_rdev);
    return IS_REG(mode) && m->tmpfile && READ(inode, inode, i_nlink);
}

/* Puts the names from `dentry` up to the top's root into the record.  Returns whether
 * the root was reached. */
static __always_inline int take_path(struct span_record *rec, u64 dentry, u64 root, int place)
{
    struct scratch *buf = room(place);
    u32 off = 0;
    int reached = 0;
    if (!buf)
        return 0;
    NO_UNROLL
    for (int i = 0; i < MAX_DEPTH; i++) {
        if (dentry == root) {
            reached = 1;
            break;
        }
        u64 parent = READ(dentry, dentry, d_parent);
        if (parent == dentry || off > MAX_NAMES - 256)
            break;
        u32 len = READ(dentry, dentry, d_name_len) & 0xff;
        BOUND(off);
        bpf_probe_read_kernel(&buf->names[off], len, (void *)READ(dentry, dentry, d_name_name));
        off += len;
        BOUND(off);
        buf->names[off] = '/';
        off++;
        dentry = parent;
    }
    if (!reached)
        return 0;
    rec->path_len = off;
    bpf_probe_read_kernel(rec->path, PATH_IN_RECORD, buf->names);
    if (off <= PATH_IN_RECORD)
        return 1;
    rec->flags |= F_LONG_PATH;
    NO_UNROLL
    for (int i = 0; i < MAX_NAMES / CHUNK_BYTES + 1; i++) {
        u32 at = PATH_IN_RECORD + i * CHUNK_BYTES;
        if (at >= off || at > MAX_NAMES + 256 - CHUNK_BYTES)
            break;
        struct path_record *chunk = ring.ringbuf_reserve(RECORD_SIZE);
        if (!chunk)
            chunk = spare.ringbuf_reserve(RECORD_SIZE);
        if (!chunk) {
            count(ST_LOST);
            break;
        }
        chunk->kind = REC_PATH;
        chunk->number = i;
        chunk->id = rec->id;
        chunk->length = off - at;
        bpf_probe_read_kernel(chunk->path, CHUNK_BYTES, &buf->names[at]);
        ring.ringbuf_submit(chunk, BPF_RB_NO_WAKEUP);
    }
    return 1;
}
