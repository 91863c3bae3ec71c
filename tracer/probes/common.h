/* What every backend's probes share: reading kernel fields, and the record that leaves the kernel.
 *
 * The layout of kernel structures comes from the generated part of the program text that
 * stands before this file (tracer/program.py): struct k_NAME for each structure of
 * which a field is read. */
#pragma once
#include <linux/types.h>
#include <linux/ptrace.h>

/* A field of a kernel structure at the untyped address P; zero when it cannot be read.
 *
 * Asking a helper costs more than all else that is done with the field.  Since 6.2 the verifier
 * can be told what is at an address (bpf_rdonly_cast()), and then lets it be loaded from.
 * TYPE_NAME is the number of struct NAME in the kernel's type information; 0 where that
 * does not hold it, or the kernel cannot be told. */
#define READ(TYPE, P, FIELD) (TYPE_##TYPE ? LOADED(TYPE, P, FIELD) : COPIED(TYPE, P, FIELD))
#define COPIED(TYPE, P, FIELD)                                                                   \
    ({                                                                                           \
        FIELD_TYPE(TYPE, FIELD) v_ = 0;                                                          \
        bpf_probe_read_kernel(&v_, sizeof(v_), (void *)(P) + __builtin_offsetof(struct k_##TYPE, FIELD)); \
        v_;                                                                                      \
    })
#define LOADED(TYPE, P, FIELD)                                                                   \
    ({                                                                                           \
        u64 w_ = 0;                                                                              \
        void *at_ = ((void *(*)(u64, u32))RDONLY_CAST)((u64)(P), TYPE_##TYPE);                   \
        switch (sizeof(FIELD_TYPE(TYPE, FIELD))) {                                               \
        case 1: LOAD(u8, w_, at_, __builtin_offsetof(struct k_##TYPE, FIELD)); break;            \
        case 2: LOAD(u16, w_, at_, __builtin_offsetof(struct k_##TYPE, FIELD)); break;           \
        case 4: LOAD(u32, w_, at_, __builtin_offsetof(struct k_##TYPE, FIELD)); break;           \
        case 8: LOAD(u64, w_, at_, __builtin_offsetof(struct k_##TYPE, FIELD)); break;           \
        }                                                                                        \
        (FIELD_TYPE(TYPE, FIELD)) w_;                                                            \
    })
#define FIELD_TYPE(TYPE, FIELD) typeof(((struct k_##TYPE *)0)->FIELD)
/* Told in so many words, as bcc and clang would make something else of a plain one. */
#define LOAD(SIZE, INTO, P, OFFSET)                                                              \
    asm volatile("%0 = *(" #SIZE " *)(%1 + %2)" : "=r"(INTO) : "r"(P), "i"(OFFSET))
/* Stands for the call of bpf_rdonly_cast(), which tracer/program.py puts in. */
#define RDONLY_CAST 0x7fa117

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define S_IFCHR 0020000
#define IS_REG(mode) (((mode) & S_IFMT) == S_IFREG)
#define IS_DIR(mode) (((mode) & S_IFMT) == S_IFDIR)

/* Of the registers that a system call saved: its number, what it was given and what came of it. */
#define k_pt_regs pt_regs
#if defined(__x86_64__)
#define SYSCALL_NR(REGS) ((u32)READ(pt_regs, REGS, orig_ax))
#define SYSCALL_RESULT(REGS) READ(pt_regs, REGS, ax)
#define SYSCALL_ARG1(REGS) READ(pt_regs, REGS, si)
#define SYSCALL_ARG2(REGS) READ(pt_regs, REGS, dx)
#define SYSCALL_ARG4(REGS) READ(pt_regs, REGS, r8)
#define NR_MOUNT 165
#define NR_UMOUNT 166
#define NR_OPEN 2
#define NR_OPENAT 257
#define NR_RENAMEAT2 316
#else
#define SYSCALL_NR(REGS) ((u32)COPIED(pt_regs, REGS, syscallno))
#define SYSCALL_RESULT(REGS) COPIED(pt_regs, REGS, regs[0])
#define SYSCALL_ARG1(REGS) COPIED(pt_regs, REGS, regs[1])
#define SYSCALL_ARG2(REGS) COPIED(pt_regs, REGS, regs[2])
#define SYSCALL_ARG4(REGS) COPIED(pt_regs, REGS, regs[4])
#define NR_MOUNT 40
#define NR_UMOUNT 39
#define NR_OPEN 0xffff /* only by openat() */
#define NR_OPENAT 56
#define NR_RENAMEAT2 276
#endif
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_FSMOUNT 432
#define NR_MOVE_MOUNT 429
#define NR_OPENAT2 437
#define FSCONFIG_CMD_RECONFIGURE 7

/* Every record has this size, so that user space decodes a whole batch as one array. */
#define RECORD_SIZE 512
#define PATH_IN_RECORD 320
#define CHUNK_BYTES 480

enum record_kind { REC_SPAN = 1, REC_PATH = 2, REC_MOUNT = 3, REC_ATTACH = 4 };

enum span_flags {
    F_DONE = 1,       /* the copyup is complete, the system call may not be */
    F_DATA_ONLY = 2,  /* data for a file whose metadata had gone up before */
    F_CLONED = 4,     /* the file system said that it shared extents */
    F_LONG_PATH = 8,  /* the rest of the path is in REC_PATH records */
    F_METACOPY = 16,  /* the union is mounted with metacopy=on */
    F_UNSEEN = 32,    /* begun without a look at the stack: real if it comes to an end; of data
                       * for a stub: the end was not seen */
    F_EXACT = 64,     /* `dirtied` is what was copied, F_CLONED and F_COPIED are all there is */
    F_COPIED = 128,   /* data was copied, or there was none but holes */
    F_MISSED = 512,   /* a return was not seen: bytes and phases are not known */
    F_FAILED = 256,   /* `ret` is the copyup's own */
};

/* Mirrored by KINDS in tracer/kinds.py. */
enum span_kind { K_COPYUP, K_LOOKUP, K_READDIR, K_OPEN, K_RENAME, K_UNLINK, K_RMDIR, K_MKDIR, K_SETATTR };

/* Times are CLOCK_MONOTONIC ns.  Mirrored by SPAN in tracer/records.py. */
struct span_record {
    u32 kind;
    u32 flags;
    u64 id;          /* of the span; REC_PATH records carry it too */
    u64 start;
    u64 create_end;  /* 0: not seen */
    u64 data_end;    /* 0: the file never grew */
    u64 sync;        /* ns in fsync */
    u64 link_start;  /* 0: not seen */
    u64 end;
    u64 size;
    u64 blocks;      /* 512-byte units, as stat has it */
    u64 dirtied;     /* bytes of page cache this task dirtied meanwhile */
    u64 cgroup;
    u64 parent;      /* the span that this one was a part of; 0: none */
    u64 call_flags;  /* of open and rename calls */
    u64 entries;     /* of a directory that was read; ~0: unknown */
    u32 what;        /* enum span_kind */
    u32 outcome;     /* enum outcome */
    s32 stack;       /* of the caller, in the map `stacks`; negative: none */
    u32 layers;      /* that were asked; ~0: unknown */
    u32 mount;       /* number of the union, from its REC_MOUNT */
    u32 tid;
    u32 pid;
    u32 uid;
    u32 nr;          /* system call number; ~0 for an io_uring worker, ~1 for a kernel thread */
    s32 ret;         /* what the system call returned */
    u32 mode;
    u32 magic;       /* of the top's file system */
    u32 path_len;
    u32 pages;       /* of the file in the page cache */
    char comm[TASK_COMM_LEN];
    char path[PATH_IN_RECORD]; /* names from the file up, each followed by a slash */
};

struct path_record {
    u32 kind;
    u32 number; /* first chunk after the record's own part: 0 */
    u64 id;
    u32 length;
    u32 pad[3];
    char path[CHUNK_BYTES];
};

/* Somebody attached, changed or detached a mount: now is the time to look where unions are. */
struct attach_record {
    u32 kind;
    u32 pid;
    u64 when;
    u32 mount; /* the union that is no more, ~0: perhaps none */
    u32 pad;
    char rest[RECORD_SIZE - 24];
};

#define LAYER_NAMES 8
struct mount_record {
    u32 kind;
    u32 mount;
    u32 dev;        /* of the union, as the kernel encodes it: major << 20 | minor */
    u32 top_dev;
    u32 metacopy;
    u32 pid;        /* whose system call made it */
    u32 layers;     /* top included */
    u32 fresh;      /* it was mounted just now */
    char names[LAYER_NAMES][16]; /* file system types of the layers, top first */
    u64 when;
    char rest[RECORD_SIZE - 40 - LAYER_NAMES * 16];
};
