//! The open files of the process and what they are for: so many for clients, so many for everything else.

/// Files that a connection needs: one on each side.
const PER_CONNECTION: u64 = 2;
/// Pipes that a worker may have at most, for bursts; and their part of the open files, one in so many.
const PIPES: u64 = 64;
const PART_FOR_PIPES: u64 = 16;
const PER_PIPE: u64 = 2;
/// Where the limit is below what is reserved, one client for so many files is permitted: what is reserved is seldom all in
/// use.
const PART_FOR_CLIENTS: u64 = 16;

/// How many files may be open, and how many of them may be needed beside the clients and the pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Files {
    limit: u64,
    reserved: u64,
    workers: u64,
}

impl Files {
    /// A process that may open `limit` files, of which `reserved` are not for the connections of its `workers`.
    pub fn new(limit: u64, reserved: u64, workers: usize) -> Self {
        Self { limit, reserved, workers: u64::try_from(workers).unwrap_or(u64::MAX).max(1) }
    }

    /// How many may be open.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// How many may be needed beside the clients and the pipes.
    pub fn reserved(&self) -> u64 {
        self.reserved
    }

    /// Pipes of each worker.
    pub fn pipes(&self) -> u64 {
        (self.limit / PART_FOR_PIPES / PER_PIPE / self.workers).min(PIPES)
    }

    /// Clients that may be served at once: those for which the rest is certain to be enough, or a few where nothing is
    /// certain.
    pub fn clients(&self) -> u64 {
        self.certain().max(self.limit / PART_FOR_CLIENTS).max(1)
    }

    /// Clients for which the rest is enough even when everything that files are reserved for is in use.
    pub fn certain(&self) -> u64 {
        let pipes = self.pipes() * PER_PIPE * self.workers;
        self.limit.saturating_sub(self.reserved.saturating_add(pipes)) / PER_CONNECTION
    }

    /// A limit with which there is room for so many clients.
    pub fn needed(&self, clients: u64) -> u64 {
        let rest = clients.saturating_mul(PER_CONNECTION).saturating_add(self.reserved);
        let all_pipes = rest.saturating_add(PIPES * PER_PIPE * self.workers);
        // A sixteenth of it is for pipes, and the rest, rounded up, is enough.
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
        fn with_the_limit_that_is_told_there_is_room_for_the_clients(
            clients in 1u64..2_000_000,
            reserved in 0u64..10_000,
            workers in 1usize..200,
        ) {
            let needed = Files::new(0, reserved, workers).needed(clients);
            // Above it there is room, too.
            for limit in [needed, needed + 1, needed + 31, needed * 2] {
                prop_assert!(Files::new(limit, reserved, workers).certain() >= clients, "{limit}");
            }
            // And it is no more than what the pipes may take above the least.
            prop_assert!(needed <= (clients * PER_CONNECTION + reserved) * 16 / 15 + 1);
        }
    }
}
