//! The ports for nodes that share one process.
