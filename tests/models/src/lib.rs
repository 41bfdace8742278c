//! The code of the balancer whose rules span several atomics, with what must hold in any order of the threads' steps. `tests/interleavings.rs` runs each model in thousands of orders.
//!
//! The scheduler interleaves sequentially consistent steps and does not explore weaker orders of memory. The loads and the
//! queue use `SeqCst` throughout. A close directive needs less: a reader that sees its version (`Acquire`) sees what was
//! written before it (`Release`).

#![allow(dead_code, missing_docs, reason = "the files are used in part")]

mod sync;

mod balance {
    #[path = "../../../../src/balance/latency.rs"]
    mod latency;
    #[path = "../../../../src/balance/load.rs"]
    mod load;
    pub(crate) use load::{Lease, Load};
    pub mod model;
}

mod pool {
    #[path = "../../../../src/pool/queue.rs"]
    mod queue;
    pub mod queue_model;
    #[path = "../../../../src/pool/versioned.rs"]
    mod versioned;
    pub mod versioned_model;
}

pub use balance::model as loads;
pub use pool::queue_model as queues;
pub use pool::versioned_model as directives;
