/* A kernel header tree as small as bcc accepts: what its own helpers.h needs and no more.
 * The probes take the layout of kernel structures from BTF (overlay/bpf/btf.py), so nothing
 * here depends on the kernel that runs. */
#pragma once
#define CONFIG_BPF_SYSCALL 1
#define CONFIG_64BIT 1
