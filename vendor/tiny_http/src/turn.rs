//! A turn of a connection: its reader works until it has a whole request or nothing more to do.
//!
//! New file. Bounds of a turn: `TURN_BYTES` read, or one request.

use std::sync::Arc;

use crate::connection::Connection;
use crate::reader::Reader;
use crate::request::Request;
use crate::step::{By, Context, Scratch, Step};
use crate::Shared;

/// Most that is read in one turn.
const TURN_BYTES: usize = 256 << 10;

/// A reader at work. If the thread panics in a hook, the connection ends.
struct Turn<'a> {
    shared: &'a Arc<Shared>,
    connection: &'a Arc<Connection>,
    reader: Option<Reader>,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.reader.is_some() {
            self.connection.kill();
            self.shared.registry.remove(self.connection.id);
        }
    }
}

/// Gives a connection its turn. Returns a request if one is whole; then another thread may have the reader already.
pub(crate) fn take_turn(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    mut reader: Reader,
    by: By,
    scratch: &mut Scratch,
) -> Option<Request> {
    reader.borrow_buffer(scratch);
    let mut turn = Turn {
        shared,
        connection,
        reader: Some(reader),
    };
    let mut left = TURN_BYTES;
    loop {
        let reader = turn.reader.as_mut()?;
        let mut context = Context {
            shared,
            connection,
            by,
            piece: &mut scratch.piece,
            left: &mut left,
        };
        let step = match reader.step(&mut context) {
            Ok(Step::Next) => continue,
            Ok(step) => step,
            Err(error) => {
                reader.refuse(error, connection, shared);
                continue;
            }
        };
        let has_more = match step {
            Step::Gone => {
                turn.reader = None;
                shared.registry.remove(connection.id);
                return None;
            }
            Step::Yield => true,
            Step::Request(_) => reader.has_more(),
            _ => false,
        };
        reader.return_buffer(scratch);
        connection.set_due(reader.due_ms(shared));
        let watch = match step {
            Step::Yield => None,
            _ => reader.rewatch(),
        };
        let again = connection.seat.put(turn.reader.take()?);
        if let Some(watch) = watch {
            shared
                .ready
                .rewatch(connection.id, &connection.stream, watch);
        }
        if has_more || (again && matches!(step, Step::Request(_))) {
            connection.call();
        }
        match step {
            Step::Request(request) => return Some(request),
            _ if has_more || !again => return None,
            _ => {}
        }
        let mut reader = connection.seat.take()?;
        reader.expect_anything();
        reader.borrow_buffer(scratch);
        turn.reader = Some(reader);
    }
}
