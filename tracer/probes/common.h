/* What every backend's probes share: reading kernel fields, and the record that leaves the kernel.
 *
 * The layout of kernel structures comes from the generated part of the program text that
 * stands before this file (tracer/program.py): struct k_NAME for each structure of
 * which a field is read. */
#pragma once
#include <linux/types.h>
#include <linux/ptrace.h>

/* A field of a kernel structure at the untyped address P; zero when it cannot be read. */
#define READ(TYPE, P, FIELD)                                                                     \
    ({                                                                                           \
        typeof(((struct k_##TYPE *)0)->FIELD) v_ = 0;                                            \
        bpf_probe_read_kernel(&v_, sizeof(v_), (void *)(P) + __builtin_offsetof(struct k_##TYPE, FIELD)); \
        v_;                                                                                      \
    })

#define S_IFMT 0170000
#define S_IFREG 0100000
#define S_IFDIR 0040000
#define IS_REG(mode) (((mode) & S_IFMT) == S_IFREG)
#define IS_DIR(mode) (((mode) & S_IFMT) == S_IFDIR)

/* The number of the system call that saved these registers. */
#if defined(__x86_64__)
#define SYSCALL_NR(REGS)                                                                         \
    ({                                                                                           \
        u64 nr_ = 0;                                                                             \
        bpf_probe_read_kernel(&nr_, 8, (void *)(REGS) + __builtin_offsetof(struct pt_regs, orig_ax)); \
        (u32) nr_;                                                                               \
    })
#define NR_MOUNT 165
#else
#define SYSCALL_NR(REGS)                                                                         \
    ({                                                                                           \
        u32 nr_ = 0;                                                                             \
        bpf_probe_read_kernel(&nr_, 4, (void *)(REGS) + __builtin_offsetof(struct pt_regs, syscallno)); \
        nr_;                                                                                     \
    })
#define NR_MOUNT 40
#endif
#define NR_FSOPEN 430
#define NR_FSCONFIG 431
#define NR_MOVE_MOUNT 429

/* Every record has this size, so that user space decodes a whole batch as one array. */
#define RECORD_SIZE 512
#define PATH_IN_RECORD 360
#define CHUNK_BYTES 480

enum record_kind { REC_SPAN = 1, REC_PATH = 2, REC_MOUNT = 3, REC_ATTACH = 4 };

enum span_flags {
    F_DONE = 1,       /* the copyup is complete, the system call may not be */
    F_DATA_ONLY = 2,  /* data for a file whose metadata had gone up before */
    F_CLONED = 4,     /* the file system said that it shared extents */
    F_LONG_PATH = 8,  /* the rest of the path is in REC_PATH records */
    F_METACOPY = 16,  /* the union is mounted with metacopy=on */
    F_UNSEEN = 32,    /* begun without a look at the stack: real if it comes to an end */
};

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

/* Somebody attached a mount: now is the time to look where unions are mounted. */
struct attach_record {
    u32 kind;
    u32 pid;
    char rest[RECORD_SIZE - 8];
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
    u32 pad;
    char names[LAYER_NAMES][16]; /* file system types of the layers, top first */
    char rest[RECORD_SIZE - 32 - LAYER_NAMES * 16];
};
