//! Runs the models. Environment: `ROUNDS`, the orders for each model and scheduler (20,000 by default). A failure
//! prints its schedule, which `shuttle::replay` repeats.

use pointsman_models::{directives, loads, queues};
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::{Config, Runner};

/// Runs a model in random orders, and in orders with few switches between threads, which find other faults (Burckhardt et
/// al., "A randomized scheduler with probabilistic guarantees of finding bugs", ASPLOS 2010).
fn explore(model: fn()) {
    let rounds = std::env::var("ROUNDS").map_or(20_000, |rounds| rounds.parse().expect("ROUNDS is a number"));
    run(RandomScheduler::new(rounds), model);
    run(PctScheduler::new(3, rounds), model);
}

fn run(scheduler: impl Scheduler + 'static, model: fn()) {
    let mut config = Config::new();
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(model);
}

/// A test for each model.
macro_rules! explored {
    ($($group:ident::$model:ident,)*) => {
        $(
            #[test]
            fn $model() {
                explore($group::$model);
            }
        )*
    };
}

explored! {
    loads::a_picker_learns_of_every_change,
    loads::a_change_is_known_although_another_worker_is_marking_the_same_load,
    loads::a_new_picker_learns_of_every_change,
    loads::no_limit_is_exceeded,
    queues::every_client_is_served,
    queues::a_client_that_leaves_delays_no_other,
    queues::a_client_that_cannot_be_served_delays_no_other,
    queues::a_client_waits_only_for_backends_that_have_not_failed_it,
    queues::a_raised_limit_serves_the_clients_that_wait,
    directives::a_connection_follows_the_directives_after_its_snapshot,
}
