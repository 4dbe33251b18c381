//! A simulation of the engine: clock, sockets, crashes and randomness all come from a seed.
//!
//! A world has one server (the real [`Core`](crate::services::workflows::core::Core) on a real
//! database in memory), some workers that run model programs according to `docs/workflows.md`, and
//! a client. Messages take time and connections break; workers die, hang and return; the server
//! dies between any two commits, and commits fail. Then the faults end, and every run must end.
//! `check` has the invariants, `program` the programs.
//!
//! `VSKI_CASES` worlds are simulated, starting with `VSKI_SEED`; a failure prints its seed.

mod check;
mod program;
mod worker;
mod world;

use crate::tests::rng;

#[test]
fn nothing_is_lost_stuck_or_done_twice_whatever_breaks() {
    rng::rounds("nothing_is_lost_stuck", 100, |rng, _| {
        world::World::new(rng.bits()).run();
        1
    });
}
