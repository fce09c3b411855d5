//! The one place that writes the tables: memory-mapped slots, BPF programs, links and pins.
