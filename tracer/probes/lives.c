/* Unions that come, change and go, seen at overlayfs's functions for that. */

#ifdef KPROBES
ENTRY(fill) { note(AT_FILL, ARG(1)); return 0; }
#endif

RETURN(fill)
{
    u64 sb = FIRST(AT_FILL);
    if (sb && !(s32)RESULT())
        examine(sb, 1);
    return 0;
}

/* Attached or detached somewhere, or its options changed: mountinfo tells which. */
RETURN(attach)
{
    if (!(s32)RESULT())
        announce_change(~0U);
    return 0;
}

ENTRY(gone)
{
    u64 sb = ARG(1);
    struct mount *m = known.lookup(&sb);
    if (!m)
        return 0;
    u64 cred = m->cred;
    if (mounts.lookup(&cred))
        announce_change(m->number);
    mounts.delete(&cred);
    known.delete(&sb);
    return 0;
}
