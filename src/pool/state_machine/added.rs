//! The backends that operators add at run time: a source like any other, the last one, which is never queried. It
//! outlives every reload of the configuration and ends with the pool.

use std::sync::Arc;
use std::time::Instant;

use super::{PoolState, SourceState};
use crate::discovery::{Found, SourceKey};
use crate::domain::{SocketAddress, StateReason};
use crate::own::Owner;
use crate::pool::input::Effect;

/// The limit of backends that operators may add to a pool.
const MOST: usize = 10_000;

/// Why a backend cannot be added.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotAdded {
    /// Another backend has that address; its name.
    AddressTaken(String),
    /// Another backend has that name; its address.
    NameTaken(SocketAddress),
    /// This process listens at that address.
    Own(Owner),
    /// Too many were added.
    TooMany,
}

/// Why a backend cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotRemoved {
    /// These sources report it, so it would return.
    Known(Vec<String>),
    /// There is no such backend.
    NotThere,
}

/// The source before any addition; it counts as answered.
pub(super) fn none() -> (SourceKey, SourceState) {
    (SourceKey::Operator, SourceState { answered: true, ..SourceState::default() })
}

impl PoolState {
    /// Whether an operator can add that backend.
    pub fn addable(&self, found: &Found) -> Result<(), NotAdded> {
        if let Some(owner) = self.own.owner(&found.address) {
            return Err(NotAdded::Own(owner.clone()));
        }
        let living = || self.members.iter().filter(|member| !member.leaving());
        if let Some(same) = living().find(|member| member.backend.address == found.address) {
            return Err(NotAdded::AddressTaken(same.backend.name.to_string()));
        }
        if let Some(same) = living().find(|member| member.backend.name == found.name) {
            return Err(NotAdded::NameTaken(same.backend.address.clone()));
        }
        let added = self.sources.get(&SourceKey::Operator).map_or(0, |source| source.answer.len());
        if added < MOST { Ok(()) } else { Err(NotAdded::TooMany) }
    }

    /// Whether an operator can remove the backend of that key; returns its address.
    pub fn removable(&self, key: u64) -> Result<SocketAddress, NotRemoved> {
        let member = self.index_of(key).map(|index| &self.members[index]).ok_or(NotRemoved::NotThere)?;
        let others = member.sources.keys().filter(|key| **key != SourceKey::Operator);
        let others: Vec<_> = others.map(SourceKey::word).collect();
        if others.is_empty() { Ok(member.backend.address.clone()) } else { Err(NotRemoved::Known(others)) }
    }

    /// An operator adds a backend.
    pub(super) fn add(&mut self, found: &Found, now: Instant, effects: &mut Vec<Effect>) {
        let Some(source) = self.sources.get_mut(&SourceKey::Operator) else { return };
        source.answer.insert(found.address.clone(), found.clone());
        let mut indexes = self.indexes_by_address();
        self.found(&SourceKey::Operator, found, &mut indexes, now, effects);
    }

    /// An operator removes the backend that operators have added at an address.
    pub(super) fn withdraw(
        &mut self,
        address: &SocketAddress,
        by: Arc<str>,
        now: Instant,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(source) = self.sources.get_mut(&SourceKey::Operator) {
            source.answer.remove(address);
        }
        let Some(&index) = self.indexes_by_address().get(address) else { return };
        let member = &mut self.members[index];
        if member.sources.remove(&SourceKey::Operator).is_some() && member.sources.is_empty() {
            self.leave(index, StateReason::RemovedByOperator { by }, now, effects);
        }
    }
}
