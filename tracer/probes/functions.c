/* Copyups seen at the functions that do them, by trampolines or (KPROBES) by kprobes.
 *
 * Needs: what probes/tracepoints.c does, less the addresses; trampolines and
 * bpf_get_func_ret() (5.17), or kprobes.
 * Hooks: ovl_copy_up_start() and ovl_copy_up_end(), which stand around the copyup of one file
 * while its lock is held, and ovl_copy_up_flags(), which knows how it came out.  Between
 * them: ovl_copy_up_file() or ovl_copy_up_data(), and what overlayfs asks of the rest of the
 * kernel, which no compiler inlines: splicing, cloning, fsync, link and rename.  Which names
 * there are on which kernel is in tracer/hooks.py.
 */

static __always_inline struct span *last_span(void)
{
    u32 tid = thread();
    return spans.lookup(&tid);
}

/* S is the copyup that this thread is in; without one there is nothing to do.  A function that
 * gave it or 0 would become code that older verifiers cannot follow (6.1). */
#define CURRENT_COPYUP(S)                                                                        \
    struct span *S = last_span();                                                                \
    if (!S)                                                                                      \
        return 0;                                                                                \
    if (S->rec.flags & F_DONE)                                                                   \
        return 0

static __always_inline void begin(void *ctx, u64 dentry)
{
    struct mount *m = union_of(READ(dentry, dentry, d_sb));
    if (!m || filtered_out())
        return;
    u32 tid = thread();
    struct span *before = spans.lookup(&tid);
    if (before && !(before->rec.flags & F_DONE)) {
        if (before->inode == dentry)
            return; /* begun by this one's twin */
        if (before->cred != m->cred) {
            if (!was_done(&before->turns, T_NESTED))
                count(ST_UNMATCHED); /* a union that is another one's top */
            return;
        }
        count(ST_UNMATCHED); /* its end was missed */
        before = 0;
    }
    struct scratch *buf = room(P_COPYUP);
    if (!buf)
        return;
    struct span *s = &buf->span;
    u64 inode = READ(dentry, dentry, d_inode);
    s->inode = dentry;
    s->cred = m->cred;
    s->sync_start = s->inside = s->turns = 0;
    describe(&s->rec, m, bpf_ktime_get_ns());
    s->rec.mode = READ(inode, inode, i_mode);
    s->rec.flags = F_EXACT | (m->metacopy ? F_METACOPY : 0) | (upper_of(inode) ? F_DATA_ONLY : 0);
    s->rec.stack = caller_stack(ctx);
    s->rec.parent = operation_span();
    if (before) {
        /* A directory that went up in the same call, for the sake of this one. */
        before->rec.parent = s->rec.id;
        send(before);
    }
    if (spans.update(&tid, s))
        count(ST_LOST);
}

#ifdef KPROBES
/* Of those that are in a function at once, only some dozen returns are seen (kretprobe's
 * maxactive), and threads that wait for each other's copyup are many.  So nothing that must
 * not be missed hangs on a return: the copyup begins when the new file is made. */
ENTRY(start) { note(AT_START, ARG(1)); return 0; }

static __always_inline void begin_noted(void *ctx)
{
    u64 dentry = recall(AT_START);
    if (dentry)
        begin(ctx, dentry);
}

ENTRY(made) { begin_noted(ctx); return 0; }

ENTRY(flags)
{
    u32 tid = thread();
    struct span *left = spans.lookup(&tid);
    if (left) {
        if (left->rec.flags & F_DONE)
            send(left);
        else
            count(ST_UNMATCHED);
        spans.delete(&tid);
    }
    recall(AT_START);
    note(AT_FLAGS, ARG(1));
    return 0;
}
#else
/* 0: it is ours to copy up; 1: somebody else has done it; negative: interrupted. */
RETURN(start)
{
    if (!(s32)RESULT())
        begin(ctx, ARG(1));
    return 0;
}
#endif

ENTRY(data)
{
#ifdef KPROBES
    begin_noted(ctx); /* if there is no more to make: data for a stub */
#endif
    CURRENT_COPYUP(s);
    s->rec.flags |= F_COPIED;
    if (!s->rec.create_end)
        s->rec.create_end = bpf_ktime_get_ns();
    return 0;
}

RETURN(data)
{
    CURRENT_COPYUP(s);
    if (!s->rec.data_end)
        s->rec.data_end = bpf_ktime_get_ns();
    return 0;
}

#ifdef KPROBES
/* Whose return is missed, as may happen to kretprobes, is known by what was entered. */
static __always_inline int entered(void)
{
    CURRENT_COPYUP(s);
    s->inside++;
    return 0;
}
ENTRY(splice) { return entered(); }
ENTRY(clone) { return entered(); }
#define LEFT(S) S->inside--
#else
#define LEFT(S)
#endif

RETURN(splice)
{
    CURRENT_COPYUP(s);
    LEFT(s);
    s64 moved = RESULT();
    if (!was_done(&s->turns, T_SPLICE) && moved > 0) {
        s->rec.flags |= F_COPIED;
        s->rec.dirtied += moved;
    }
    return 0;
}

RETURN(clone)
{
    CURRENT_COPYUP(s);
    LEFT(s);
    if ((s64)RESULT() > 0)
        s->rec.flags |= F_CLONED;
    return 0;
}

ENTRY(sync)
{
    CURRENT_COPYUP(s);
    s->sync_start = bpf_ktime_get_ns();
    if (s->rec.flags & F_COPIED && !s->rec.data_end)
        s->rec.data_end = s->sync_start;
    return 0;
}

RETURN(sync)
{
    CURRENT_COPYUP(s);
    if (s->sync_start) {
        s->rec.sync += bpf_ktime_get_ns() - s->sync_start;
        s->sync_start = 0;
    }
    return 0;
}

/* The new file exists, in the work directory or without a name. */
RETURN(made)
{
    CURRENT_COPYUP(s);
    if (!s->rec.create_end)
        s->rec.create_end = bpf_ktime_get_ns();
    return 0;
}

/* The last link or rename puts it in its place; with an index there was one before. */
ENTRY(link)
{
    CURRENT_COPYUP(s);
    s->rec.link_start = bpf_ktime_get_ns();
    return 0;
}

ENTRY(end)
{
#ifdef KPROBES
    recall(AT_START);
#endif
    CURRENT_COPYUP(s);
    u64 dentry = ARG(1);
    if (s->inode != dentry)
        return 0;
    u64 inode = READ(dentry, dentry, d_inode);
    u64 upper = upper_of(inode);
    s->rec.end = bpf_ktime_get_ns();
    take_union_path(&s->rec, dentry, P_END);
#ifdef KPROBES
    if (s->inside || s->sync_start)
        s->rec.flags |= F_MISSED;
#endif
    if (upper) {
        u64 made = READ(dentry, upper, d_inode);
        s->rec.size = READ(inode, made, i_size);
        s->rec.blocks = READ(inode, made, i_blocks);
        if (!(s->rec.flags & F_DATA_ONLY))
            s->rec.flags |= F_DONE;
    }
    /* Who a directory went up for is known when the next copyup begins. */
    if (s->rec.flags & F_DONE && !IS_DIR(s->rec.mode)) {
        u32 tid = thread();
        send(s);
        spans.delete(&tid);
    }
    return 0;
}

/* A copyup that fails before it has begun is reported here as a whole. */
static __always_inline void failed_early(void *ctx, u64 dentry, int error)
{
    struct mount *m = union_of(READ(dentry, dentry, d_sb));
    struct scratch *buf = room(P_FLAGS);
    if (!m || !buf || filtered_out())
        return;
    struct span *s = &buf->span;
    describe(&s->rec, m, bpf_ktime_get_ns());
    s->rec.flags = F_EXACT | F_FAILED;
    s->rec.mode = READ(inode, READ(dentry, dentry, d_inode), i_mode);
    s->rec.ret = error;
    s->rec.stack = caller_stack(ctx);
    take_union_path(&s->rec, dentry, P_FLAGS);
    send(s);
}

/* Of an error that this one's twin has told of, too: they take turns. */
static __always_inline int was_told(void)
{
    if (!CONSTANT(C_COPY))
        return 0;
    u32 tid = thread();
    if (!hints.lookup(&tid)) {
        take_hint();
        return 0;
    }
    hints.delete(&tid);
    return 1;
}

RETURN(flags)
{
    u64 dentry = FIRST(AT_FLAGS);
#ifdef KPROBES
    recall(AT_START); /* where somebody else did the copyup, it is still noted */
#endif
    int error = (s32)RESULT();
    if (error < 0 && was_told())
        return 0;
    u32 tid = thread();
    struct span *s = spans.lookup(&tid);
    if (!s) {
        if (error < 0 && dentry)
            failed_early(ctx, dentry, error);
        return 0;
    }
    if (s->rec.flags & F_DONE) {
        send(s);
        if (error < 0 && dentry)
            failed_early(ctx, dentry, error);
    } else if (error < 0) {
        s->rec.flags |= F_FAILED;
        s->rec.ret = error;
        send(s);
    } else if (s->rec.flags & (F_COPIED | F_CLONED)) {
        send(s);
    } /* else another name of a file that is up already: nothing was copied */
    spans.delete(&tid);
    return 0;
}
