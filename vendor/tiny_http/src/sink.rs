//! Bodies that are not collected in memory: where they go instead, piece by piece.
//!
//! New file. A thread in `recv()` feeds a sink with what has arrived of the body, so a slow body costs no thread and a
//! large one no memory beyond one piece. The request is delivered when the body is complete.

use std::any::Any;

/// Where the body of a request goes.
pub enum Destination {
    /// Into memory, up to so many bytes and at most `Limits::body_buffer_max`.
    Memory(usize),
    /// Into this, however long it is.
    Sink(Box<dyn Sink>),
    /// Nowhere: the request is delivered at once, and the connection ends with its answer.
    Unread,
}

/// Counts the memory of a body, all above `Limits::body_free`, and is dropped with the request.
pub trait Meter: Any + Send {
    /// Asks for so many bytes more. False: there are none; the request is delivered without its body, and the connection
    /// ends with its answer. The meter knows why (`Request::take_meter`).
    fn grow(&mut self, bytes: usize) -> bool;
}

/// Takes a body. It is dropped without `Request::take_sink` when the connection breaks in the middle.
pub trait Sink: Any + Send {
    /// Takes the next piece, which is not empty. False: nothing more is wanted; the request is delivered without the rest,
    /// and the connection ends with its answer. The sink knows why.
    fn write(&mut self, piece: &[u8]) -> bool;
}
