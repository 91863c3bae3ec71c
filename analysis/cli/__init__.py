"""The commands that read traces: report, advise, fleet.  One module each."""
