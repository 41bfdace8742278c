//! Backends that are refused, whatever their source, because this process listens at their address.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::PoolState;
use crate::domain::{SocketAddress, StateReason};
use crate::own::OwnAddresses;
use crate::pool::input::Effect;
use crate::pool::member::Results;

/// The interval between comparisons with the machine's addresses: short enough to stop a connection loop early, and
/// long enough that querying the kernel costs next to nothing.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

impl PoolState {
    /// Why a backend at that address is refused, if it is.
    pub(super) fn refusal(&self, address: &SocketAddress) -> Option<StateReason> {
        let owner = self.own.owner(address)?.clone();
        Some(StateReason::OwnAddress { address: Some(address.clone()), owner })
    }

    /// The process now listens on other addresses.
    pub(super) fn listens(&mut self, own: Arc<OwnAddresses>, now: Instant, effects: &mut Vec<Effect>) {
        self.own = own;
        for index in 0..self.members.len() {
            self.refuse(index, now, effects);
        }
    }

    /// When to compare the backends with the machine's addresses again; `None`: the result cannot change.
    pub(super) fn own_due(&self, now: Instant) -> Option<Instant> {
        let addresses = self.members.iter().filter(|member| !member.leaving()).map(|m| &m.backend.address);
        let any = addresses.into_iter().any(|address| self.own.may_change(address));
        any.then(|| self.compared.map_or(now, |compared| compared + COMPARE_EVERY))
    }

    /// Compares the backends with the machine's addresses, if that is due.
    pub(super) fn compare_own(&mut self, now: Instant, effects: &mut Vec<Effect>) {
        if self.own_due(now).is_none_or(|due| now < due) {
            return;
        }
        self.compared = Some(now);
        for index in 0..self.members.len() {
            if self.own.may_change(&self.members[index].backend.address) {
                self.refuse(index, now, effects);
            }
        }
    }

    /// Refuses a backend, or accepts it again, by the current addresses.
    fn refuse(&mut self, index: usize, now: Instant, effects: &mut Vec<Effect>) {
        let refusal = self.refusal(&self.members[index].backend.address);
        let checks = self.config.health.len();
        let member = &mut self.members[index];
        if member.leaving() || member.refused == refusal {
            return;
        }
        let before = std::mem::replace(&mut member.refused, refusal);
        match (before.is_some(), member.refused.is_some()) {
            // A check would connect to one of this process's own listeners.
            (false, true) => effects.push(Effect::Uncheck(member.backend.key)),
            (true, false) => {
                member.results = vec![Results::default(); checks];
                member.trial = now;
                if checks > 0 && !member.in_maintenance() {
                    effects.push(Effect::Check(Arc::clone(&member.backend)));
                }
            }
            _ => {}
        }
        self.settle(index, StateReason::OwnAddressReleased, now, effects);
    }
}
