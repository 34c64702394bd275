//! Wires the parts together, starts them, drains and stops them.
