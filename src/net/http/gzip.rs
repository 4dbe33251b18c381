//! Compressed responses: whether a client accepts them, and the gzip format around flate2's
//! deflate.
//!
//! A compressor has 300 kB of tables. Creating one costs more than compressing most responses, so a
//! few are kept for reuse. Only the fast level is used.

use std::io::Read as _;
use std::sync::Mutex;

use flate2::read::GzDecoder;
use flate2::{Compress, Compression, Crc, FlushCompress, Status};

use crate::base::error::{Error, Result};
use crate::base::threads::lock;

/// Most idle compressors kept for reuse.
const KEPT_MAX: usize = 4;

static KEPT: Mutex<Vec<Compress>> = Mutex::new(Vec::new());

/// A gzip header without name and time: deflate, fastest, unknown system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 4, 255];

/// True if an `Accept-Encoding` value allows gzip.
pub fn is_accepted(accept_encoding: &str) -> bool {
    let mut any = false;
    for item in accept_encoding.split(',') {
        let (name, parameters) = item.split_once(';').unwrap_or((item, ""));
        let refused = parameters
            .split_once('=')
            .is_some_and(|(_, q)| q.trim().parse() == Ok(0.0_f32));
        match name.trim() {
            name if name.eq_ignore_ascii_case("gzip") => return !refused,
            "*" => any = !refused,
            _ => {}
        }
    }
    any
}

/// Compresses bytes as a gzip file. Returns none if that is not shorter.
pub fn compress(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut compressor = lock(&KEPT)
        .pop()
        .unwrap_or_else(|| Compress::new(Compression::fast(), false));
    let compressed = run(&mut compressor, bytes);
    compressor.reset();
    let mut kept = lock(&KEPT);
    if kept.len() < KEPT_MAX {
        kept.push(compressor);
    }
    compressed
}

/// Reads a gzip file that this program has made, whatever its length.
pub fn decompress(gzip: &[u8]) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = GzDecoder::new(gzip).read_to_end(&mut bytes);
    read.map_err(|error| Error::internal(format!("decompress a file of the program: {error}")))?;
    Ok(bytes)
}

fn run(compressor: &mut Compress, bytes: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(&HEADER);
    // The output buffer is as long as the input. If that is too short, compression does not pay.
    let status = compressor.compress_vec(bytes, &mut out, FlushCompress::Finish);
    if !matches!(status, Ok(Status::StreamEnd)) || out.len() + 8 >= bytes.len() {
        return None;
    }
    let mut crc = Crc::new();
    crc.update(bytes);
    out.extend_from_slice(&crc.sum().to_le_bytes());
    out.extend_from_slice(&crc.amount().to_le_bytes());
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(accept_encoding: &str, expected: bool) {
        assert_eq!(is_accepted(accept_encoding), expected, "{accept_encoding}");
    }

    #[test]
    fn the_client_decides() {
        check("gzip, deflate, br", true);
        check("br;q=1.0, GZIP;q=0.5", true);
        check("", false);
        check("identity", false);
        check("gzip;q=0", false);
        check("gzip; q=0.000", false);
        check("*", true);
        check("*;q=0", false);
        check("*, gzip;q=0", false);
        check("xgzip", false);
    }

    #[test]
    fn what_is_compressed_can_be_read_again() {
        let text = "{\"id\":\"0123456789\",\"title\":\"A title\"},".repeat(1000);
        for _ in 0..3 {
            let compressed = compress(text.as_bytes()).unwrap();
            assert!(compressed.len() < text.len() / 10);
            assert_eq!(decompress(&compressed).unwrap(), text.as_bytes());
        }
    }

    #[test]
    fn what_does_not_shrink_is_left_alone() {
        let mut state = 1_u64;
        let noise: Vec<u8> = (0..5000)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                state.to_le_bytes()[7]
            })
            .collect();
        assert_eq!(compress(&noise), None);
        assert!(compress(&[b'a'; 5000]).is_some());
    }
}
