//! Turns the work of the shards into files that appear whole or not at all.
