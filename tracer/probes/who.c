/* The record of a span: who did it, in which call, and whether anybody asked. */

/* Whether nothing came to a file that was there: it got another of its names (ovl_link_up()). */
static __always_inline int only_linked(struct span *s)
{
    return (s->rec.flags & (F_DATA_ONLY | F_EXACT | F_CLONED)) == F_DATA_ONLY &&
           !s->rec.blocks && !s->rec.pages;
}

static __always_inline void send(struct span *s)
{
    if (s->rec.end - s->rec.start < CONSTANT(C_MIN_NS))
        return;
    if (only_linked(s))
        return;
    if (ring.ringbuf_output(&s->rec, sizeof(s->rec), BPF_RB_NO_WAKEUP) &&
        spare.ringbuf_output(&s->rec, sizeof(s->rec), BPF_RB_NO_WAKEUP))
        count(ST_LOST);
}

/* Read like overriding_cred() does: this is asked often. */
static __always_inline u32 real_uid(void)
{
    u64 real;
    u32 uid;
    asm volatile("%0 = *(u64 *)(%1 + %2)"
                 : "=r"(real)
                 : "r"(bpf_get_current_task_btf()),
                   "i"(__builtin_offsetof(struct k_task_struct, real_cred)));
    asm volatile("%0 = *(u32 *)(%1 + %2)"
                 : "=r"(uid)
                 : "r"(real), "i"(__builtin_offsetof(struct k_cred, uid)));
    return uid;
}

static __always_inline int filtered_out(void)
{
    u64 filters = CONSTANT(C_FILTERS);
    u32 pid = bpf_get_current_pid_tgid() >> 32;
    if (filters & FILTER_TREE && !tree.lookup(&pid))
        return 1;
    if (filters & FILTER_USERS) {
        u32 uid = real_uid();
        if (!users.lookup(&uid))
            return 1;
    }
    return filters & FILTER_CGROUP && cgroups.check_current_task(0) <= 0;
}

/* io_uring's workers and kernel threads never leave a system call. */
static __always_inline int is_worker(u32 nr)
{
    return nr == NR_IO_WORKER || nr == NR_KTHREAD;
}

/* The system call that the task is in, and the flags it was given. */
static __always_inline void note_call(struct span_record *rec, u64 task)
{
    u32 flags = READ(task_struct, task, flags);
    rec->call_flags = 0;
    if (flags & (PF_IO_WORKER | PF_KTHREAD)) {
        rec->nr = flags & PF_IO_WORKER ? NR_IO_WORKER : NR_KTHREAD;
        return;
    }
    void *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
    rec->nr = SYSCALL_NR(regs);
    if (rec->nr == NR_OPENAT)
        rec->call_flags = SYSCALL_ARG2(regs);
    else if (rec->nr == NR_OPEN)
        rec->call_flags = SYSCALL_ARG1(regs);
    else if (rec->nr == NR_RENAMEAT2)
        rec->call_flags = SYSCALL_ARG4(regs);
    else if (rec->nr == NR_OPENAT2) /* the first member of struct open_how */
        bpf_probe_read_user(&rec->call_flags, 8, (void *)SYSCALL_ARG2(regs));
}

static __always_inline s32 caller_stack(void *ctx)
{
    return CONSTANT(C_STACKS) ? stacks.get_stackid(ctx, BPF_F_USER_STACK) : -1;
}

/* Begin the record of a span: who, where, when. */
static __always_inline void describe_as(struct span_record *rec, u64 id, struct mount *m, u64 now)
{
    u64 task = bpf_get_current_task();
    u64 ids = bpf_get_current_pid_tgid();
    rec->kind = REC_SPAN;
    rec->flags = 0;
    rec->id = id;
    rec->start = rec->end = now;
    rec->create_end = rec->data_end = rec->sync = rec->link_start = 0;
    rec->size = rec->blocks = rec->dirtied = 0;
    rec->cgroup = bpf_get_current_cgroup_id();
    rec->parent = 0;
    rec->entries = ~0ULL;
    rec->what = K_COPYUP;
    rec->outcome = 0;
    rec->stack = -1;
    rec->layers = ~0U;
    rec->mount = m->number;
    rec->tid = (u32)ids;
    rec->pid = ids >> 32;
    rec->uid = real_uid();
    note_call(rec, task);
    rec->ret = 0;
    rec->mode = 0;
    rec->magic = m->magic;
    rec->path_len = 0;
    rec->pages = 0;
    bpf_get_current_comm(rec->comm, sizeof(rec->comm));
}

static __always_inline void describe(struct span_record *rec, struct mount *m, u64 now)
{
    describe_as(rec, next_number(ST_IDS) + 1, m, now);
}
