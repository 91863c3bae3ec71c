/* Copyups seen through raw tracepoints alone, for kernels without kprobes and trampolines.
 *
 * Needs: CAP_BPF and CAP_PERFMON (or root), BTF, a BPF ring buffer (5.8), bounded loops
 * (5.3), kernel addresses in /proc/kallsyms.
 * Hooks: writeback_mark_inode_dirty; from 6.13 inode_set_ctime_to_ts, ctime_ns_xchg and
 * ctime_xchg_skip (multigrain timestamps), which tell of every change of an inode, on
 * tmpfs too; cap_capable (6.14) for the moment creation begins; the fsync and reflink
 * tracepoints of ext4, f2fs, xfs and btrfs; sys_exit; sched_process_fork and _exit.
 *
 * How a copyup is told from everything else that goes on in the top's file system:
 *  1. overlayfs works on its layers with the credentials of whoever mounted it: the task's
 *     `cred` is then the very object the superblock holds in `creator_cred`.  One hash
 *     lookup by that pointer says which union this is, or that it is none.
 *  2. the inode is a new one: unlinked (O_TMPFILE), or in the work directory, or without
 *     any name yet.
 *  3. a function of fs/overlayfs/copy_up.c is on the kernel stack.  That alone is exact; the
 *     first two keep it rare: once for each copyup.
 * It is complete when the new inode has a name below the top's root and overlayfs
 * restores the time stamps of that directory, its last act (ovl_copy_up_tmpfile(),
 * ovl_copy_up_workdir()).  The names between are then read: nothing can have moved yet.
 */
#include "common.h"

#define CAP_DAC_OVERRIDE 1
#define NR_IO_WORKER 0xffffffffu
#define NR_KTHREAD 0xfffffffeu
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000
#define NEAR_FRAMES 9
#define MAX_FRAMES 28
#define MAX_ALIASES 6
#define MAX_DEPTH 128
#define MAX_NAMES 4096
#define MAX_WALK 24
/* Unrolled, they would be most of what is compiled and verified. */
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
/* The compiler knows the offset's range and drops the mask; the verifier does not. */
#define BOUND(OFF)                                                                               \
    do {                                                                                         \
        asm volatile("" : "+r"(OFF));                                                            \
        OFF &= 2 * MAX_NAMES - 1;                                                                \
    } while (0)

struct mount {
    u64 sb, ofs, cred, top_sb, root, workdir, work_inode;
    u32 dev, top_dev, magic, metacopy;
    u32 number, pad;
};

struct span {
    u64 inode;
    u64 cred;
    u64 last_inode;   /* when the inode itself was last touched before linking */
    u64 sync_start;
    u64 dirtied_base;
    struct span_record rec;
};

struct scratch {
    u64 stack[MAX_FRAMES];
    char names[2 * MAX_NAMES + 256]; /* any masked offset plus one name fits */
};

BPF_RINGBUF_OUTPUT(ring, RING_PAGES);
BPF_HASH(mounts, u64, struct mount, 16384);   /* by creator_cred; what is traced */
BPF_HASH(known, u64, struct mount, 16384);    /* by superblock; whatever is there */
BPF_HASH(wanted, u32, u8, 4096);              /* devices of the unions asked for */
BPF_HASH(spans, u32, struct span, 8192);      /* by thread */
BPF_HASH(tree, u32, u8, 65536);               /* processes asked for and their children */
BPF_TABLE("lru_hash", u32, u64, hints, 8192); /* by thread: last capability check */
BPF_PERCPU_ARRAY(zero, struct span, 1);
BPF_PERCPU_ARRAY(buffers, struct scratch, 1);
BPF_PERCPU_ARRAY(mount_zero, struct mount, 1);
BPF_ARRAY(state, u64, 8);
#ifdef FILTER_CGROUP
BPF_CGROUP_ARRAY(cgroups, 1);
#endif

enum { ST_LOST, ST_UNMATCHED, ST_FS_TYPE, ST_CURSOR, ST_MOUNTS, ST_IDS, ST_SPANS };

static __always_inline void count(int which)
{
    u64 *value = state.lookup(&which);
    if (value)
        __sync_fetch_and_add(value, 1);
}

static __always_inline u64 next_number(int which)
{
    u64 *value = state.lookup(&which);
    return value ? __sync_fetch_and_add(value, 1) : 0;
}

static __always_inline u32 thread(void)
{
    return (u32)bpf_get_current_pid_tgid();
}

/* The credentials that the current task has put on instead of its own, or 0.  Every hook
 * begins with this, hence without a helper call for each field: a task that the kernel
 * vouches for (bpf_get_current_task_btf(), 5.11) may be read directly. */
static __always_inline u64 overriding_cred(void)
{
    void *task = bpf_get_current_task_btf();
    u64 cred, real;
    asm volatile("%0 = *(u64 *)(%1 + %2)"
                 : "=r"(cred)
                 : "r"(task), "i"(__builtin_offsetof(struct k_task_struct, cred)));
    asm volatile("%0 = *(u64 *)(%1 + %2)"
                 : "=r"(real)
                 : "r"(task), "i"(__builtin_offsetof(struct k_task_struct, real_cred)));
    return cred == real ? 0 : cred;
}

/* ---- which unions there are ------------------------------------------------------- */

static __always_inline void announce(struct mount *m)
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
    r->layers = READ(ovl_fs, m->ofs, numlayer);
    r->pad = 0;
    u64 layers = READ(ovl_fs, m->ofs, layers);
    NO_UNROLL
    for (u32 i = 0; i < LAYER_NAMES; i++) {
        r->names[i][0] = 0;
        if (i < r->layers) {
            u64 mnt = READ(ovl_layer, layers + i * OVL_LAYER_SIZE, mnt);
            u64 sb = READ(vfsmount, mnt, mnt_sb);
            u64 type = READ(super_block, sb, s_type);
            bpf_probe_read_kernel_str(r->names[i], 16, (void *)READ(file_system_type, type, name));
        }
    }
    ring.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void announce_attach(u32 pid)
{
    struct attach_record *r = ring.ringbuf_reserve(RECORD_SIZE);
    if (!r)
        return; /* a name may stay unknown; no copyup is lost */
    r->kind = REC_ATTACH;
    r->pid = pid;
    ring.ringbuf_submit(r, BPF_RB_FORCE_WAKEUP);
}

static __always_inline void examine(u64 sb)
{
    int k = 0;
    struct mount *m = mount_zero.lookup(&k);
    u64 ofs = READ(super_block, sb, s_fs_info);
    if (!m || !ofs || !READ(super_block, sb, s_root))
        return;
    m->workdir = READ(ovl_fs, ofs, workdir);
    m->cred = READ(ovl_fs, ofs, creator_cred);
    if (!m->workdir || !m->cred)
        return; /* nothing can be copied up without a top */
    u64 mnt = READ(ovl_layer, READ(ovl_fs, ofs, layers), mnt);
    m->sb = sb;
    m->ofs = ofs;
    m->root = READ(vfsmount, mnt, mnt_root);
    m->top_sb = READ(vfsmount, mnt, mnt_sb);
    m->work_inode = READ(dentry, m->workdir, d_inode);
    m->dev = READ(super_block, sb, s_dev);
    m->top_dev = READ(super_block, m->top_sb, s_dev);
    m->magic = READ(super_block, m->top_sb, s_magic);
    m->metacopy = READ(ovl_fs, ofs, config_metacopy);
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
#ifdef FILTER_MOUNTS
    u32 dev = m->dev;
    if (!wanted.lookup(&dev))
        return;
#endif
    u64 cred = m->cred;
    mounts.update(&cred, m);
    announce(m);
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
    u64 node = all && *cursor ? *cursor : READ(file_system_type, *type, fs_supers_first);
    NO_UNROLL
    for (int i = 0; i < MAX_WALK; i++) {
        if (!node)
            break;
        examine(node - __builtin_offsetof(struct k_super_block, s_instances_next));
        node = READ(hlist_node, node, next);
    }
    if (all)
        *cursor = node;
}

/* User space called fsopen("overlay"): what it got leads to the file system type. */
static __always_inline void learn_type(long fd)
{
    u64 fdt = READ(files_struct, READ(task_struct, bpf_get_current_task(), files), fdt);
    u64 file = 0;
    if (fd < 0 || fd >= READ(fdtable, fdt, max_fds))
        return;
    bpf_probe_read_kernel(&file, 8, (void *)READ(fdtable, fdt, fd) + fd * 8);
    u64 type = READ(fs_context, READ(file, file, private_data), fs_type);
    int key = ST_FS_TYPE;
    if (type)
        state.update(&key, &type);
}

/* ---- names ---------------------------------------------------------------------- */

/* A name of `inode` in the directory `dir` (0: any but the work directory): its dentry. */
static __always_inline u64 alias_in(u64 inode, u64 dir, struct mount *m)
{
    u64 node = READ(inode, inode, i_dentry_first);
    NO_UNROLL
    for (int i = 0; i < MAX_ALIASES; i++) {
        if (!node)
            break;
        u64 dentry = node - __builtin_offsetof(struct k_dentry, d_u_d_alias_next);
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
        return READ(dentry, node - __builtin_offsetof(struct k_dentry, d_u_d_alias_next),
                    d_parent) == m->workdir;
    if (!READ(inode, inode, i_count_counter))
        return 0;
    return dirty ? IS_REG(mode) && READ(inode, inode, i_nlink) == 0
                 : !IS_REG(mode) && (mode & S_IFMT);
}

/* Puts the names from `dentry` up to the top's root into the record.  Returns whether
 * the root was reached. */
static __always_inline int take_path(struct span_record *rec, u64 dentry, u64 root)
{
    int k = 0;
    struct scratch *buf = buffers.lookup(&k);
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

/* ---- one copyup ------------------------------------------------------------------- */

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
    int k = 0;
    struct scratch *buf = buffers.lookup(&k);
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

static __always_inline void send(struct span *s)
{
    count(ST_SPANS);
    if (ring.ringbuf_output(&s->rec, sizeof(s->rec), BPF_RB_NO_WAKEUP))
        count(ST_LOST);
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
    s->rec.blocks = READ(inode, s->inode, i_blocks);
    s->rec.mode = READ(inode, s->inode, i_mode);
    s->rec.pages = READ(inode, s->inode, i_data_nrpages);
    s->rec.dirtied = dirtied_now(task) - s->dirtied_base;
}

/* Complete, if the inode has a name in directory `dir` (0: wherever) below the top's root. */
static __always_inline int finish(struct span *s, struct mount *m, u64 dir, u64 now, u64 task)
{
    u64 dentry = alias_in(s->inode, dir, m);
    if (!dentry || !take_path(&s->rec, dentry, m->root))
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
        s->rec.flags |= F_GREW;
    }
    /* xfs and btrfs have no tracepoint at the end of fsync.  What comes next is the
     * metadata, which changes ctime; dirtying happens within fsync too. */
    if (!dirty)
        end_sync(s, now);
    if (!s->rec.link_start)
        s->last_inode = now;
}

static __always_inline int filtered_out(u32 pid)
{
#ifdef FILTER_TREE
    if (!tree.lookup(&pid))
        return 1;
#endif
#ifdef FILTER_CGROUP
    if (cgroups.check_current_task(0) <= 0)
        return 1;
#endif
    return 0;
}

/* io_uring's workers and kernel threads never leave a system call. */
static __always_inline int is_worker(u32 nr)
{
    return nr == NR_IO_WORKER || nr == NR_KTHREAD;
}

static __always_inline u32 call_number(u64 task)
{
    u32 flags = READ(task_struct, task, flags);
    if (flags & PF_IO_WORKER)
        return NR_IO_WORKER;
    if (flags & PF_KTHREAD)
        return NR_KTHREAD;
    void *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
    return SYSCALL_NR(regs);
}

static __always_inline int start(void *ctx, u64 task, u64 cred, struct mount *m, u64 inode, u64 now,
                                 int dirty)
{
    u32 mode = READ(inode, inode, i_mode);
    u32 flags = m->metacopy ? F_METACOPY : 0;
    if (!in_the_making(inode, mode, m, dirty)) {
        if (!IS_REG(mode) || !m->metacopy || !READ(inode, inode, i_dentry_first))
            return 0;
        flags |= F_DATA_ONLY;
    }
    u64 ids = bpf_get_current_pid_tgid();
    u32 tid = (u32)ids;
    if (filtered_out(ids >> 32))
        return 0;
    /* Unwinding the stack is half the cost of a small copyup's span, and one kind of
     * beginning needs no look at it: d_tmpfile(), called with the mounter's credentials.
     * (O_TMPFILE through the union has others, made for it.)  What else has no link and
     * no dentry, such as a large xattr's inode that is dropped, never gets a name. */
    if (IS_REG(mode) && !READ(inode, inode, i_dentry_first))
        flags |= F_UNSEEN;
    else if (!copying_up(ctx))
        return 0;
    /* Is it still the union that it was? */
    if (READ(super_block, m->sb, s_fs_info) != m->ofs || READ(ovl_fs, m->ofs, creator_cred) != cred)
        return 0;
    /* A parent directory that went up in this same call: its own copyup worked. */
    struct span *before = spans.lookup(&tid);
    if (before && !(before->rec.flags & F_DONE)) {
        if (finish(before, m, 0, now, task))
            before->rec.flags |= F_LATE; /* without the ctime tracepoints */
        else if (!is_worker(before->rec.nr))
            return 0; /* one thing at a time */
    }
    if (before && before->rec.flags & F_DONE)
        send(before);
    else if (before)
        count(ST_UNMATCHED);
    int k = 0;
    struct span *s = zero.lookup(&k);
    if (!s)
        return 0;
    s->inode = inode;
    s->cred = cred;
    s->last_inode = now;
    s->sync_start = 0;
    s->dirtied_base = dirtied_now(task);
    s->rec.kind = REC_SPAN;
    s->rec.id = next_number(ST_IDS);
    s->rec.start = now;
    u64 *hint = hints.lookup(&tid);
    if (hint && !(flags & F_DATA_ONLY)) {
        s->rec.start = *hint;
        flags |= F_HINTED;
    }
    s->rec.flags = flags;
    s->rec.create_end = dirty ? now : 0;
    s->rec.data_end = s->rec.sync = s->rec.link_start = 0;
    s->rec.end = now;
    s->rec.size = READ(inode, inode, i_size);
    s->rec.blocks = s->rec.dirtied = 0;
    s->rec.cgroup = bpf_get_current_cgroup_id();
    s->rec.mount = m->number;
    s->rec.tid = tid;
    s->rec.pid = ids >> 32;
    s->rec.uid = READ(cred, READ(task_struct, task, real_cred), uid);
    s->rec.nr = call_number(task);
    s->rec.ret = 0;
    s->rec.mode = mode;
    s->rec.magic = m->magic;
    s->rec.path_len = 0;
    bpf_get_current_comm(s->rec.comm, sizeof(s->rec.comm));
    if (spans.update(&tid, s))
        count(ST_LOST);
    return 0;
}

/* Something in a file system changed.  Most of what comes here is not ours, and most of
 * the rest is more about an inode that is known to be copied up: both leave early. */
static __always_inline int changed(void *ctx, u64 inode, int dirty)
{
    u64 cred = overriding_cred();
    if (!cred)
        return 0;
    u32 tid = thread();
    struct span *s = spans.lookup(&tid);
    int open = s && s->cred == cred && !(s->rec.flags & F_DONE);
    if (s && inode == s->inode && s->cred == cred && !(open && s->rec.flags & F_DATA_ONLY)) {
        /* Once it is complete, the system call does to it what it was made for. */
        if (open)
            progress(s, bpf_ktime_get_ns(), dirty);
        return 0;
    }
    struct mount *m = mounts.lookup(&cred);
    if (!m || READ(inode, inode, i_sb) != m->top_sb)
        return 0;
    u64 task = bpf_get_current_task();
    u64 now = bpf_ktime_get_ns();
    if (open) {
        if (inode == m->work_inode) {
            if (!s->rec.create_end)
                s->rec.create_end = now;
            return 0;
        }
        if (inode == s->inode) {
            /* Data for a stub: over when the system call goes on to what it was made for. */
            if (copying_up(ctx)) {
                s->rec.end = now;
            } else {
                s->rec.flags |= F_DONE;
                measure(s, task);
            }
            return 0;
        }
        if (IS_DIR(READ(inode, inode, i_mode)) && READ(inode, inode, i_dentry_first) &&
            !(s->rec.flags & F_DATA_ONLY)) {
            if (!s->rec.link_start)
                s->rec.link_start = s->last_inode;
            end_sync(s, now);
            if (finish(s, m, inode, now, task) && is_worker(s->rec.nr)) {
                send(s);
                spans.delete(&tid);
            }
            return 0;
        }
    }
    return start(ctx, task, cred, m, inode, now, dirty);
}

/* ---- hooks ------------------------------------------------------------------------ */

#define HOOK(NAME) int on_##NAME(struct bpf_raw_tracepoint_args *ctx)

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
    u64 now = bpf_ktime_get_ns();
    u32 tid = thread();
    u64 *last = hints.lookup(&tid);
    if (last)
        *last = now;
    else
        hints.update(&tid, &now);
    return 0;
}

HOOK(sync_enter)
{
    u32 tid = thread();
    struct span *s = spans.lookup(&tid);
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
    struct span *s = spans.lookup(&tid);
    if (s && !(s->rec.flags & F_DONE))
        end_sync(s, bpf_ktime_get_ns());
    return 0;
}

HOOK(clone)
{
    u32 tid = thread();
    struct span *s = spans.lookup(&tid);
    if (s && !(s->rec.flags & F_DONE))
        s->rec.flags |= F_CLONED;
    return 0;
}

HOOK(sys_exit)
{
    u64 regs = ctx->args[0];
    long ret = ctx->args[1];
    u32 nr = SYSCALL_NR(regs);
    u64 ids = bpf_get_current_pid_tgid();
    u32 tid = (u32)ids;
    int asked = nr == NR_FSOPEN && ids >> 32 == OWN_PID;
    if (asked)
        learn_type(ret);
    if (asked || nr == NR_FSCONFIG || nr == NR_MOUNT)
        walk(asked);
    if ((nr == NR_MOUNT || nr == NR_MOVE_MOUNT) && ret == 0)
        announce_attach(ids >> 32);
    struct span *s = spans.lookup(&tid);
    if (!s)
        return 0;
    u64 task = bpf_get_current_task();
    u64 cred = s->cred;
    struct mount *m = mounts.lookup(&cred);
    u64 end = s->rec.end;
    s->rec.ret = (s32)ret;
    int whole = s->rec.flags & F_DONE && !(s->rec.flags & F_DATA_ONLY);
    if (!whole) {
        int data_only = s->rec.flags & F_DATA_ONLY;
        u64 now = bpf_ktime_get_ns();
        if (m && finish(s, m, 0, data_only ? end : now, task)) {
            if (!data_only)
                s->rec.flags |= F_LATE;
            whole = 1;
        } else if (ret < 0 && !data_only) {
            s->rec.flags |= F_NO_PATH;
            s->rec.end = now;
            measure(s, task);
            whole = 1;
        }
    }
    if (whole)
        send(s);
    else if (!(s->rec.flags & F_UNSEEN))
        count(ST_UNMATCHED);
    spans.delete(&tid);
    return 0;
}

HOOK(sched_process_fork)
{
    u32 parent = READ(task_struct, ctx->args[0], tgid);
    u32 child = READ(task_struct, ctx->args[1], tgid);
    u8 one = 1;
    if (parent != child && tree.lookup(&parent))
        tree.update(&child, &one);
    return 0;
}

HOOK(sched_process_exit)
{
    u64 task = ctx->args[0];
    u32 tgid = READ(task_struct, task, tgid);
    u32 tid = READ(task_struct, task, pid);
    if (spans.lookup(&tid)) {
        count(ST_UNMATCHED);
        spans.delete(&tid);
    }
    /* The last thread of its process: the number may now be given to another. */
    if (READ(signal_struct, READ(task_struct, task, signal), live_counter) == 0)
        tree.delete(&tgid);
    return 0;
}
