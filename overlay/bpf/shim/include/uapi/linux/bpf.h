#pragma once
/* bcc brings its own copy of the kernel's bpf.h and maps this name to it. */
#include <linux/types.h>
#include <linux/bpf_common.h>
