//! Where the reader of a connection is while no thread reads from it.
//!
//! New file. The reader is a value, and only the thread that has it reads from the socket.
//!
//! Invariants:
//!
//! - The reader is in its seat, or one thread has it, or the connection has ended.
//! - No wake-up is lost: a thread that comes for the reader and finds the seat empty leaves a note, and the thread that
//!   has the reader finds the note when it puts the reader back.

use std::sync::Mutex;

use crate::reader::Reader;
use crate::util::lock;

pub(crate) struct Seat {
    inner: Mutex<Inner>,
}

struct Inner {
    reader: Option<Reader>,

    // something came while the seat was empty
    called: bool,

    // the queue holds a turn for this connection
    queued: bool,
}

impl Seat {
    pub fn new() -> Seat {
        let reader = Some(Reader::new());
        Seat {
            inner: Mutex::new(Inner {
                reader,
                called: false,
                queued: false,
            }),
        }
    }

    /// Takes the reader, to give the connection a turn. If another thread has it, that one will give it another turn.
    pub fn take(&self) -> Option<Reader> {
        let mut inner = lock(&self.inner);
        let reader = inner.reader.take();
        inner.called |= reader.is_none();
        reader
    }

    /// The same for the turn that the queue has held.
    pub fn take_queued(&self) -> Option<Reader> {
        lock(&self.inner).queued = false;
        self.take()
    }

    /// Notes that the queue holds a turn. False: it did so already.
    pub fn queue(&self) -> bool {
        !std::mem::replace(&mut lock(&self.inner).queued, true)
    }

    /// Puts the reader back. True: the connection needs another turn, because something came meanwhile.
    pub fn put(&self, reader: Reader) -> bool {
        let mut inner = lock(&self.inner);
        inner.reader = Some(reader);
        std::mem::take(&mut inner.called)
    }
}
