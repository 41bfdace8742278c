//! The open files of the process: how many are for clients, and how many are reserved for everything else.

/// Files that a connection needs: one on each side.
const PER_CONNECTION: u64 = 2;
/// The maximum number of pipes per worker, for bursts, and the divisor for their share of the open files.
const PIPES: u64 = 64;
const PART_FOR_PIPES: u64 = 16;
const PER_PIPE: u64 = 2;
/// Where the limit is below the reserve, one client per this many files is permitted: the reserve is rarely used up.
const PART_FOR_CLIENTS: u64 = 16;

/// The open-file limit, and the files that may be needed besides those of clients and pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    limit: u64,
    reserved: u64,
    workers: u64,
}

impl Files {
    /// A process with the open-file limit `limit`, of which `reserved` files are not for the connections of its
    /// `workers`.
    pub fn new(limit: u64, reserved: u64, workers: usize) -> Self {
        Self { limit, reserved, workers: u64::try_from(workers).unwrap_or(u64::MAX).max(1) }
    }

    /// The open-file limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// The files that may be needed besides those of clients and pipes.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Pipes of each worker.
    pub fn pipes(&self) -> u64 {
        (self.limit / PART_FOR_PIPES / PER_PIPE / self.workers).min(PIPES)
    }

    /// The number of clients to serve at once: those for which the files always suffice, or a few if that is none.
    pub fn clients(&self) -> u64 {
        self.certain().max(self.limit / PART_FOR_CLIENTS).max(1)
    }

    /// The clients for which the files suffice even when the whole reserve is in use.
    pub fn certain(&self) -> u64 {
        let pipes = self.pipes() * PER_PIPE * self.workers;
        self.limit.saturating_sub(self.reserved.saturating_add(pipes)) / PER_CONNECTION
    }

    /// A limit with which that many clients fit.
    pub fn needed(&self, clients: u64) -> u64 {
        let rest = clients.saturating_mul(PER_CONNECTION).saturating_add(self.reserved);
        let all_pipes = rest.saturating_add(PIPES * PER_PIPE * self.workers);
        // Pipes take a sixteenth, and the rest, rounded up, suffices.
        let part_for_pipes = rest.saturating_add(rest / (PART_FOR_PIPES - 1)).saturating_add(1);
        all_pipes.min(part_for_pipes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_permitted_never_needs_more_files_than_there_may_be(
            limit in prop_oneof![0u64..5_000, any::<u64>()],
            reserved in 0u64..10_000,
            workers in 0usize..200,
        ) {
            let files = Files::new(limit, reserved, workers);
            let pipes = files.pipes() * PER_PIPE * workers.max(1) as u64;
            if files.certain() > 0 {
                prop_assert!(files.certain() * PER_CONNECTION + pipes + reserved <= limit);
            }
            prop_assert!(files.clients() >= files.certain().max(1));
        }

        #[test]
        fn pipes_take_their_share_of_the_files_up_to_their_maximum(limit in 0u64..1_000_000, workers in 1usize..200) {
            let files = Files::new(limit, 0, workers);
            let taken_by = |pipes: u64| pipes * PER_PIPE * workers as u64;
            prop_assert!(taken_by(files.pipes()) <= limit / PART_FOR_PIPES);
            let one_more_fits = taken_by(files.pipes() + 1) <= limit / PART_FOR_PIPES;
            prop_assert!(files.pipes() == PIPES || !one_more_fits);
        }

        #[test]
        fn the_recommended_limit_suffices_for_the_clients(
            clients in 1u64..2_000_000,
            reserved in 0u64..10_000,
            workers in 1usize..200,
        ) {
            let needed = Files::new(0, reserved, workers).needed(clients);
            // A higher limit suffices, too.
            for limit in [needed, needed + 1, needed + 31, needed * 2] {
                prop_assert!(Files::new(limit, reserved, workers).certain() >= clients, "{limit}");
            }
            // The excess is at most the share of the pipes.
            prop_assert!(needed <= (clients * PER_CONNECTION + reserved) * 16 / 15 + 1);
        }
    }
}
