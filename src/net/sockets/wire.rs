//! The byte stream below a WebSocket.
//!
//! Reads are bounded per turn, because tungstenite reads on as long as bytes arrive without
//! completing a message (empty fragments never complete one). [`FrameTracker`] follows the frames
//! that are read, because tungstenite does not tell how many bytes of an unfinished message it
//! holds.

use std::io;
use std::io::{Cursor, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

/// Bytes that a socket may read in one turn.
const TURN_BYTES: usize = 64 << 10;

/// A non-blocking connection.
pub struct Wire {
    stream: Arc<TcpStream>,
    /// Bytes that came with the request; read first.
    early: Cursor<Vec<u8>>,
    /// Bytes that may still be read in this turn.
    allowance: usize,
    /// A byte has arrived since this was last cleared.
    pub has_received: bool,
    pub frames: FrameTracker,
}

impl Wire {
    /// `stream` must be non-blocking. `early` is read before it.
    pub fn new(stream: Arc<TcpStream>, early: Vec<u8>) -> Wire {
        Wire {
            stream,
            early: Cursor::new(early),
            allowance: 0,
            has_received: true,
            frames: FrameTracker::default(),
        }
    }

    /// The same stream with a new state. Valid only between two messages, when all bytes read have
    /// been used.
    pub fn reset(&self) -> Wire {
        Wire {
            allowance: self.allowance,
            has_received: self.has_received,
            ..Wire::new(Arc::clone(&self.stream), Vec::new())
        }
    }

    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    pub fn begin_turn(&mut self) {
        self.allowance = TURN_BYTES;
    }

    /// True if reading stopped because the turn is over.
    pub fn is_exhausted(&self) -> bool {
        self.allowance == 0
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(self.allowance);
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let buffer = &mut buffer[..room];
        let mut size = self.early.read(buffer)?;
        if size == 0 {
            self.early = Cursor::default();
            size = (&*self.stream).read(buffer)?;
        }
        self.allowance -= size;
        self.has_received |= size > 0;
        self.frames.track(&buffer[..size]);
        Ok(size)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self.stream).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Follows the frames of a stream (RFC 6455, section 5.2). It does not validate them: tungstenite
/// reports a stream that breaks the rules.
#[derive(Default)]
pub struct FrameTracker {
    head: [u8; 14],
    /// Bytes of the head received so far.
    have: usize,
    /// Bytes of the payload still to arrive.
    left: u64,
    is_fragmented: bool,
    unfinished: u64,
    longest: u64,
}

impl FrameTracker {
    /// Bytes received of the unfinished message.
    pub fn unfinished(&self) -> usize {
        usize::try_from(self.unfinished).unwrap_or(usize::MAX)
    }

    /// Bytes of the longest message so far.
    pub fn longest(&self) -> usize {
        usize::try_from(self.longest).unwrap_or(usize::MAX)
    }

    /// True between two messages: the next byte begins a new one.
    pub fn is_between(&self) -> bool {
        self.have == 0 && !self.is_fragmented
    }

    fn track(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let length = self.head_length();
            if self.have < length {
                let size = bytes.len().min(length - self.have);
                self.head[self.have..self.have + size].copy_from_slice(&bytes[..size]);
                self.have += size;
                bytes = &bytes[size..];
                if self.have < self.head_length() {
                    continue;
                }
                self.left = self.payload_length();
            }
            let size = u64::try_from(bytes.len()).map_or(self.left, |have| have.min(self.left));
            self.left -= size;
            if self.is_data() {
                self.unfinished = self.unfinished.saturating_add(size);
            }
            bytes = &bytes[usize::try_from(size).unwrap_or(bytes.len())..];
            if self.left == 0 {
                self.end_frame();
            }
        }
    }

    fn end_frame(&mut self) {
        self.have = 0;
        if self.is_data() {
            self.is_fragmented = self.head[0] & 0x80 == 0;
            self.longest = self.longest.max(self.unfinished);
            if !self.is_fragmented {
                self.unfinished = 0;
            }
        }
    }

    /// Bytes of the head, as far as they are known from its first two bytes.
    fn head_length(&self) -> usize {
        if self.have < 2 {
            return 2;
        }
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        let extra = match self.head[1] & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        2 + extra + mask
    }

    fn payload_length(&self) -> u64 {
        let extra = match self.head[1] & 0x7f {
            126 => &self.head[2..4],
            127 => &self.head[2..10],
            short => return u64::from(short),
        };
        extra
            .iter()
            .fold(0, |length, byte| length << 8 | u64::from(*byte))
    }

    fn is_data(&self) -> bool {
        self.head[0] & 0x08 == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(first: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![first];
        match payload {
            0..126 => frame.push(0x80 | payload as u8),
            126..65_536 => {
                frame.push(0xfe);
                frame.extend((payload as u16).to_be_bytes());
            }
            _ => {
                frame.push(0xff);
                frame.extend((payload as u64).to_be_bytes());
            }
        }
        frame.extend([1, 2, 3, 4]);
        frame.resize(frame.len() + payload, 0xff);
        frame
    }

    #[test]
    fn frames_are_followed_however_they_are_cut() {
        let parts = [
            (0x81, 3),
            (0x01, 70_000),
            (0x89, 5),
            (0x00, 0),
            (0x80, 200),
            (0x81, 0),
        ];
        let all: Vec<u8> = parts
            .iter()
            .flat_map(|(first, size)| frame(*first, *size))
            .collect();
        for step in [1, 2, 7, 4096, all.len()] {
            let mut frames = FrameTracker::default();
            for piece in all.chunks(step) {
                frames.track(piece);
            }
            assert!(frames.is_between() && frames.unfinished() == 0, "{step}");
            assert_eq!(frames.longest(), 70_200);
        }
    }

    #[test]
    fn what_is_unfinished_is_counted_without_pings() {
        let mut frames = FrameTracker::default();
        frames.track(&frame(0x01, 1000));
        frames.track(&frame(0x89, 100));
        frames.track(&frame(0x80, 500)[..208]);
        assert_eq!(frames.unfinished(), 1200);
        assert!(!frames.is_between());
    }
}
