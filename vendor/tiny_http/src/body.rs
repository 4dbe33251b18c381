//! Receives a body as it arrives: decodes chunks, and collects it within its own bound and that of its meter or hands it
//! to a sink.
//!
//! New file; replaces upstream's `EqualReader` (whose `drop` allocated what the client announced) and the decoder of
//! the `chunked_transfer` crate. Memory follows the bytes that came, never the length that was announced. Nothing here
//! reads from a socket.

use crate::head::{Framing, Head};
use crate::request::HeadView;
use crate::sink::{Meter, Sink};
use crate::Shared;

/// The reason why a body was not received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BodyError {
    /// Longer than it may be.
    TooLarge,
    /// Its meter has refused more.
    Overloaded,
    /// Its sink wants no more.
    Unwanted,
    /// Not the chunked form.
    Malformed,
}

/// Smallest step by which a buffer grows, unless the body is shorter.
const STEP: usize = 8 << 10;

/// Largest step, so that a growing body never asks for much more than it has.
const STEP_MAX: usize = 256 << 10;

/// A body while it arrives.
pub(crate) struct Receiving {
    coding: Coding,
    target: Target,
}

enum Coding {
    /// So many bytes are missing.
    Sized(u64),
    Chunked(Decoder),
}

pub(crate) enum Target {
    Memory(BodyBuffer),
    Sink(Box<dyn Sink>),
}

impl Receiving {
    pub fn new(framing: Framing, target: Target) -> Receiving {
        let coding = match framing {
            Framing::Length(length) => Coding::Sized(length),
            Framing::Chunked => Coding::Chunked(Decoder::new()),
        };
        Receiving { coding, target }
    }

    pub fn is_done(&self) -> bool {
        match &self.coding {
            Coding::Sized(left) => *left == 0,
            Coding::Chunked(decoder) => decoder.is_done(),
        }
    }

    /// The bytes that certainly belong to the body.
    pub fn left(&self) -> Option<u64> {
        match self.coding {
            Coding::Sized(left) => Some(left),
            Coding::Chunked(_) => None,
        }
    }

    /// Takes what belongs to the body. Returns how much that was.
    pub fn feed(&mut self, input: &[u8], about: &About<'_>) -> Result<usize, BodyError> {
        let target = &mut self.target;
        match &mut self.coding {
            Coding::Sized(left) => {
                let count = (*left).min(input.len() as u64) as usize;
                target.take(&input[..count], *left, about)?;
                *left -= count as u64;
                Ok(count)
            }
            Coding::Chunked(decoder) => {
                decoder.feed(input, |data| target.take(data, u64::MAX, about))
            }
        }
    }

    /// Where the next bytes can be read to without a copy: the spare room of this, if the body has a length and is
    /// collected.
    pub fn room(&mut self, about: &About<'_>) -> Result<Option<&mut Vec<u8>>, BodyError> {
        match (&self.coding, &mut self.target) {
            (Coding::Sized(left), Target::Memory(buffer)) => buffer.room(*left, about).map(Some),
            _ => Ok(None),
        }
    }

    /// Counts what was read to the room. Returns what does not belong to the body.
    pub fn advance(&mut self, count: usize) -> Vec<u8> {
        match (&mut self.coding, &mut self.target) {
            (Coding::Sized(left), Target::Memory(buffer)) => {
                let own = (*left).min(count as u64);
                *left -= own;
                let surplus = count - own as usize;
                buffer.bytes.split_off(buffer.bytes.len() - surplus)
            }
            _ => Vec::new(),
        }
    }

    pub fn into_target(self) -> Target {
        self.target
    }
}

impl Target {
    fn take(&mut self, data: &[u8], left: u64, about: &About<'_>) -> Result<(), BodyError> {
        match self {
            _ if data.is_empty() => Ok(()),
            Target::Memory(buffer) => buffer.append(data, left, about),
            Target::Sink(sink) => match sink.write(data) {
                true => Ok(()),
                false => Err(BodyError::Unwanted),
            },
        }
    }
}

/// The request whose body it is.
pub(crate) struct About<'a> {
    pub head: &'a Head,
    pub peer: std::net::SocketAddr,
    pub shared: &'a Shared,
}

/// A body in memory.
pub(crate) struct BodyBuffer {
    bytes: Vec<u8>,

    // the most that it may become
    most: usize,

    // asked for all above `body_free`; made when that is reached
    meter: Option<Box<dyn Meter>>,
    metered: usize,
}

impl BodyBuffer {
    pub fn new(most: usize) -> BodyBuffer {
        BodyBuffer {
            bytes: Vec::new(),
            most,
            meter: None,
            metered: 0,
        }
    }

    /// The body and its meter.
    pub fn finish(self) -> (Vec<u8>, Option<Box<dyn Meter>>) {
        (self.bytes, self.meter)
    }

    /// Appends some of the `left` bytes that are missing.
    fn append(&mut self, data: &[u8], left: u64, about: &About<'_>) -> Result<(), BodyError> {
        let needed = self.bytes.len() + data.len();
        if needed > self.most {
            return Err(BodyError::TooLarge);
        }
        if needed > self.bytes.capacity() {
            self.grow(data.len(), left, about)?;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The bytes, with room for more of the `left` ones that are missing.
    fn room(&mut self, left: u64, about: &About<'_>) -> Result<&mut Vec<u8>, BodyError> {
        if self.bytes.len() == self.bytes.capacity() {
            self.grow(1, left, about)?;
        }
        Ok(&mut self.bytes)
    }

    /// Makes room for at least so many bytes more.
    fn grow(&mut self, least: usize, left: u64, about: &About<'_>) -> Result<(), BodyError> {
        let step = self.bytes.len().clamp(STEP, STEP_MAX) as u64;
        let size = self.bytes.len() + least.max(step.min(left) as usize);
        let due = size.saturating_sub(about.shared.limits.body_free);
        if due > self.metered {
            let view = HeadView::new(about.head, about.peer);
            let meter = self
                .meter
                .get_or_insert_with(|| (about.shared.hooks.meter)(&view));
            if !meter.grow(due - self.metered) {
                return Err(BodyError::Overloaded);
            }
            self.metered = due;
        }
        self.bytes.reserve_exact(size - self.bytes.len());
        Ok(())
    }
}

/// Digits of a chunk's size: 15 can not overflow.
const DIGITS_MAX: usize = 15;

/// Bytes of a size line with its extensions, or of all trailers.
const LINE_MAX: usize = 256;
const TRAILERS_MAX: usize = 8 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size,
    Extension,
    SizeFeed,
    Data,
    DataReturn,
    DataFeed,
    TrailerStart,
    Trailer,
    TrailerFeed,
    EndFeed,
    Done,
}

/// An incremental decoder of the chunked coding.
pub(crate) struct Decoder {
    state: State,
    size: u64,
    // digits of the size, bytes of the size line, bytes of all trailers
    digits: usize,
    line: usize,
    trailers: usize,
}

impl Decoder {
    pub fn new() -> Decoder {
        Decoder {
            state: State::Size,
            size: 0,
            digits: 0,
            line: 0,
            trailers: 0,
        }
    }

    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads from `input` until it ends or the body does, and hands the data on. Returns how much it has read.
    pub fn feed(
        &mut self,
        input: &[u8],
        mut data: impl FnMut(&[u8]) -> Result<(), BodyError>,
    ) -> Result<usize, BodyError> {
        let mut at = 0;
        while at < input.len() && self.state != State::Done {
            if self.state == State::Data {
                let left = (input.len() - at) as u64;
                let count = self.size.min(left) as usize;
                data(&input[at..at + count])?;
                at += count;
                self.size -= count as u64;
                if self.size == 0 {
                    self.state = State::DataReturn;
                }
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, BodyError> {
        match (self.state, byte) {
            (State::Size, _) => self.size_byte(byte),
            (State::Extension, b'\r') => Ok(State::SizeFeed),
            (State::Extension, _) if is_text(byte) && self.line < LINE_MAX => {
                self.line += 1;
                Ok(State::Extension)
            }
            (State::SizeFeed, b'\n') => Ok(self.after_size()),
            (State::DataReturn, b'\r') => Ok(State::DataFeed),
            (State::DataFeed, b'\n') => Ok(State::Size),
            (State::TrailerStart, b'\r') => Ok(State::EndFeed),
            (State::Trailer, b'\r') => Ok(State::TrailerFeed),
            (State::TrailerStart, _) | (State::Trailer, _)
                if is_text(byte) && self.trailers < TRAILERS_MAX =>
            {
                self.trailers += 1;
                Ok(State::Trailer)
            }
            (State::TrailerFeed, b'\n') => Ok(State::TrailerStart),
            (State::EndFeed, b'\n') => Ok(State::Done),
            _ => Err(BodyError::Malformed),
        }
    }

    fn size_byte(&mut self, byte: u8) -> Result<State, BodyError> {
        match byte {
            b'\r' if self.digits > 0 => Ok(State::SizeFeed),
            b';' if self.digits > 0 => Ok(State::Extension),
            _ => {
                let digit = (byte as char).to_digit(16).ok_or(BodyError::Malformed)?;
                self.digits += 1;
                if self.digits > DIGITS_MAX {
                    return Err(BodyError::Malformed);
                }
                self.size = self.size << 4 | u64::from(digit);
                Ok(State::Size)
            }
        }
    }

    fn after_size(&mut self) -> State {
        self.digits = 0;
        self.line = 0;
        if self.size == 0 {
            State::TrailerStart
        } else {
            State::Data
        }
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= 0x20 && byte != 0x7f)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Decodes the input in pieces of the given size. Returns the data and what was left over.
    fn decode(input: &str, piece: usize) -> Result<(String, usize), BodyError> {
        let mut decoder = Decoder::new();
        let mut out = Vec::new();
        let mut used = 0;
        for part in input.as_bytes().chunks(piece) {
            let count = decoder.feed(part, |data| {
                out.extend_from_slice(data);
                Ok(())
            })?;
            used += count;
            if decoder.is_done() {
                return Ok((String::from_utf8(out).unwrap(), input.len() - used));
            }
        }
        Err(BodyError::TooLarge)
    }

    #[test]
    fn chunks_come_apart_however_they_are_cut() {
        let input = "3\r\nhel\r\nb;x=\"y\"\r\nlo world!!!\r\n0\r\nTrailer: z\r\n\r\nGET";
        for piece in 1..input.len() {
            assert_eq!(
                decode(input, piece),
                Ok(("hello world!!!".to_owned(), 3)),
                "{}",
                piece
            );
        }
        assert_eq!(decode("0\r\n\r\n", 9), Ok((String::new(), 0)));
        assert_eq!(
            decode("00A\r\n0123456789\r\n0\r\n\r\n", 99)
                .unwrap()
                .0
                .len(),
            10
        );
    }

    #[test]
    fn anything_else_is_refused() {
        for input in &[
            "\r\n",
            "-1\r\n",
            "0x5\r\n",
            "5 \r\nhello\r\n",
            " 5\r\nhello\r\n",
            "5\nhello\r\n",
            "5\rhello",
            "5\r\nhelloX\r\n0\r\n\r\n",
            "5\r\nhello\n0\r\n\r\n",
            ";x\r\n",
            "1;\n\r\n",
            "10000000000000000\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
            "0\r\n\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\rX",
        ] {
            assert_eq!(decode(input, 7), Err(BodyError::Malformed), "{:?}", input);
        }
        let long = format!("1;{}\r\nx\r\n0\r\n\r\n", "e".repeat(300));
        assert_eq!(decode(&long, 64), Err(BodyError::Malformed));
        let long = format!("0\r\n{}\r\n", "A: b\r\n".repeat(3000));
        assert_eq!(decode(&long, 64), Err(BodyError::Malformed));
    }
}
