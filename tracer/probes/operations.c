/* Lookups, readdirs, and the operations in which copyups happen: how long they take.
 *
 * Each is counted in the histogram of its union, kind and outcome; what becomes a row is an
 * operation that copied something up, and whatever kind C_ROWS asks for.
 * Hooks: overlayfs's own inode and file operations, which are called by address and so never
 * inlined; lookup_one_unlocked(), which asks one layer for a name, and ovl_path_open(), which
 * opens one layer's directory.
 */

struct latency_key {
    u32 mount;
    u8 what, outcome, layers, pad;
    u32 bucket;
};
struct latency {
    u64 count, sum;
};
BPF_HASH(latencies, struct latency_key, struct latency, 65536);

/* An operation that has begun.  At most two of a kind at once in a thread: unions can be
 * stacked twice. */
struct flight {
    u64 start;
    u64 object;  /* what the operation is about; a dentry, but for readdir a file */
    u64 context; /* of readdir */
    u64 before;  /* its position */
    u64 id;      /* of the span, once something was copied up */
    u32 layers;
    u32 found;   /* a layer had the name */
    u32 turns;
    u32 pad;
};
BPF_HASH(flights, u64, struct flight, 16384);

enum { G_LOOKUP, G_READDIR, G_OPERATION };

/* Mirrored by OUTCOMES in tracer/kinds.py. */
enum outcome {
    O_NONE, O_TOP, O_BOTTOM, O_MERGED, O_WHITEOUT, O_OPAQUE, O_ABSENT, O_ERROR,
    O_CACHED, O_PLAIN, O_COPYUP, O_ALONE
};

#define LINEAR_BITS 4 /* buckets to a power of two; as in tracer/histogram.py */
#define OPAQUE_BIT 2  /* OVL_E_OPAQUE */

static __always_inline u64 flight_key(int group, int level)
{
    return (u64)(group << 1 | level) << 32 | thread();
}

static __always_inline void depart(int group, u64 object, u64 context)
{
    struct flight flight = {.start = bpf_ktime_get_ns(), .object = object, .context = context};
    if (context)
        flight.before = READ(dir_context, context, pos);
    u64 key = flight_key(group, 0);
    struct flight *before = flights.lookup(&key);
    if (before && before->object != object) /* else it is this one's twin who noted it */
        key = flight_key(group, 1);
    flights.update(&key, &flight);
}

/* What this thread is in, the inner one of two. */
static __always_inline struct flight *in_flight(int group, u64 *key)
{
    *key = flight_key(group, 1);
    struct flight *found = flights.lookup(key);
    if (found)
        return found;
    *key = flight_key(group, 0);
    return flights.lookup(key);
}

/* The same at its end, if it is about `object`: else this one's twin has ended it.  A kretprobe
 * does not know what it is about. */
#ifdef KPROBES
#define ENDING(F, GROUP, KEY, OBJECT)                                                            \
    struct flight *F = in_flight(GROUP, KEY);                                                    \
    if (!F)                                                                                      \
        return 0
#else
#define ENDING(F, GROUP, KEY, OBJECT)                                                            \
    struct flight *F = flight_of(GROUP, KEY, OBJECT);                                            \
    if (!F)                                                                                      \
        return 0;                                                                                \
    if (F->object != (OBJECT))                                                                   \
        return 0
static __always_inline struct flight *flight_of(int group, u64 *key, u64 object)
{
    *key = flight_key(group, 1);
    struct flight *found = flights.lookup(key);
    if (found && found->object == object)
        return found;
    *key = flight_key(group, 0);
    return flights.lookup(key);
}
#endif

/* The span of the operation that a copyup is a part of, or 0. */
static __always_inline u64 operation_span(void)
{
    u64 key;
    struct flight *f = in_flight(G_OPERATION, &key);
    if (!f)
        return 0;
    if (!f->id)
        f->id = next_number(ST_IDS) + 1;
    return f->id;
}

static __always_inline void measure_latency(struct mount *m, u32 what, u32 outcome, u32 layers, u64 ns)
{
    u32 shift = ns >> LINEAR_BITS ? bpf_log2l(ns) - 1 : 0;
    shift = shift > LINEAR_BITS ? shift - LINEAR_BITS : 0;
    struct latency_key key = {
        .mount = m->number, .what = what, .outcome = outcome, .layers = layers > 255 ? 255 : layers,
        .bucket = (shift << LINEAR_BITS) + (ns >> (shift & 63)),
    };
    struct latency nothing = {};
    struct latency *all = latencies.lookup_or_try_init(&key, &nothing);
    if (!all)
        return;
    __sync_fetch_and_add(&all->count, 1);
    __sync_fetch_and_add(&all->sum, ns);
}

/* Functions return an int or a pointer; an int's upper half is undefined. */
static __always_inline int error_in(u64 result, int pointer)
{
    if (pointer)
        return result > -4096ULL ? (int)result : 0;
    return (s32)result < 0 ? (s32)result : 0;
}

/* Send the span of an operation that began as `f` and was about `dentry`. */
static __always_inline void send_operation(struct mount *m, struct flight *f, u32 what, u32 outcome,
                                           u64 dentry, u64 now, int error)
{
    struct scratch *buf = room(what);
    if (!buf)
        return;
    struct span *s = &buf->span;
    u64 id = f->id;
    describe(&s->rec, m, f->start);
    if (id)
        s->rec.id = id;
    u64 inode = READ(dentry, dentry, d_inode);
    s->rec.flags = F_EXACT;
    s->rec.what = what;
    s->rec.outcome = outcome;
    s->rec.end = now;
    s->rec.ret = error;
    if (inode) {
        s->rec.mode = READ(inode, inode, i_mode);
        s->rec.size = READ(inode, inode, i_size);
    }
    s->rec.layers = f->layers;
    take_union_path(&s->rec, dentry, what);
    if (what == K_READDIR && outcome != O_PLAIN)
        s->rec.entries = READ(dir_context, f->context, pos) - f->before;
    send(s);
}

static __always_inline int wanted_row(u32 what)
{
    return CONSTANT(C_ROWS) >> what & 1;
}

static __always_inline int arrive(u32 what, u64 object, u64 result, int pointer)
{
    u64 now = bpf_ktime_get_ns();
    u64 key;
    ENDING(f, G_OPERATION, &key, object);
    u64 dentry = f->object;
    struct mount *m = filtered_out() ? 0 : union_of(READ(dentry, dentry, d_sb));
    if (m) {
        u32 outcome = f->id ? O_COPYUP : O_ALONE;
        measure_latency(m, what, outcome, 0, now - f->start);
        f->layers = ~0U;
        if (f->id || wanted_row(what))
            send_operation(m, f, what, outcome, dentry, now, error_in(result, pointer));
    }
    flights.delete(&key);
    return 0;
}

#define OPENED READ(file, ARG(2), f_path_dentry)
ENTRY(open) { depart(G_OPERATION, OPENED, 0); return 0; }
RETURN(open) { return arrive(K_OPEN, OPENED, RESULT(), 0); }
/* Since 5.12 a user namespace or an idmapping comes first (549c7297717c). */
ENTRY(rename) { depart(G_OPERATION, ARG(3), 0); return 0; }
RETURN(rename) { return arrive(K_RENAME, ARG(3), RESULT(), 0); }
ENTRY(mkdir) { depart(G_OPERATION, ARG(3), 0); return 0; }
RETURN(mkdir) { return arrive(K_MKDIR, ARG(3), RESULT(), MKDIR_GIVES_DENTRY); }
ENTRY(setattr) { depart(G_OPERATION, ARG(2), 0); return 0; }
RETURN(setattr) { return arrive(K_SETATTR, ARG(2), RESULT(), 0); }
ENTRY(unlink) { depart(G_OPERATION, ARG(2), 0); return 0; }
RETURN(unlink) { return arrive(K_UNLINK, ARG(2), RESULT(), 0); }
ENTRY(rmdir) { depart(G_OPERATION, ARG(2), 0); return 0; }
RETURN(rmdir) { return arrive(K_RMDIR, ARG(2), RESULT(), 0); }

ENTRY(lookup) { depart(G_LOOKUP, ARG(2), 0); return 0; }

/* One layer was asked for the name. */
RETURN(layer)
{
    u64 key;
    struct flight *f = in_flight(G_LOOKUP, &key);
    if (!f)
        return 0;
    if (was_done(&f->turns, T_LAYER))
        return 0;
    u64 dentry = RESULT();
    f->layers++;
    if (dentry < -4096ULL && READ(dentry, dentry, d_inode))
        f->found = 1;
    return 0;
}

/* How many lower directories or files a dentry of the union stands for. */
static __always_inline u32 lowers_of(u64 dentry, u64 inode)
{
#ifdef ENTRY_IN_INODE
    u64 entry = READ(ovl_inode, inode - __builtin_offsetof(struct k_ovl_inode, vfs_inode), oe);
#else
    u64 entry = READ(dentry, dentry, d_fsdata);
#endif
    return entry ? READ(ovl_entry, entry, NUMLOWER) : 0;
}

static __always_inline int is_opaque(u64 dentry)
{
#ifdef ENTRY_IN_INODE
    return READ(dentry, dentry, d_fsdata) & OPAQUE_BIT; /* the flags themselves */
#else
    u64 entry = READ(dentry, dentry, d_fsdata);
    return entry ? READ(ovl_entry, entry, flags) & OPAQUE_BIT : 0;
#endif
}

static __always_inline u32 outcome_of(struct flight *f, u64 dentry)
{
    u64 inode = READ(dentry, dentry, d_inode);
    if (!inode) {
        if (f->found)
            return O_WHITEOUT;
        return is_opaque(READ(dentry, dentry, d_parent)) ? O_OPAQUE : O_ABSENT;
    }
    u64 upper = upper_of(inode);
    if (IS_DIR(READ(inode, inode, i_mode)) && lowers_of(dentry, inode) + (upper ? 1 : 0) > 1)
        return O_MERGED;
    return upper ? O_TOP : O_BOTTOM;
}

RETURN(lookup)
{
    u64 now = bpf_ktime_get_ns();
    u64 result = RESULT();
    u64 key;
    ENDING(f, G_LOOKUP, &key, ARG(2));
    u64 dentry = f->object;
    struct mount *m = filtered_out() ? 0 : union_of(READ(dentry, dentry, d_sb));
    if (m) {
        int error = error_in(result, 1);
        /* Where a directory was known already, its own dentry is given instead. */
        u64 given = result && !error ? result : dentry;
        u32 outcome = error ? O_ERROR : outcome_of(f, given);
        measure_latency(m, K_LOOKUP, outcome, f->layers, now - f->start);
        if (wanted_row(K_LOOKUP))
            send_operation(m, f, K_LOOKUP, outcome, given, now, error);
    }
    flights.delete(&key);
    return 0;
}

ENTRY(readdir) { depart(G_READDIR, ARG(1), ARG(2)); return 0; }

/* One layer's directory is opened, to be read into the merged list. */
ENTRY(opened)
{
    u64 key;
    struct flight *f = in_flight(G_READDIR, &key);
    if (f && !was_done(&f->turns, T_LAYER))
        f->layers++;
    return 0;
}

RETURN(readdir)
{
    u64 now = bpf_ktime_get_ns();
    u64 key;
    ENDING(f, G_READDIR, &key, ARG(1));
    u64 file = f->object;
    u64 dentry = READ(file, file, f_path_dentry);
    struct mount *m = filtered_out() ? 0 : union_of(READ(dentry, dentry, d_sb));
    if (m) {
        u32 outcome = READ(ovl_dir_file, READ(file, file, private_data), is_real) ? O_PLAIN
                      : f->layers                                                 ? O_MERGED
                                                                                  : O_CACHED;
        measure_latency(m, K_READDIR, outcome, f->layers, now - f->start);
        if (wanted_row(K_READDIR))
            send_operation(m, f, K_READDIR, outcome, dentry, now, error_in(RESULT(), 0));
    }
    flights.delete(&key);
    return 0;
}
