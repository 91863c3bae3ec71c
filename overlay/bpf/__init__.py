"""BPF programs from C source, on any kernel that describes its types, without its headers."""
