/* What the probes remember, and the limits they keep to.  First of the parts that
 * tracer/program.py puts together into one program, in the order state, unions, names,
 * copyup, and the hooks of a backend. */
#include "common.h"

#define CAP_DAC_OVERRIDE 1
#define TMPFS_MAGIC 0x01021994
#define NR_IO_WORKER 0xffffffffu
#define NR_KTHREAD 0xfffffffeu
#define PF_IO_WORKER 0x00000010
#define PF_KTHREAD 0x00200000
#define NEAR_FRAMES 9
#define MAX_FRAMES 28
#define MAX_ALIASES 6
#define MAX_DEPTH 128
#define MAX_NAMES 4096
#define MAX_WALK 8
#define MAX_KEPT 2048 /* of the places in `spans` */
/* Unrolled, they would be most of what is compiled and verified. */
#define NO_UNROLL _Pragma("clang loop unroll(disable)")
/* The compiler knows the offset's range and drops the mask; the verifier does not. */
#define BOUND(OFF)                                                                               \
    do {                                                                                         \
        asm volatile("" : "+r"(OFF));                                                            \
        OFF &= 2 * MAX_NAMES - 1;                                                                \
    } while (0)

/* What is read from a map after this is nothing that the verifier knows: it follows one way on
 * instead of one for each value that may be there. */
#define FORGET() asm volatile("" ::: "memory")

/* A program for raw tracepoints. */
#define HOOK(NAME) int on_##NAME(struct bpf_raw_tracepoint_args *ctx)

/* What a run is told.  Put in when the program is loaded (tracer/program.py), so that one
 * compiled object serves every run, and the verifier drops what a constant rules out. */
#define CONSTANT(N)                                                                              \
    ({                                                                                           \
        u64 constant_;                                                                           \
        asm("%0 = %1 ll" : "=r"(constant_) : "i"(0x7fa1170000000000ULL | (N)));                  \
        constant_;                                                                               \
    })
enum { C_COPY, C_OWN_PID, C_FILTERS, C_STACKS, C_ROWS, C_MIN_NS, C_RANGES }; /* C_RANGES: and those that follow */
enum { FILTER_MOUNTS = 1, FILTER_TREE = 2, FILTER_CGROUP = 4, FILTER_USERS = 8 };

struct mount {
    u64 sb, ofs, cred, top_sb, root, workdir, work_inode;
    u32 dev, top_dev, magic, metacopy;
    u32 number, tmpfile;
};

struct span {
    u64 inode;
    u64 cred;
    u64 last_inode;   /* when the inode itself was last touched before linking */
    u64 sync_start;
    u64 dirtied_base;
    u64 blocks_base;  /* what a file had whose data only go up */
    u32 pages_base;
    u32 inside;       /* functions that were entered and not left */
    u32 turns;        /* of each of enum turn, by its bit */
    u32 idle;         /* nothing is copied up: the place is kept for the thread's next */
    u32 kept;
    struct span_record rec;
};

/* Room to work in.  Where the kernel preempts what runs in it, another thread's program may come
 * to the processor before one at a trampoline has ended, so each program has a place of its own.
 * The same program does not come: the kernel lets it pass, and counts that.  Its twin comes. */
enum place {
    P_COPYUP = K_COPYUP, /* other operations: their kind */
    P_END = K_SETATTR + 1,
    P_FLAGS,
    PLACES
};
struct scratch {
    struct span span;
    u64 dir;
    u32 flags, look;
    u64 stack[MAX_FRAMES];
    char names[2 * MAX_NAMES + 256]; /* any masked offset plus one name fits */
};

BPF_RINGBUF_OUTPUT(ring, 1); /* larger: RINGS of tracer/program.py */
/* A ring may refuse a record that it has room for: since 6.15 its lock gives up when it takes
 * waiting for a deadlock (raw_res_spin_lock_irqsave()).  Seen under load, once in some 200,000
 * records, with retries refused as well.  The other ring has another lock. */
BPF_RINGBUF_OUTPUT(spare, 1);
BPF_HASH(mounts, u64, struct mount, 16384);   /* by creator_cred; what is traced */
BPF_HASH(known, u64, struct mount, 16384);    /* by superblock; whatever is there */
BPF_HASH(wanted, u32, u8, 4096);              /* devices of the unions asked for */
BPF_HASH(spans, u32, struct span, 8192);      /* by thread */
BPF_HASH(tree, u32, u8, 65536);               /* processes asked for and their children */
BPF_HASH(users, u32, u8, 1024);               /* users asked for */
BPF_TABLE("lru_hash", u32, u64, hints, 8192); /* by thread: when creation may have begun */
BPF_PERCPU_ARRAY(rooms, struct scratch, PLACES); /* twice as many where there are twins */
BPF_ARRAY(state, u64, 8);
BPF_CGROUP_ARRAY(cgroups, 1);
BPF_TABLE("stacktrace", int, struct bpf_stacktrace, stacks, 16384);

enum { ST_LOST, ST_UNMATCHED, ST_FS_TYPE, ST_CURSOR, ST_MOUNTS, ST_IDS, ST_KEPT };

static __always_inline struct scratch *room(int place)
{
    if (CONSTANT(C_COPY) == 2)
        place += PLACES;
    return rooms.lookup(&place);
}

static __always_inline void add(int which, s64 more)
{
    u64 *value = state.lookup(&which);
    if (value)
        __sync_fetch_and_add(value, more);
}

static __always_inline void count(int which)
{
    add(which, 1);
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

/* What the thread copies up, or has copied up and not yet told of. */
static __always_inline struct span *current_span(u32 tid)
{
    struct span *s = spans.lookup(&tid);
    return s && !s->idle ? s : 0;
}

/* No more of this one.  To give its place back and take another next time would be a tenth of
 * what a small copyup's span costs, so a thread keeps it, until there are many. */
static __always_inline void leave_span(struct span *s, u32 tid)
{
    if (!s->kept && next_number(ST_KEPT) >= MAX_KEPT) {
        add(ST_KEPT, -1);
        spans.delete(&tid);
        return;
    }
    s->kept = s->idle = 1;
    s->rec.flags = 0;
}

/* What this thread is about to make may become a copy. */
static __always_inline void take_hint(void)
{
    u64 now = bpf_ktime_get_ns();
    u32 tid = thread();
    u64 *last = hints.lookup(&tid);
    if (last)
        *last = now;
    else
        hints.update(&tid, &now);
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
