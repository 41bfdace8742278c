//! A value that one thread replaces, and that others read only when it has changed.

use std::sync::Arc;
use std::sync::atomic::Ordering::{Acquire, Release};

use crate::sync::{ArcSwapOption, AtomicU32};

/// A value, if there is one, and how often it was set.
///
/// **The version is counted after the value is set; a reader reads the version before the value.** So a reader that has
/// seen the last version has seen the last value. It may see a value twice, and miss one that was replaced at once.
#[derive(Debug)]
pub(super) struct Versioned<T> {
    value: ArcSwapOption<T>,
    version: AtomicU32,
}

impl<T> Default for Versioned<T> {
    /// No value, version 0.
    fn default() -> Self {
        Self { value: ArcSwapOption::default(), version: AtomicU32::new(0) }
    }
}

impl<T> Versioned<T> {
    /// Sets the value. Only one thread may call this.
    pub(super) fn set(&self, value: Option<T>) {
        self.value.store(value.map(Arc::new));
        self.version.fetch_add(1, Release);
    }

    /// How often the value was set; wraps.
    pub(super) fn version(&self) -> u32 {
        self.version.load(Acquire)
    }
}

impl<T: Copy> Versioned<T> {
    /// The value.
    pub(super) fn value(&self) -> Option<T> {
        self.value.load().as_deref().copied()
    }
}
