//! Realtime: clients subscribe to changes of records (RT-1 to RT-5).
//!
//! A change reaches a subscriber if the list rule (for one record the view rule), the field rules and the
//! filter of the subscription admit the record as the change left it; of a deletion, as it was last. Who the
//! subscriber is counts as of that change: a change of an account is taken note of before the changes that
//! were committed after it. Changes of a record come in the order of their commits. What is shown is shown by
//! the same plan as in an answer to a request.
//!
//! The thread `realtime` owns everything: `board` has the connections and what they have subscribed to,
//! `recent` the last minutes of changes, for those who come back, and who waits to be told that nothing is
//! missed; `engine` is the way to the thread, `thread` what that does for connections, `deliver`
//! what it does with a change, `effort` how much of its time whom has cost, `upkeep` what time brings. The thread
//! `realtime-check` looks up who connections are (`checks`). `connection` is what the hub
//! of the sockets calls. Clients speak `frames` over a WebSocket, or the protocol of PocketBase over
//! server-sent events (`topics`). What clients see is in `docs/sockets.md`.

pub use connection::new_client;
pub use engine::Realtime;
pub use thread::SUBS_MAX;
pub use topics::Topic;

mod board;
mod checks;
mod connection;
mod deliver;
mod effort;
mod engine;
mod frames;
mod recent;
mod thread;
mod topics;
mod upkeep;
