//! Tests that change the engine: only these run at the same time. By this module's name they are the first, so that no other
//! test has to end before them.

mod swarm;

use super::*;
