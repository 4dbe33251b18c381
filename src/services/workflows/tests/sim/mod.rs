//! The engine simulated: clock, sockets, crashes and chance all come from a seed.
//!
//! A world has one server (the real [`Core`](crate::services::workflows::core::Core) on a real database in memory), some workers that run model
//! programs as `docs/workflows.md` tells them to, and a client. Messages take time and connections break;
//! workers die, hang and come back; the server dies between any two commits, and commits fail. Then the faults end, and
//! everything has to come to its end. `check` says what must hold, `program` what the runs do.
//!
//! `VSKI_CASES` worlds are tried from `VSKI_SEED` on; a failure prints its seed.

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
