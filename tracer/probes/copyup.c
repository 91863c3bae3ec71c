/* One copyup, from the first sign of the new inode until it has its place. */

static __always_inline int in_copyup_code(u64 at)
{
#define IN_RANGE(N) (at >= CONSTANT(C_RANGES + 2 * (N)) && at < CONSTANT(C_RANGES + 2 * (N) + 1))
    return IN_RANGE(0) || IN_RANGE(1) || IN_RANGE(2) || IN_RANGE(3) || IN_RANGE(4) || IN_RANGE(5);
}

static __always_inline int frames_copy_up(struct scratch *buf, int first, int got)
{
    NO_UNROLL
    for (int i = first; i < MAX_FRAMES; i++) {
        if (i * 8 >= got)
            break;
        if (in_copyup_code(buf->stack[i]))
            return 1;
    }
    return 0;
}

static __always_inline int copying_up(void *ctx)
{
    struct scratch *buf = room(P_COPYUP);
    if (!buf)
        return 0;
    /* Unwinding costs per frame.  A copyup's first sign comes from close by. */
    int got = bpf_get_stack(ctx, buf->stack, NEAR_FRAMES * 8, 0);
    if (frames_copy_up(buf, 0, got))
        return 1;
    if (got < NEAR_FRAMES * 8)
        return 0;
    got = bpf_get_stack(ctx, buf->stack, MAX_FRAMES * 8, 0);
    return frames_copy_up(buf, NEAR_FRAMES, got);
}

static __always_inline u64 dirtied_now(u64 task)
{
#ifdef HAVE_IOAC
    return READ(task_struct, task, ioac_write_bytes);
#else
    return 0;
#endif
}

static __always_inline void measure(struct span *s, u64 task)
{
    s->rec.size = READ(inode, s->inode, i_size);
    s->rec.blocks = READ(inode, s->inode, i_blocks) - s->blocks_base;
    s->rec.mode = READ(inode, s->inode, i_mode);
    s->rec.pages = READ(inode, s->inode, i_data_nrpages) - s->pages_base;
    s->rec.dirtied = dirtied_now(task) - s->dirtied_base;
}

/* Whether the copyup of `s` may still go on: what it was making is still in the making. */
static __always_inline int goes_on(struct span *s)
{
    u64 cred = s->cred;
    struct mount *m = mounts.lookup(&cred);
    return m && in_the_making(s->inode, READ(inode, s->inode, i_mode), m, 1);
}

/* Complete, if the inode has a name in directory `dir` (0: wherever) below the top's root. */
static __always_inline int finish(struct span *s, struct mount *m, u64 dir, u64 now, u64 task,
                                  int place)
{
    u64 dentry = alias_in(s->inode, dir, m);
    if (!dentry || !take_path(&s->rec, dentry, m->root, place))
        return 0;
    s->rec.end = now;
    s->rec.flags |= F_DONE;
    measure(s, task);
    return 1;
}

static __always_inline void end_sync(struct span *s, u64 now)
{
    if (s->sync_start) {
        s->rec.sync += now - s->sync_start;
        s->sync_start = 0;
    }
}

/* Something happened to the inode that is being copied up. */
static __always_inline void progress(struct span *s, u64 now, int dirty)
{
    if (dirty && !s->rec.create_end)
        s->rec.create_end = now; /* d_tmpfile(): it exists */
    u64 size = READ(inode, s->inode, i_size);
    if (size > s->rec.size) {
        s->rec.size = size;
        s->rec.data_end = now;
    }
    /* xfs and btrfs have no tracepoint at the end of fsync.  What comes next is the
     * metadata, which changes ctime; dirtying happens within fsync too. */
    if (!dirty)
        end_sync(s, now);
    if (!s->rec.link_start)
        s->last_inode = now;
}

/* What the inode would be the beginning of, in the flags of a span; ~0: of nothing. */
static __always_inline u32 beginning(struct mount *m, u64 inode, u32 mode, int dirty)
{
    u32 flags = m->metacopy ? F_METACOPY : 0;
    /* tmpfs's own first sign of a regular file; its copyup is known by the next, d_tmpfile(). */
    if (m->magic == TMPFS_MAGIC && !dirty && IS_REG(mode) && !READ(inode, inode, i_dentry_first)) {
        take_hint();
        return ~0U;
    }
    if (!in_the_making(inode, mode, m, dirty)) {
        if (!IS_REG(mode) || !m->metacopy || !READ(inode, inode, i_dentry_first))
            return ~0U;
        flags |= F_DATA_ONLY;
    } else if (never_a_copy(inode, mode, m)) {
        return ~0U;
    }
    /* Unwinding the stack is half the cost of a small copyup's span, and one kind of
     * beginning needs no look at it: d_tmpfile(), called with the mounter's credentials.
     * (O_TMPFILE through the union has others, made for it.)  What else has no link and
     * no dentry, such as a large xattr's inode that is dropped, never gets a name. */
    if (IS_REG(mode) && !READ(inode, inode, i_dentry_first))
        flags |= F_UNSEEN;
    return flags;
}

/* Begin the span of a copyup, at the place `s` of the thread, if it has one: in which may be
 * what it copied up last. */
static __always_inline void start(void *ctx, u64 task, u64 cred, struct mount *m, u64 inode, u64 now,
                                  int dirty, u32 mode, struct scratch *buf, struct span *s)
{
    u32 tid = thread(), flags = buf->flags;
    u64 id = next_number(ST_IDS) + 1;
    if (!s) {
        buf->span.idle = 1;
        if (spans.update(&tid, &buf->span)) {
            count(ST_LOST);
            return;
        }
        s = spans.lookup(&tid);
        if (!s)
            return;
    }
    if (!s->idle && s->rec.flags & F_DONE) {
        /* A parent directory that went up in this same call: its own copyup worked. */
        if (IS_DIR(s->rec.mode))
            s->rec.parent = id;
        send(s);
    } else if (!s->idle) {
        count(ST_UNMATCHED);
    }
    s->idle = 0;
    s->inode = inode;
    s->cred = cred;
    s->last_inode = now;
    s->sync_start = 0;
    s->dirtied_base = dirtied_now(task);
    s->blocks_base = flags & F_DATA_ONLY ? READ(inode, inode, i_blocks) : 0;
    s->pages_base = flags & F_DATA_ONLY ? READ(inode, inode, i_data_nrpages) : 0;
    describe_as(&s->rec, id, m, now);
    u64 *hint = hints.lookup(&tid);
    if (hint && *hint && !(flags & F_DATA_ONLY) && (m->magic != TMPFS_MAGIC || IS_REG(mode)))
        s->rec.start = *hint;
    if (hint)
        *hint = 0; /* the next one's beginning may not be seen */
    s->rec.flags = flags;
    s->rec.create_end = dirty ? now : 0;
    s->rec.size = READ(inode, inode, i_size);
    s->rec.mode = mode;
    s->rec.stack = caller_stack(ctx);
}

/* The inode goes.  If it was to become a file in the top, its copyup has failed: overlayfs
 * closes the O_TMPFILE when it gives up, and what is closed by a system call is let go of
 * on the way back to user space, when the call's result is known. */
static __always_inline int dropped(u64 inode)
{
    u32 tid = thread();
    struct span *s = current_span(tid);
    if (!s || s->inode != inode || s->rec.flags & F_DONE)
        return 0;
    if (is_worker(s->rec.nr)) {
        count(ST_UNMATCHED);
    } else {
        s32 ret = SYSCALL_RESULT(bpf_task_pt_regs(bpf_get_current_task_btf()));
        if (ret < 0) {
            s->rec.ret = ret;
            s->rec.end = bpf_ktime_get_ns();
            s->rec.flags |= F_MISSED; /* what had been copied is gone, too */
            send(s);
        } else if (!(s->rec.flags & F_UNSEEN)) {
            count(ST_UNMATCHED);
        }
    }
    leave_span(s, tid);
    return 0;
}

/* Something in a file system changed.  Most of what comes here is not ours, and most of
 * the rest is more about an inode that is known to be copied up: both leave early.  What costs
 * the verifier most, the look at the stack and the walk to the root, is there once. */
static __always_inline int changed(void *ctx, u64 inode, int dirty)
{
    u64 cred = overriding_cred();
    if (!cred) /* the truncation of what tmpfs lets go of is a change, too */
        return READ(inode, inode, i_nlink) ? 0 : dropped(inode);
    u32 tid = thread();
    struct span *place = spans.lookup(&tid), *s = place && !place->idle ? place : 0;
    int open = s && s->cred == cred && !(s->rec.flags & F_DONE);
    int own = s && s->cred == cred && s->inode == inode;
    if (own && open && !(s->rec.flags & F_DATA_ONLY)) {
        progress(s, bpf_ktime_get_ns(), dirty);
        return 0;
    }
    /* Once it is complete, the system call does to it what it was made for; unless it is a
     * directory that is marked as the parent of what goes up next. */
    int parent = own && !open;
    if (parent && !IS_DIR(s->rec.mode))
        return 0;
    if (!open && !parent && filtered_out())
        return 0;
    struct mount *m = mounts.lookup(&cred);
    if (!m || READ(inode, inode, i_sb) != m->top_sb)
        return 0;
    u32 mode = READ(inode, inode, i_mode);
    if (open && inode == m->work_inode) {
        if (!s->rec.create_end)
            s->rec.create_end = bpf_ktime_get_ns();
        return 0;
    }
    struct scratch *buf = room(P_COPYUP);
    if (!buf)
        return 0;
    buf->dir = buf->flags = 0;
    if (open && !own && IS_DIR(mode) && READ(inode, inode, i_dentry_first) &&
        !(s->rec.flags & F_DATA_ONLY)) {
        buf->dir = inode;
    } else if (!own) {
        buf->flags = beginning(m, inode, mode, dirty);
        if (buf->flags == ~0U)
            return 0;
    }
    buf->look = !buf->dir && !(buf->flags & F_UNSEEN);
    FORGET();
    u64 dir = buf->dir;
    if (buf->look) {
        int within = copying_up(ctx);
        if (s && s->inode == inode && s->cred == cred) {
            if (s->rec.flags & F_DONE) {
                if (!within) {
                    send(s);
                    leave_span(s, tid);
                }
            } else if (within) {
                /* Data for a stub: over when the system call goes on to what it was made for. */
                s->rec.end = bpf_ktime_get_ns();
            } else {
                s->rec.flags |= F_DONE;
                measure(s, bpf_get_current_task());
            }
            return 0;
        }
        if (!within)
            return 0;
    }
    /* Is it still the union that it was? */
    if (!dir && (READ(super_block, m->sb, s_fs_info) != m->ofs ||
                 READ(ovl_fs, m->ofs, creator_cred) != cred))
        return 0;
    u64 task = bpf_get_current_task();
    u64 now = bpf_ktime_get_ns();
    if (s && !(s->rec.flags & F_DONE)) {
        if (dir) {
            if (!s->rec.link_start)
                s->rec.link_start = s->last_inode;
            end_sync(s, now);
        }
        /* In its place, and that directory's time stamps are restored.  Without the ctime
         * tracepoints nothing told before the next copyup begins. */
        int whole = finish(s, m, dir, now, task, P_COPYUP);
        if (dir) {
            /* Who a directory went up for is known when the next copyup begins; of a stub
             * the same call may need the data, too. */
            if (whole && (is_worker(s->rec.nr) || !(IS_DIR(s->rec.mode) || m->metacopy))) {
                send(s);
                leave_span(s, tid);
            }
            return 0;
        }
        if (!whole && !is_worker(s->rec.nr) && goes_on(s))
            return 0; /* one thing at a time */
    }
    start(ctx, task, cred, m, inode, now, dirty, mode, buf, place);
    return 0;
}
