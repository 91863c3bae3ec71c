"""What copyup and lookup cost: bcc/eBPF probes, and the trace files they fill."""
