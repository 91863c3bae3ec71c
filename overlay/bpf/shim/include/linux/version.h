#pragma once
/* bcc chooses by this between helper spellings only; tracing programs are not checked
 * against it since Linux 5.0 (6c4fc209fcf9). */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
