//! Which interfaces and addresses this host has, and what changes.
