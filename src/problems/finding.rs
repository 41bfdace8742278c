//! What is wrong at one moment, without the time at which it began.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use crate::domain::{ProblemKind, Severity};

/// What a problem concerns. With its kind it identifies the problem while it lasts.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ProblemSubject {
    /// A pool.
    pub pool: Option<Arc<str>>,
    /// A listener.
    pub listener: Option<Arc<str>>,
    /// A source of backends.
    pub source: Option<Arc<str>>,
}

impl ProblemSubject {
    /// A pool.
    pub(super) fn pool(name: &Arc<str>) -> Self {
        Self { pool: Some(Arc::clone(name)), ..Self::default() }
    }

    /// A listener.
    pub(super) fn listener(name: &Arc<str>) -> Self {
        Self { listener: Some(Arc::clone(name)), ..Self::default() }
    }
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Finding {
    /// Its kind.
    pub kind: ProblemKind,
    /// How bad it is.
    pub severity: Severity,
    /// What it concerns.
    pub subject: ProblemSubject,
    /// When it began, if that is known.
    pub began: Option<SystemTime>,
    /// What is wrong.
    pub sentence: String,
    /// What to do about it.
    pub hint: String,
    /// Its figures.
    pub figures: BTreeMap<&'static str, f64>,
}

impl Finding {
    /// A finding without a known beginning and without figures.
    pub(super) fn new(
        kind: ProblemKind,
        severity: Severity,
        subject: ProblemSubject,
        sentence: impl Into<String>,
        hint: impl Into<String>,
    ) -> Self {
        Self {
            kind,
            severity,
            subject,
            began: None,
            sentence: sentence.into(),
            hint: hint.into(),
            figures: BTreeMap::new(),
        }
    }

    /// The finding with its beginning.
    pub(super) fn since(mut self, began: Option<SystemTime>) -> Self {
        self.began = began;
        self
    }

    /// The finding with figures.
    pub(super) fn with<const N: usize>(mut self, figures: [(&'static str, u64); N]) -> Self {
        self.figures.extend(figures.map(|(name, value)| (name, value as f64)));
        self
    }
}
