//! Asking the switch.
