//! The shared memory of the code whose interleavings are explored: [`balance::load`](crate::balance),
//! [`pool::queue`](crate::pool::queue) and `pool/versioned.rs`.
//!
//! `tests/models` compiles those files with another `sync`, whose operations let a seeded scheduler run another thread first.

pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize};
pub use std::sync::{Mutex, MutexGuard};

pub use arc_swap::ArcSwapOption;
