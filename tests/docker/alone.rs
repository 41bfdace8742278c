//! Tests that change the engine: no others run beside these. By this module's name they are the first, so that no other test
//! has to end before them.

mod swarm;

use super::*;
