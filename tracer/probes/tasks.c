/* Threads that come and go: whose children are traced, and spans that nobody will end. */

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
    struct span *s = spans.lookup(&tid);
    if (s) {
        if (s->kept)
            add(ST_KEPT, -1);
        if (s->idle)
            ;
        else if (s->rec.flags & F_DONE)
            send(s);
        else
            count(ST_UNMATCHED);
        spans.delete(&tid);
    }
    /* The last thread of its process: the number may now be given to another. */
    if (READ(signal_struct, READ(task_struct, task, signal), live_counter) == 0)
        tree.delete(&tgid);
    return 0;
}
