//! Where a listener's connections go.

use std::sync::Arc;

use litemap::LiteMap;

/// A pool, or several with the share of each.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolShares(LiteMap<Arc<str>, u32>);

impl PoolShares {
    /// The largest share.
    pub const MOST: u32 = 256;

    /// All connections go to that pool.
    pub fn one(pool: Arc<str>) -> Self {
        let mut shares = LiteMap::new();
        shares.insert(pool, 1);
        Self(shares)
    }

    /// Connections are divided in proportion to the shares; `None`: they are all 0.
    pub fn new(shares: LiteMap<Arc<str>, u32>) -> Option<Self> {
        shares.values().any(|share| *share > 0).then_some(Self(shares))
    }

    /// The pool, if there is only one.
    pub fn single(&self) -> Option<&Arc<str>> {
        self.0.keys().next().filter(|_| self.0.len() == 1)
    }

    /// Each pool and its share; a pool of share 0 gets no connection.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, u32)> {
        self.0.iter().map(|(pool, share)| (pool, *share))
    }
}
