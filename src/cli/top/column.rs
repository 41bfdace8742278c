//! The columns by which the table of `top` can be sorted, and their orders.

use std::cmp::Ordering;

use super::instance_view::BackendRow;

/// The column by which the backends of a pool are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Column {
    #[default]
    Name,
    State,
    Share,
    Open,
    Rate,
    Bytes,
    FirstByte,
    Since,
}

impl Column {
    pub(super) const ALL: [Self; 8] = [
        Self::Name,
        Self::State,
        Self::Share,
        Self::Open,
        Self::Rate,
        Self::Bytes,
        Self::FirstByte,
        Self::Since,
    ];

    /// The next column, after the last one the first.
    pub(super) fn next(self) -> Self {
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or(0);
        Self::ALL[(at + 1) % Self::ALL.len()]
    }

    /// Compares by this column: names in natural order, up backends last, numbers in descending order.
    pub(super) fn compare(self, a: &BackendRow, b: &BackendRow) -> Ordering {
        let order = match self {
            Self::Name => Ordering::Equal,
            Self::State => b.backend.state.is_none().cmp(&a.backend.state.is_none()).then_with(|| {
                // A backend that is not up comes first.
                let rank = |row: &BackendRow| row.backend.state != Some(crate::domain::BackendState::Up);
                rank(b).cmp(&rank(a)).then(a.backend.state.cmp(&b.backend.state))
            }),
            Self::Share => b.share.total_cmp(&a.share),
            Self::Open => b.backend.active.cmp(&a.backend.active),
            Self::Rate => b.rate.total_cmp(&a.rate),
            Self::Bytes => b.bytes.total_cmp(&a.bytes),
            Self::FirstByte => {
                let time = |row: &BackendRow| row.backend.first_byte.map_or(-1.0, |latency| latency.p50_ms);
                time(b).total_cmp(&time(a))
            }
            // The last change first.
            Self::Since => b.backend.since.0.total_cmp(&a.backend.since.0),
        };
        order.then_with(|| a.key.in_order(&b.key))
    }
}
