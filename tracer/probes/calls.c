/* Programs at functions, by trampolines or (KPROBES) by kprobes, and what overlayfs gives them. */

#ifdef KPROBES
#define ENTRY(NAME) int enter_##NAME(struct pt_regs *ctx)
#define RETURN(NAME) int leave_##NAME(struct pt_regs *ctx)
#define ARG(N) PT_REGS_PARM##N(ctx)
#define RESULT() PT_REGS_RC(ctx)
#else
#define ENTRY(NAME) int enter_##NAME(u64 *ctx)
#define RETURN(NAME) int leave_##NAME(u64 *ctx)
#define ARG(N) ctx[(N) - 1]
#define RESULT()                                                                                 \
    ({                                                                                           \
        u64 result_ = 0;                                                                         \
        bpf_get_func_ret(ctx, &result_);                                                         \
        result_;                                                                                 \
    })
#endif

enum { AT_FLAGS, AT_START, AT_FILL };

/* Twins.  Where a program that was preempted may keep it from running for another thread, it
 * stands at its place twice (C_COPY: 1 and 2, else 0), and one of them is rarely missed where the
 * other was.  What they do comes to the same if done twice, as all at tracepoints does, or they
 * take turns: whichever is first sets the bit that tells the other.  Which of them that is differs
 * between kernels; and if one was missed, its twin does the work from then on. */
enum turn { T_SPLICE = 1, T_NESTED = 2, T_LAYER = 4 };

static __always_inline int was_done(u32 *turns, u32 turn)
{
    if (!CONSTANT(C_COPY))
        return 0;
    *turns ^= turn;
    return !(*turns & turn);
}

#ifdef KPROBES
/* A kretprobe has the registers of the return: what it was about was noted at the entry. */
BPF_HASH(noted, u64, u64, 16384);

static __always_inline void note(int function, u64 argument)
{
    u64 key = (u64)function << 32 | thread();
    noted.update(&key, &argument);
}

static __always_inline u64 recall(int function)
{
    u64 key = (u64)function << 32 | thread();
    u64 *argument = noted.lookup(&key);
    if (!argument)
        return 0;
    u64 value = *argument;
    noted.delete(&key);
    return value;
}

#define FIRST(FUNCTION) recall(FUNCTION)
#else
#define FIRST(FUNCTION) ARG(1)
#endif

/* The union that a superblock of overlayfs is, if it is traced. */
static __always_inline struct mount *union_of(u64 sb)
{
    struct mount *m = known.lookup(&sb);
    if (!m || m->ofs != READ(super_block, sb, s_fs_info) || m->dev != READ(super_block, sb, s_dev) ||
        m->cred != READ(ovl_fs, m->ofs, creator_cred)) {
        examine(sb, 0);
        m = known.lookup(&sb);
        if (!m)
            return 0;
    }
    u64 cred = m->cred;
    return mounts.lookup(&cred);
}

/* The dentry in the top that an inode of the union stands for, or 0. */
static __always_inline u64 upper_of(u64 inode)
{
    return READ(ovl_inode, inode - __builtin_offsetof(struct k_ovl_inode, vfs_inode), __upperdentry);
}

static __always_inline void take_union_path(struct span_record *rec, u64 dentry, int place)
{
    take_path(rec, dentry, READ(super_block, READ(dentry, dentry, d_sb), s_root), place);
}
